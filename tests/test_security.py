"""What the sources may not do: run what they read, follow what was planted, print unseen."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "steepest"
SOURCES = sorted(SRC.rglob("*.py"))
PROGRAMS = [*SOURCES, *sorted((ROOT / "tools").rglob("*.py"))]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES += sorted((ROOT / "notebooks").glob("*.ipynb"))

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.startfile", "os.fork", "tempfile.mktemp", "os.mktemp"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads"),
    *("shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads"),
    *("joblib.load", "jsonpickle.decode", "pandas.read_pickle", "torch.package.PackageImporter"),
    *("torch.jit.load", "torch.hub.load", "torch.serialization.add_safe_globals"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "jinja2.Template"),
    *("numpy.lib.format.read_array", "np.lib.format.read_array"),
}
"""Calls that run or unpickle what they are given."""

ALLOWED = {
    ("src/steepest/apps/eject/source.py", "eval"): "a condition in a source file of this package",
    ("src/steepest/apps/eject/source.py", "compile"): "the same condition",
    ("tools/api_extension.py", "eval"): "a default in a signature of this package",
}

UNGUARDED = {
    "_common/cpuinfo.py": "/proc/cpuinfo",
    "apps/reproduce/data/digits.py": "a file of an installed package",
    "apps/train/memory.py": "the limits that Linux names",
}
"""Files that open others without `_common.files`, and what they open."""

PRINTING = {
    "apps/_folder.py": "the note on a file system without locks, made printable",
    "apps/_process.py": "the text of an exit, made printable",
    "apps/_terminal.py": "the one line of an error, made printable",
    "apps/app.py": "the version",
    "apps/cli.py": "the line before anything else can be imported",
}


@cache
def calls(path: Path) -> tuple[tuple[str, ast.Call], ...]:
    """The calls of a file by the name that they are made by."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple((ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call))


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dangerous(path: Path) -> Iterator[str]:
    for name, call in calls(path):
        if name in FORBIDDEN:
            yield name
        if name == "torch.load" and keyword(call, "weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") != "False":
            yield "np.load without allow_pickle=False"
        if keyword(call, "shell") not in (None, "False"):
            yield "shell=True"


def test_nothing_runs_what_it_reads() -> None:
    found = {(short(path), what) for path in PROGRAMS for what in dangerous(path)}
    assert found == ALLOWED.keys()


@pytest.mark.parametrize("module", ["pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"])
def test_no_module_that_unpickles_is_imported(module: str) -> None:
    named = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    assert [short(p) for p in PROGRAMS if named.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("subprocess.run(line, shell=True)", "shell=True"),
        ("os.system(line)", "os.system"),
    ],
)
def test_the_search_finds_each(tmp_path: Path, line: str, what: str) -> None:
    (tmp_path / "file.py").write_text(line, encoding="utf-8")
    assert list(dangerous(tmp_path / "file.py")) == [what]


def test_every_page_loads_checkpoints_as_data() -> None:
    """In text and code alike: a reader copies both."""
    for page in PAGES:
        for found in re.finditer(r"torch\.load\(([^)]*)\)", page.read_text(encoding="utf-8")):
            assert "weights_only=True" in found[1], f"{short(page)}: {found[0]}"


def opens(path: Path) -> Iterator[int]:
    """The lines that read or write a file by its path."""
    methods = ("open", "read_text", "read_bytes", "write_text", "write_bytes")
    for name, call in calls(path):
        base, _, last = name.rpartition(".")
        other = base in ("os", "archive") or (base, last) == ("formatter", "write_text")
        if (name == "open" or (last in methods and base)) and not other:
            yield call.lineno
        given = [ast.unparse(a) for a in call.args]
        if name in ("torch.save", "np.savez", "np.save") and not {"buffer", "file"} & {*given}:
            yield call.lineno
        if last in ("savefig", "to_csv", "tofile") and path.name != "_figures.py":
            yield call.lineno


def test_files_are_opened_in_one_place() -> None:
    """The functions there follow no link and wait for no FIFO."""
    home = SRC / "_common" / "files.py"
    found = {p.relative_to(SRC).as_posix() for p in SOURCES if p != home and any(opens(p))}
    assert found == UNGUARDED.keys()


def test_everything_is_printed_through_one_console() -> None:
    """It shows what a terminal would act on; a column of a bar would read markup."""
    for path in sorted((SRC / "apps").rglob("*.py")):
        name = path.relative_to(SRC).as_posix()
        made = {called for called, _ in calls(path)}
        if name != "apps/_console.py":
            assert not made & {"Console", "TextColumn", "Text.from_markup", "Markdown"}, name
        if name not in PRINTING:
            assert not made & {"print", "typer.secho", "sys.stderr.write"}, name
        if name != "apps/eject/start.py":  # a file that this package has written
            assert "sys.stdout.write" not in made, name


def test_every_figure_leaves_through_one_function() -> None:
    """It takes names as plain text."""
    for path in SOURCES:
        made = {called.rpartition(".")[2] for called, _ in calls(path)}
        assert path.name == "_figures.py" or not made & {"savefig", "print_png"}, short(path)


def test_messages_name_no_package_that_anybody_could_publish() -> None:
    """Nothing is on an index under this name: a message says to install from the checkout."""
    wrong = re.compile(r"pip3? install (-\S+ )*['\"]?steepest\b")
    for path in [*PROGRAMS, *PAGES]:
        if path.name != "CONTRIBUTING.md":  # what to do from the first release on
            found = wrong.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{short(path)}: {found and found[0]}"


def test_the_policy_names_tests_that_exist() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/.]+\.py)`", page))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert "@" not in page, "an address that nobody has given"
