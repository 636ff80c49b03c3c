"""Build the package, install the wheel outside the checkout, and use it there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LIBRARY = """
import importlib.metadata as metadata, pathlib, re, sys
import torch
import steepest

home = pathlib.Path(steepest.__file__).parent
assert home.is_relative_to(sys.prefix), f"imported from {home}, not from the wheel"
assert (home / "py.typed").is_file(), "py.typed is missing: type checkers would ignore the package"
assert (home / "apps/diagnose/templates/page.html").is_file(), "the page's template is missing"
required = {
    re.split(r"[^A-Za-z0-9_-]", r)[0] for r in metadata.requires("steepest") if "extra ==" not in r
}
assert required == {"torch", "jaxtyping"}, f"run-time requirements: {required}"

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
before = [p.detach().clone() for p in model.parameters()]
optimizer = steepest.Muon(model, lr=0.02)
model(torch.randn(32, 8)).square().mean().backward()
optimizer.step()
assert all(not torch.equal(b, p) for b, p in zip(before, model.parameters()))
assert all(p.isfinite().all() for p in model.parameters())
print("steepest", metadata.version("steepest"), "from", home)
"""

WITHOUT_EXTRAS = """
import sys
for name in ("typer", "rich", "matplotlib", "tensorboard"):
    sys.modules[name] = None  # as if it were not installed
from steepest.apps.cli import main
main()
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run to the end; stop with the output if the exit code is another."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode != code:
        shown = " ".join(str(c) for c in command)[:200]
        raise SystemExit(f"error: exit code {done.returncode}, wanted {code}: {shown}\n{output}")
    return output


def build(folder: Path) -> Path:
    """The wheel, built from the sdist, so that the sdist is known to be complete."""
    # A stale build/ would smuggle deleted modules into the wheel: build from a clean copy.
    source = folder / "source"
    everywhere = shutil.ignore_patterns(".*", "__pycache__")
    made = {"build", "dist", "site", "runs"}  # in the checkout's root only

    def ignored(folder: str, names: list[str]) -> set[str]:
        return everywhere(folder, names) | (made if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, source, ignore=ignored)
    build_from(source, folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_from(source: Path, folder: Path) -> None:
    """The sdist of a source tree, and the wheel that is built from it, in a folder."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=source)


def install(wheel: Path, folder: Path) -> Path:
    """A fresh environment with the wheel; the folder of its programs."""
    home = folder / "venv"
    venv.create(home, with_pip=False)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel),
        cwd=folder,
    )
    # The requirements come from the environment that runs this file: nothing is downloaded twice.
    # A path in a .pth file does not pull in the .pth files there, so not the editable install.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    borrowed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (Path(site.strip()) / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return programs


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = install(build(folder), folder)
        python = programs / "python"
        print(run(python, "-I", "-c", LIBRARY, cwd=folder).strip())
        help_text = run(programs / "steepest", "--help", cwd=folder)
        if "train" not in help_text:
            raise SystemExit(f"error: `steepest --help` does not name `train`\n{help_text}")
        message = run(python, "-I", "-c", WITHOUT_EXTRAS, cwd=folder, code=2)
        if "pip install '.[train]'" not in message or "Traceback" in message:
            raise SystemExit(
                f"error: without the extra, `steepest` should say how to get it\n{message}"
            )
    print("the wheel works outside the checkout")


if __name__ == "__main__":
    main()
