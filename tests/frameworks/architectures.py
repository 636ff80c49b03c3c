"""How routing sees architectures of transformers and timm: a pinned table, and counts over all.

    python -m tests.frameworks.architectures --write     # writes the table anew
    python -m tests.frameworks.architectures --count     # counts guesses over every class

Both need `transformers` and `timm`. Models are built on the meta device, with at most four layers
where their configuration says how many.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from steepest.routing import Assignment, Routing, route
from tests.frameworks import catalog

TABLE = Path(__file__).with_name("architectures.txt")
PACKAGES = ("transformers", "timm")

# Decoders, mixtures of experts, state spaces, encoders, vision, speech, detection, time series.
TRANSFORMERS = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"),
    *("Phi3ForCausalLM", "GPTNeoXForCausalLM", "BloomForCausalLM", "FalconForCausalLM"),
    *("GPTBigCodeForCausalLM", "CodeGenForCausalLM", "MptForCausalLM", "OPTForCausalLM"),
    *("MixtralForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"),
    *("DeepseekV4ForCausalLM", "GlmMoeDsaForCausalLM", "JetMoeForCausalLM"),
    *("SwitchTransformersForConditionalGeneration", "GraniteMoeForCausalLM"),
    *("MambaForCausalLM", "Mamba2ForCausalLM", "JambaForCausalLM", "BambaForCausalLM"),
    *("ZambaForCausalLM", "FalconMambaForCausalLM", "Qwen3NextForCausalLM"),
    *("Qwen3_5ForCausalLM", "Lfm2ForCausalLM", "RwkvForCausalLM", "RecurrentGemmaForCausalLM"),
    *("MiniMaxForCausalLM", "XLNetLMHeadModel", "FunnelForMaskedLM", "BertForMaskedLM"),
    *("DebertaForMaskedLM", "DebertaV2ForMaskedLM", "ModernBertForMaskedLM", "EsmForMaskedLM"),
    *("T5ForConditionalGeneration", "BartForConditionalGeneration", "DiaForConditionalGeneration"),
    *("WhisperForConditionalGeneration", "Wav2Vec2ForCTC", "ASTForAudioClassification"),
    *("ViTForImageClassification", "HieraForImageClassification", "CLIPModel", "BlipModel"),
    *("SiglipModel", "MobileViTV2ForImageClassification", "DetrForObjectDetection"),
    *("DeformableDetrForObjectDetection", "PPDocLayoutV2ForObjectDetection"),
    *("UperNetForSemanticSegmentation", "DPTForDepthEstimation", "CHMv2ForDepthEstimation"),
    *("TimesFmModelForPrediction", "TimesFm2_5ModelForPrediction", "VideoPrismClipModel"),
    *("Qwen3ASRForConditionalGeneration", "KyutaiSpeechToTextForConditionalGeneration"),
)
TIMM = (
    *("vision_transformer", "swin_transformer", "convnext", "resnet", "efficientnet", "levit"),
    *("tiny_vit", "efficientformer", "efficientvit_mit", "selecsls", "inception_resnet_v2"),
    *("byoanet", "mlp_mixer", "coat", "xcit", "volo", "pvt_v2"),
)


def built(package: str, name: str) -> Routing:
    """The routing of one architecture."""
    if package == "timm":
        return route(catalog.build_timm(catalog.timm_modules()[name]))
    return route(catalog.build_transformers(name, catalog.transformers_classes()[name]))


def says(a: Assignment) -> str:
    """What becomes of a parameter: equal matrices together, or its kind; ? for a guess."""
    if a.view is None:
        return a.kind
    counts: Counter[tuple[int, int]] = Counter()
    for count, rows, cols in a.view.shapes(a.shape):
        counts[rows, cols] += count
    sizes = (f"{n} × {r}×{c}" if n > 1 else f"{r}×{c}" for (r, c), n in counts.items())
    return ("" if a.certain else "? ") + " + ".join(sizes)


def lines(package: str, name: str) -> list[str]:
    """The section of one architecture: a line for each kind of parameter with two axes or more."""
    found = [f"{package} {name}"]
    for a in built(package, name):
        if sum(d > 1 for d in a.shape) > 1:
            shape = "×".join(map(str, a.shape))
            found.append(f"    {catalog.collapsed(a.name)} | {shape} | {says(a)}")
    return list(dict.fromkeys(found))


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each architecture in the written table."""
    found: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name = name if line.startswith(" ") else line
            found[name].append(line)
    return found


def version(package: str) -> str:
    """The version that is installed."""
    return importlib.metadata.version(package)


def write() -> None:
    """Write the table of all pinned architectures."""
    out = [f"# {package} {version(package)}" for package in PACKAGES]
    out.append("# parameter | shape | matrices, or what else it is; ? marks a guess")
    for package, names in zip(PACKAGES, (TRANSFORMERS, TIMM), strict=True):
        for name in names:
            out += ["", *lines(package, name)]
    TABLE.write_text("\n".join(out) + "\n", encoding="utf-8")


def guesses(package: str) -> Iterator[tuple[str, str, set[str]]]:
    """For every class: its name, an error in building or routing it, the reasons of its guesses."""
    classes = catalog.timm_modules() if package == "timm" else catalog.transformers_classes()
    for name, key in classes.items():
        try:
            timm = package == "timm"
            model = catalog.build_timm(key) if timm else catalog.build_transformers(name, key)
        except Exception as error:
            yield name, f"not built: {type(error).__name__}", set()
            continue
        try:
            yield name, "", {a.reason for a in route(model).uncertain}
        except Exception as error:
            yield name, f"not routed: {error}", set()


def count(package: str) -> str:
    """How many classes are routed without a guess, and which ones with, by kind of guess."""
    failed: dict[str, list[str]] = defaultdict(list)
    by_reason: dict[str, list[str]] = defaultdict(list)
    routed = guessed = 0
    for name, error, reasons in guesses(package):
        if error:
            failed[error].append(name)
            continue
        routed, guessed = routed + 1, guessed + bool(reasons)
        for reason in reasons:
            by_reason[reason].append(name)
    today = datetime.now(UTC).date()
    out = [f"{package} {version(package)}, {today}: {routed} routed, {guessed} with a guess"]
    for reason, names in sorted({**failed, **by_reason}.items()):
        out.append(f"  {reason}: {len(names)}: {', '.join(names)}")
    return "\n".join(out)


def main() -> None:
    """The command."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the pinned table")
    parser.add_argument("--count", action="store_true", help="count the guesses of every class")
    parser.add_argument("--package", choices=PACKAGES, help="one of the packages only")
    given = parser.parse_args()
    if given.write:
        write()
    for package in (given.package,) if given.package else PACKAGES:
        if given.count:
            sys.stdout.write(count(package) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
