"""The part of an architecture that reads text. Vision checkpoints are scored on text alone, without their towers.

transformers knows three kinds: classes for text; composite configurations for which it has a text-only class (Llama
3.2 Vision, Qwen3.5); and those it builds only whole (Qwen2.5-VL, Qwen3-VL, Gemma 3). Of the last, the towers are taken
out before weights are loaded, so they are neither read nor kept. Knows no files and no image processors.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from psych_ray.compat import causal_model_classes, ignore_weights_on_load, text_decoder, weights_ignored_on_load

# What get_encoder looks for, and what leads from there to the text.
_TOWERS = (
    r"(^|\.)(vision_tower|visual|vision_model|vision_encoder|image_tower|audio_tower|audio_encoder|speech_encoder"
    r"|multi_modal_projector)\."
)


def text_model(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Class that scores text with such a checkpoint, and the configuration to build it with.

    ValueError where transformers has none that predicts the next token.
    """
    model_class = _known_class(config)
    text_config = config.get_text_config(decoder=True)
    if text_config is config:
        return model_class, config
    if model_class.config_class is type(text_config):
        if getattr(config, "quantization_config", None) is not None:
            text_config.quantization_config = config.quantization_config
        config = text_config
    return _without_towers(model_class), config


def decoder_path(model: PreTrainedModel) -> str:
    """Where in a model the part stands that reads text, for example `model.language_model`."""
    decoder = text_decoder(model)
    return next(str(name) for name, module in model.named_modules() if module is decoder)


def is_unused_weight(model: PreTrainedModel, name: str) -> bool:
    """Tell whether a weight belongs to a part that the model was built without, or has no use for."""
    return any(re.search(pattern, name) for pattern in weights_ignored_on_load(model))


def _known_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    candidates = causal_model_classes(config)
    named = [c for c in candidates if c.__name__ in (config.architectures or ())]
    if candidates:
        return (named or candidates)[0]
    raise ValueError(
        f"architecture {', '.join(config.architectures or [config.model_type])}: transformers has no model of it that "
        "predicts the next token of a text"
    )


def _without_towers(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Derive the class whose instances never have the parts that only images, video or sound reach."""

    def __init__(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        model_class.__init__(self, config, *args, **kwargs)
        towers, layers = _towers(self), _cross_attention_layers(self)
        for name in towers:
            parent, _, own_name = name.rpartition(".")
            delattr(self.get_submodule(parent), own_name)
        for name in layers:
            parent, _, own_name = name.rpartition(".")
            setattr(self.get_submodule(parent), own_name, nn.Identity())
        _expect_unused(self, [*towers, *layers])

    # The same name and module: transformers looks up how stored names map to modules by them.
    return type(model_class.__name__, (model_class,), {"__init__": __init__, "__module__": model_class.__module__})


def _towers(model: PreTrainedModel) -> list[str]:
    decoder = text_decoder(model)
    towers = [model.get_encoder(modality=modality) for modality in ("image", "video", "audio")]
    return [
        name
        for name, module in model.named_modules()
        if name and any(module is tower for tower in towers) and all(part is not decoder for part in module.modules())
    ]


def _cross_attention_layers(model: PreTrainedModel) -> list[str]:
    """Layers that look at images only, which Llama 3.2 Vision has among those that read text, and skips for text."""
    indices = getattr(text_decoder(model), "cross_attention_layers", None) or ()
    return [f"{decoder_path(model)}.layers.{index}" for index in indices]


def _expect_unused(model: PreTrainedModel, names: list[str]) -> None:
    """Spare the log the names of weights that were left out on purpose."""
    ignore_weights_on_load(model, {_TOWERS} | {rf"(^|\.){re.escape(name)}\." for name in names})
