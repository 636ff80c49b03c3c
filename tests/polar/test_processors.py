"""Classes of processor: imitated ones, this one, and the costs that ship for each."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch

from steepest._common.numerics import epsilon
from steepest.polar import Auto, CostTable, polar_express, processors
from steepest.polar._measured import AVX2, AVX2_ONE, AVX512
from steepest.polar._measured_zen import ZEN4, ZEN4_ONE, ZEN5, ZEN5_ONE
from steepest.polar._noise import safe_segments
from steepest.polar.costs import seconds_at
from steepest.polar.processors import (
    QUESTIONS,
    cpu_class,
    cuda_class,
    processor_class,
    shipped_table,
)
from steepest.polar.tables import (
    ACCELERATORS,
    ALONE,
    AMX_GAIN,
    ASSUMED,
    SEVERAL,
    table_of,
)

HOST = torch.device("cpu")
CAPPED = "ONEDNN_MAX_CPU_ISA"


def x86(cpu_name: str, *able: str) -> dict[str, Any]:
    """An x86-64 processor as `torch.cpu.get_capabilities` has it, false ones included."""
    known = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_fp16")
    rest = {"architecture": "x86_64", "cpu_name": cpu_name, "sse2": True, "num_sockets": 1}
    return rest | {name: name in able for name in known}


def arm(cpu_name: str, *able: str) -> dict[str, Any]:
    known = ("fp16_arith", "bf16", "sve", "sve_bf16")
    rest = {"architecture": "aarch64", "cpu_name": cpu_name, "neon": True, "sve_max_length": 16}
    return rest | {name: name in able for name in known}


def label(value: dict[str, Any] | str) -> str:
    """The name of a processor, or the variables of an environment."""
    if isinstance(value, str):
        return value
    return str(value.get("cpu_name") or " ".join(f"{k}={v}" for k, v in value.items()) or "empty")


AVX512_BF16 = ("avx2", "avx512_f", "avx512_bf16")
AMX = (*AVX512_BF16, "amx_tile", "amx_bf16")
NEHALEM = x86("Intel Xeon X5570")
HASWELL = x86("Intel Xeon E5-2690 v3", "avx2")
SKYLAKE_X = x86("Intel Xeon Platinum 8175M", "avx2", "avx512_f")
ICE_LAKE = x86("Intel Xeon Platinum 8375C", "avx2", "avx512_f")
SAPPHIRE_RAPIDS = x86("Intel Xeon Platinum 8488C", *AMX)
WITHOUT_AMX = x86("Intel Xeon Processor (SapphireRapids)", *AVX512_BF16)
ZEN_3 = x86("AMD EPYC 7R13 Processor", "avx2")
ZEN_4 = x86("AMD EPYC 9R14", *AVX512_BF16) | {"family": 25}
ZEN_5 = x86("AMD EPYC", *AVX512_BF16) | {"family": 26}
M1 = arm("Apple M1", "fp16_arith") | {"architecture": "arm64"}
M2 = arm("Apple M2", "fp16_arith", "bf16") | {"architecture": "arm64"}
GRAVITON_2 = arm("ARM Neoverse N1", "fp16_arith")
GRAVITON_3 = arm("ARM Neoverse V1", "fp16_arith", "bf16", "sve", "sve_bf16")
UNNAMED = dict.fromkeys(AVX512_BF16, True)
GRAVITON_4 = arm("ARM Neoverse V2", "fp16_arith", "bf16", "sve", "sve_bf16")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (NEHALEM, "x86"),
        (HASWELL, "avx2"),
        (SKYLAKE_X, "avx512"),
        (ICE_LAKE, "avx512"),
        (SAPPHIRE_RAPIDS, "amx"),
        (WITHOUT_AMX, "avx512"),
        (ZEN_3, "avx2"),
        (ZEN_4, "zen4-bf16"),
        (ZEN_5, "zen5-bf16"),
        (M1, "arm"),
        (M2, "arm-bf16"),
        (GRAVITON_2, "arm"),
        (GRAVITON_3, "arm-bf16"),
        (GRAVITON_4, "arm-bf16"),
        ({"architecture": "ppc64le"}, "unknown"),
        ({"architecture": "AMD64", "avx2": True}, "avx2"),
        ({"avx2": True}, "avx2"),
        ({"neon": True, "bf16": True}, "arm-bf16"),
        # Earlier releases of torch say no more, and /proc/cpuinfo or Windows the vendor.
        ({"architecture": "x86_64", "avx512_f": True, "amx_tile": True}, "avx512"),
        (dict.fromkeys(AVX512_BF16, True) | {"vendor": "AuthenticAMD"}, "zen4-bf16"),
        (dict.fromkeys((*AVX512_BF16, "amx_tile"), True) | {"vendor": "GenuineIntel"}, "amx"),
        (SAPPHIRE_RAPIDS | {"amx_bf16": False}, "avx512"),
        ({}, "unknown"),
    ],
    ids=label,
)
def test_imitated_processors(processor: dict[str, Any], expected: str) -> None:
    assert cpu_class(processor, {}) == expected
    assert expected in SEVERAL


@pytest.mark.parametrize(
    ("processor", "environment", "expected"),
    [
        (ZEN_5, {CAPPED: "AVX2"}, "zen5-avx512"),
        (ZEN_5, {CAPPED: "AVX2_VNNI_2"}, "zen5-avx512"),
        (ZEN_5, {CAPPED: "AVX512_CORE"}, "zen5-avx512"),
        (ZEN_5, {CAPPED: "avx512_core_vnni"}, "zen5-avx512"),
        (ZEN_5, {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, "zen5-avx512"),
        (ZEN_5, {CAPPED: "AVX512_CORE_BF16"}, "zen5-bf16"),
        (ZEN_5, {CAPPED: "AVX512_CORE_AMX"}, "zen5-bf16"),
        # oneDNN takes the new name first, passes by an empty one, overlooks what it cannot read.
        (ZEN_5, {CAPPED: "DEFAULT", "DNNL_MAX_CPU_ISA": "AVX2"}, "zen5-bf16"),
        (ZEN_5, {CAPPED: "", "DNNL_MAX_CPU_ISA": "AVX2"}, "zen5-avx512"),
        (ZEN_5, {CAPPED: "AVX-512"}, "zen5-bf16"),
        (ZEN_3, {CAPPED: "AVX512_CORE_BF16"}, "avx2"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX2"}, "avx512"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX512_CORE"}, "avx512"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX512_CORE_BF16"}, "avx512"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX512_CORE_FP16"}, "avx512"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX10_1_512"}, "avx512"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX512_CORE_AMX"}, "amx"),
        (SAPPHIRE_RAPIDS, {CAPPED: "AVX10_1_512_AMX_FP16"}, "amx"),
        (SAPPHIRE_RAPIDS, {"ATEN_CPU_CAPABILITY": "default"}, "avx512"),
        # ATen makes no products, and with AVX2 it converts as well as with AVX-512.
        (SAPPHIRE_RAPIDS, {"ATEN_CPU_CAPABILITY": "avx2"}, "amx"),
        (ZEN_4, {"ATEN_CPU_CAPABILITY": "default"}, "zen4-avx512"),
        (GRAVITON_3, {"ATEN_CPU_CAPABILITY": "default"}, "arm"),
        (UNNAMED, {"PROCESSOR_IDENTIFIER": "x, AuthenticAMD"}, "zen4-bf16"),
        (UNNAMED, {"PROCESSOR_IDENTIFIER": "AMD64 Family 25 Model 97, AuthenticAMD"}, "zen4-bf16"),
        (UNNAMED, {"PROCESSOR_IDENTIFIER": "AMD64 Family 26 Model 2, AuthenticAMD"}, "zen5-bf16"),
    ],
    ids=label,
)
def test_the_environment_restricts_kernels(
    processor: dict[str, Any], environment: dict[str, str], expected: str
) -> None:
    assert cpu_class(processor, environment) == expected


@pytest.mark.parametrize(
    ("processor", "expected"),
    [(SAPPHIRE_RAPIDS, "avx512"), (ZEN_5, "zen5-avx512"), (ZEN_3, "avx2"), (GRAVITON_3, "arm")],
    ids=label,
)
def test_without_onednn_there_is_no_bfloat16(processor: dict[str, Any], expected: str) -> None:
    assert cpu_class(processor, {}, onednn=False) == expected
    assert not table_of(expected, several=True).bfloat16 or expected == "avx2"


@pytest.mark.parametrize("name", SEVERAL)
def test_no_class_without_bfloat16_lists_a_faster_one(name: str) -> None:
    for several in (True, False):
        table = table_of(name, several=several)
        quicker = [s < seconds_at(table.product, m) for m, s in table.bfloat16]
        assert any(quicker) == (name in ("amx", "zen4-bf16", "zen5-bf16"))


def test_this_host_has_one_class() -> None:
    found = processor_class(HOST)
    assert found in SEVERAL
    assert processor_class(torch.device("cpu", 0)) == found
    before, *_ = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        assert not processor_class(HOST).endswith("bf16") and processor_class(HOST) != "amx"
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before)
    assert processor_class(HOST) == found


def test_the_environment_counts_as_it_is_when_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = processor_class(HOST)
    monkeypatch.setenv(CAPPED, "AVX512_CORE")
    assert processor_class(HOST) == found
    processors._host_class.cache_clear()
    try:
        assert not processor_class(HOST).endswith("bf16") and processor_class(HOST) != "amx"
    finally:
        processors._host_class.cache_clear()


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch has no such list")
@pytest.mark.parametrize("name", QUESTIONS)
def test_the_private_questions_have_the_public_answers(name: str) -> None:
    ask = getattr(torch.cpu, QUESTIONS[name], None)
    if ask is not None:
        assert bool(ask()) == torch.cpu.get_capabilities().get(name, False)


def test_an_earlier_torch_gives_the_same_class(monkeypatch: pytest.MonkeyPatch) -> None:
    public = processors._capabilities()
    expected = cpu_class(public, {})
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name, question in QUESTIONS.items():
        monkeypatch.setattr(torch.cpu, question, partial(public.get, name), raising=False)
    earlier = cpu_class(processors._capabilities(), {})
    # Nothing asks an Arm processor for bfloat16.
    assert earlier == {"arm-bf16": "arm"}.get(expected, expected)
    for question in QUESTIONS.values():
        monkeypatch.delattr(torch.cpu, question, raising=False)
    assert cpu_class(processors._capabilities(), {}) in SEVERAL


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        *(((10, 0), "cuda-bf16"), ((8, 0), "cuda-bf16"), ((7, 5), "cuda-fp16")),
        *(((7, 0), "cuda-fp16"), ((6, 1), "cuda"), ((5, 2), "cuda")),
    ],
)
def test_cuda_by_compute_capability(capability: tuple[int, int], expected: str) -> None:
    assert cuda_class(capability) == expected
    table = table_of(expected, several=True)
    assert [bool(table.float16), bool(table.bfloat16)] == {
        "cuda-bf16": [True, True],
        "cuda-fp16": [True, False],
        "cuda": [False, False],
    }[expected]


def test_a_cuda_device_is_asked_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (7, d.index))
    monkeypatch.setattr(torch.version, "hip", None)
    assert processor_class(torch.device("cuda", 5)) == "cuda-fp16"
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert processor_class(torch.device("cuda", 5)) == "rocm"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "meta", "mps", "xpu"])
def test_a_device_that_is_not_there_has_a_ranking(device: str) -> None:
    ranking = Auto().explain((2, 64, 64), device=device)
    expected = device if device in ACCELERATORS and device != "cuda" else "accelerator"
    assert ranking.processor == expected
    assert ranking.predictions[0].admitted
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("name", ACCELERATORS)
def test_an_accelerator_lists_products_only(name: str) -> None:
    table = table_of(name, several=True)
    assert table == table_of(name, several=False)
    assert not (table.inverse or table.eigh or table.svd)
    assert table.source.startswith(ASSUMED)


@pytest.mark.parametrize("name", [*SEVERAL, *ACCELERATORS])
def test_every_table_says_where_it_is_from(name: str) -> None:
    for several in (True, False):
        table = table_of(name, several=several)
        assert table is table_of(name, several=several)
        assert "measured" in table.source
        assert CostTable.from_json(table.to_json()) == table
        for field in fields(CostTable):
            costs = getattr(table, field.name)
            if isinstance(costs, tuple):
                assert [s for _, s in costs] == sorted(s for _, s in costs), field.name
    if name in SEVERAL and name not in ALONE:
        assert table_of(name, several=False).source.startswith(ASSUMED)


def test_there_is_no_other_class() -> None:
    for several in (True, False):
        with pytest.raises(KeyError):
            table_of("zen", several=several)


def test_derived_costs_go_through_what_was_measured() -> None:
    found = (("zen4", True, ZEN4), ("zen4", False, ZEN4_ONE), ("zen5", True, ZEN5))
    for kind, several, measured in (*found, ("zen5", False, ZEN5_ONE)):
        names = (f"{kind}-bf16", f"{kind}-avx512")
        zen, narrow = (table_of(name, several=several) for name in names)
        assert zen is measured and zen.bfloat16
        assert (narrow.product, narrow.inverse, narrow.bfloat16) == (zen.product, zen.inverse, ())
    amx = table_of("amx", several=True)
    assert (amx.product, amx.inverse, amx.eigh) == (AVX512.product, AVX512.inverse, AVX512.eigh)
    gains = [seconds_at(amx.product, m) / s for m, s in amx.bfloat16]
    assert gains == pytest.approx(sorted(gains))
    assert gains[0] == pytest.approx(1.0) and gains[-1] == pytest.approx(AMX_GAIN)


def test_one_thread_is_to_two_as_where_both_were_measured() -> None:
    assert table_of("avx2", several=True) is AVX2 and table_of("avx2", several=False) is AVX2_ONE
    amx, one = (table_of("amx", several=several) for several in (True, False))
    for m in (64, 768):
        expected = seconds_at(AVX2_ONE.inverse, m) / seconds_at(AVX2.inverse, m)
        assert seconds_at(one.inverse, m) / seconds_at(amx.inverse, m) == pytest.approx(expected)
        expected = seconds_at(AVX2_ONE.product, m) / seconds_at(AVX2.product, m)
        assert seconds_at(one.bfloat16, m) / seconds_at(amx.bfloat16, m) == pytest.approx(expected)


def test_the_number_of_threads_decides_which_table() -> None:
    threads = torch.get_num_threads()
    try:
        tables = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            tables.append(shipped_table(HOST))
    finally:
        torch.set_num_threads(threads)
    assert tables[0] != tables[1] == tables[2]
    assert tables[1] == table_of(processor_class(HOST), several=True)


LIMIT = 1.1
SIZES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)


def published(table: CostTable, m: int, n: int) -> dict[str, float]:
    """Predicted seconds of the published methods for an m × n matrix, m ≤ n.

    A step in standard form is XXᴴ, its square and a product with X; see `GramNewtonSchulz` for the
    Gram form.
    """
    standard = 5 * (1 + 2 * n / m)
    parts = safe_segments(polar_express(5), epsilon(torch.float32))
    gram = sum(4 * length - 3 for length in parts) + 2 * len(parts) * n / m
    found = {
        "Polar Express": standard * seconds_at(table.product, m),
        "Polar Express, Gram": gram * seconds_at(table.product, m),
    }
    if table.bfloat16:
        found["Jordan in bfloat16"] = standard * seconds_at(table.bfloat16, m)
    return found


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("name", [*SEVERAL, *ACCELERATORS])
def test_the_choice_is_predicted_as_fast_as_what_is_published(name: str, several: bool) -> None:
    table = table_of(name, several=several)
    auto = Auto(error=0.05, table=table)
    slower = {}
    for m in SIZES:
        for n in (m, 2 * m, 4 * m):
            rival, least = min(published(table, m, n).items(), key=lambda pair: pair[1])
            ratio = auto.explain((m, n)).predictions[0].seconds / least
            if ratio > LIMIT:
                slower[m, n, rival] = ratio
    assert not slower
