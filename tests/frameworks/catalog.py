"""The model classes of transformers and the modules of timm, built on the meta device."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# The tasks whose classes are counted: one class for each of most architectures.
TASKS = (
    *("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION"),
    *("SPEECH_SEQ_2_SEQ", "AUDIO_CLASSIFICATION", "ZERO_SHOT_IMAGE_CLASSIFICATION"),
    *("OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "IMAGE_TEXT_TO_TEXT", "CTC"),
    *("DEPTH_ESTIMATION", "TIME_SERIES_PREDICTION"),
)
DEPTHS = (
    *("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layer"),
    *("n_layers", "num_encoder_layers", "num_decoder_layers"),
)
DEPTH = 4
# What a class needs beyond the defaults of its configuration.
NEEDED: dict[str, dict[str, Any]] = {
    "AyaVisionForConditionalGeneration": {"vision_config": {"num_attention_heads": 16}},
    "BeitForSemanticSegmentation": {"out_indices": [3, 5, 7, 11]},
    "EsmForMaskedLM": {"vocab_size": 33},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 128},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 128},
    "MinistralForCausalLM": {"head_dim": 128},
    "NemotronForCausalLM": {"num_key_value_heads": 8},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "Wav2Vec2BertForCTC": {"vocab_size": 32},
    "Wav2Vec2ConformerForCTC": {"vocab_size": 32},
}


def transformers_classes() -> dict[str, str]:
    """Every class of the tasks, with the type of its configuration, in alphabetical order."""
    auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    found: dict[str, str] = {}
    for task in TASKS:
        for key, names in getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            found.setdefault(names if isinstance(names, str) else names[0], key)
    return dict(sorted(found.items()))


def timm_modules() -> dict[str, str]:
    """The first model of each module of timm, by the module's name."""
    timm: Any = importlib.import_module("timm")
    return {module: timm.list_models(module=module)[0] for module in sorted(timm.list_modules())}


def _shallow(config: Any, below: int = 2) -> Any:
    """The configuration with fewer layers, where it says how many, and those inside it too."""
    for name in DEPTHS:
        if isinstance(config.__dict__.get(name), int) and config.__dict__[name] > DEPTH:
            with contextlib.suppress(Exception):
                setattr(config, name, DEPTH)
    for inner in list(config.__dict__.values()):
        if below and hasattr(inner, "to_diff_dict"):
            _shallow(inner, below - 1)
    return config


def _configs(name: str, key: str) -> Iterator[Any]:
    """Configurations to try: shallow ones first, and the text part where a class is of it."""
    transformers: Any = importlib.import_module("transformers")
    auto: Any = importlib.import_module("transformers.models.auto.configuration_auto")
    kind = auto.CONFIG_MAPPING[key]
    needed = NEEDED.get(name, {})
    yield _shallow(kind(**needed))
    yield kind(**needed)
    own = getattr(transformers, name).config_class
    if own is not None and own is not kind:
        yield _shallow(own(**needed))
    yield _shallow(kind(**needed).get_text_config(decoder=True))


def build_transformers(name: str, key: str) -> nn.Module:
    """A model of the class on the meta device, its weights tied.

    Raises:
        Exception: what the class says to the first configuration, if it takes none.
    """
    transformers: Any = importlib.import_module("transformers")
    errors: list[Exception] = []
    configs = _configs(name, key)
    while True:
        try:
            config = next(configs)
            with torch.device("meta"):
                model: nn.Module = getattr(transformers, name)(config)
        except StopIteration:
            raise errors[0] from None
        except Exception as error:
            errors.append(error)
            if len(errors) > 5:
                raise errors[0] from None
        else:
            with contextlib.suppress(Exception):
                model.tie_weights()  # type: ignore[operator]
            return model


def build_timm(name: str) -> nn.Module:
    """A model of timm on the meta device."""
    timm: Any = importlib.import_module("timm")
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model


def collapsed(name: str) -> str:
    """The name with every number of a layer left out."""
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "#", name)
