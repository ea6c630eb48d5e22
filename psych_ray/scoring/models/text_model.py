"""The text model of an architecture. Vision checkpoints are scored on text alone, without their towers.

transformers has three kinds: classes for text; composite configurations with a text-only class (Llama 3.2 Vision,
Qwen3.5); and composite configurations without one (Qwen2.5-VL, Qwen3-VL, Gemma 3). Of the last, the towers are removed
before weights are loaded, so they are neither read nor kept. Does not depend on files or image processors.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from psych_ray.compat.transformers import (
    causal_model_classes,
    ignore_weights_on_load,
    text_decoder,
    weights_ignored_on_load,
)

# Towers as `get_encoder` finds them, and their projections to the text model.
_TOWERS = (
    r"(^|\.)(vision_tower|visual|vision_model|vision_encoder|image_tower|audio_tower|audio_encoder|speech_encoder"
    r"|multi_modal_projector)\."
)


def text_model(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Class that predicts text with such a checkpoint, and the configuration to build it with.

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
    """Name of the module that is the decoder of a model, for example `model.language_model`."""
    decoder = text_decoder(model)
    return next(str(name) for name, module in model.named_modules() if module is decoder)


def is_unused_weight(model: PreTrainedModel, name: str) -> bool:
    """Whether a stored weight belongs to a part that the model was built without, or does not use."""
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
    """Derive a class without the modules that only images, video or sound pass through."""

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

    # The same name and module: by them transformers finds how stored names map to modules.
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
    """Layers that attend to images only: Llama 3.2 Vision has them in its decoder, and skips them for text."""
    indices = getattr(text_decoder(model), "cross_attention_layers", None) or ()
    return [f"{decoder_path(model)}.layers.{index}" for index in indices]


def _expect_unused(model: PreTrainedModel, names: list[str]) -> None:
    """Keep the names of weights that are ignored on purpose out of the log."""
    ignore_weights_on_load(model, {_TOWERS} | {rf"(^|\.){re.escape(name)}\." for name in names})
