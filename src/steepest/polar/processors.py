"""The class of processor that a device is, and the costs that ship for it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from steepest._common.cpuinfo import cpu_entries
from steepest.polar.costs import CostTable
from steepest.polar.tables import table_of

X86 = ("x86_64", "amd64", "x86", "i386", "i686")
ARM = ("aarch64", "arm64", "arm64e", "arm")

# oneDNN reads the first of these that is set, in any case, and overlooks a value it does not know:
# its "CPU dispatcher control" and getenv_string_user. It makes the bfloat16 products.
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

# The values that exclude AVX512_BF16, by the partial order in "CPU dispatcher control".
BELOW_BF16 = frozenset(
    ["sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"],
)

# Those that exclude AMX, likewise.
BELOW_AMX = BELOW_BF16 | frozenset(
    ["avx512_core_bf16", "avx512_core_fp16", "avx10_1_512", "avx10_2", "avx10_2_512"]
)

# The family of Zen 5, by its own identification; Zen 4 shares 25 with Zen 3.
ZEN_5_FAMILY = 26

# What torch can be asked before it has `torch.cpu.get_capabilities`. Private, so each may be
# missing; tests/polar/test_processors.py compares them with the public ones where both are there.
QUESTIONS = {
    "avx2": "_is_avx2_supported",
    "avx512_f": "_is_avx512_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_tile": "_is_amx_tile_supported",
}


def cpu_class(
    capabilities: Mapping[str, Any], environment: Mapping[str, str], *, onednn: bool = True
) -> str:
    """The class of a CPU: what it can do, less what the environment forbids its kernels.

    MKL, which makes float32 products and decompositions, takes its AVX2 way on any AMD processor,
    so these are classes of their own where they have AVX-512. bfloat16 counts where oneDNN has fast
    products in it: by AMX, or by AVX512_BF16 on an AMD one. Intel's AVX512_BF16 without AMX was
    measured at 0.6 times the speed of float32.

    Args:
        capabilities: those that `torch.cpu.get_capabilities` lists, and a "vendor" and "family" as
            in /proc/cpuinfo; any may be missing.
        environment: the variables of the process.
        onednn: whether torch has oneDNN and uses it.

    Examples:
        >>> epyc = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True}
        >>> epyc |= {"cpu_name": "AMD EPYC", "family": 26}
        >>> cpu_class(epyc, {})
        'zen5-bf16'
        >>> cpu_class(epyc, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})
        'zen5-avx512'
    """
    able = {name for name, value in capabilities.items() if value is True}
    architecture = str(capabilities.get("architecture", "")).lower()
    # Without vector kernels ATen takes longer over a sum in bfloat16 than oneDNN over a product:
    # 1.8 and 1.05 ms for 768 × 768, measured on Zen 3 and on Zen 5.
    usable = onednn and environment.get("ATEN_CPU_CAPABILITY") != "default"
    if architecture in ARM or (not architecture and "neon" in able):
        return "arm-bf16" if usable and able & {"bf16", "sve_bf16"} else "arm"
    if architecture not in X86 and not (not architecture and able & {"sse2", "avx2", "avx512_f"}):
        return "unknown"
    limit = next(filter(None, (environment.get(name, "") for name in ISA_LIMITS)), "").lower()
    if "avx512_f" in able:
        bf16 = usable and "avx512_bf16" in able and limit not in BELOW_BF16
        if _is_amd(capabilities, environment):
            return f"{_zen(capabilities, environment)}-{'bf16' if bf16 else 'avx512'}"
        amx = "amx_tile" in able and capabilities.get("amx_bf16", True)
        return "amx" if bf16 and amx and limit not in BELOW_AMX else "avx512"
    return "avx2" if "avx2" in able else "x86"


def _is_amd(capabilities: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether AMD made it; Windows says so in the environment."""
    vendor = capabilities.get("vendor") or environment.get("PROCESSOR_IDENTIFIER", "")
    return "AuthenticAMD" in vendor or str(capabilities.get("cpu_name", "")).startswith("AMD")


def _zen(capabilities: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The kind of an AMD processor with AVX-512: "zen5" from family 26 on, "zen4" if none is known.

    Zen 4 carries out an instruction of 512 bits in two halves and multiplies in bfloat16 at less
    than half the speed.
    """
    named = re.search(r"Family (\d+)", environment.get("PROCESSOR_IDENTIFIER", ""))
    family = capabilities.get("family") or (named and named[1]) or 0
    return "zen5" if int(family) >= ZEN_5_FAMILY else "zen4"


def cuda_class(capability: tuple[int, int]) -> str:
    """The class of a CUDA device by its compute capability.

    Matrix units for float16 came with 7.0, for bfloat16 with 8.0 (CUDA C++ Programming Guide,
    "Compute capabilities").

    Examples:
        >>> cuda_class((9, 0)), cuda_class((7, 5)), cuda_class((6, 1))
        ('cuda-bf16', 'cuda-fp16', 'cuda')
    """
    major, _ = capability
    return "cuda-bf16" if major >= 8 else "cuda-fp16" if major == 7 else "cuda"


def processor_class(device: torch.device) -> str:
    """The class of processor that a device is, by which `Auto` takes its costs.

    A CPU is asked once in a process, and the environment read once: its libraries too read it when
    they start. A CUDA device is asked for its compute capability, which initialises CUDA; where
    there is none, it is "accelerator".

    Args:
        device: the device; nothing is allocated there.

    Returns:
        One of the names that the page on polar factors lists, such as "amx" or "cuda-bf16".

    Examples:
        >>> processor_class(torch.device("meta"))
        'accelerator'
    """
    if device.type == "cpu":
        return _host_class(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)
    if device.type == "cuda" and torch.cuda.is_available():
        hip = torch.version.hip is not None
        return "rocm" if hip else cuda_class(torch.cuda.get_device_capability(device))
    return device.type if device.type in ("mps", "xpu") else "accelerator"


def shipped_table(device: torch.device) -> CostTable:
    """The costs that ship for the class of a device, and for one or several threads of a CPU."""
    return table_of(processor_class(device), several=torch.get_num_threads() > 1)


@cache
def _host_class(onednn: bool) -> str:
    return cpu_class(_capabilities(), os.environ, onednn=onednn)


def _capabilities() -> dict[str, Any]:
    """The capabilities of the host, from torch, and what a file of Linux says of its maker."""
    # torch 2.13 has it, earlier ones may not.
    public = getattr(torch.cpu, "get_capabilities", None)
    found: dict[str, Any] = dict(public()) if public else _asked()
    entries = cpu_entries()
    if vendor := entries.get("vendor_id"):
        found["vendor"] = vendor
    if (family := entries.get("cpu family", "")).isdecimal():
        found["family"] = int(family)
    return found


def _asked() -> dict[str, Any]:
    """The answers of an earlier torch; ATen's own level where it knows no better."""
    level = torch.backends.cpu.get_cpu_capability()
    found: dict[str, Any] = {"architecture": platform.machine()}
    found |= {"avx2": level in ("AVX2", "AVX512"), "avx512_f": level == "AVX512"}
    for name, question in QUESTIONS.items():
        ask = getattr(torch.cpu, question, None)
        if ask is not None:
            found[name] = bool(ask())
    return found
