"""Private and undocumented interfaces of transformers, and of tokenizers and bitsandbytes, with which it loads.

transformers and torch are imported inside the functions that use them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psych_ray.compat.environment import environment

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


def text_decoder(model: PreTrainedModel) -> Any:
    """Decoder of a model: the part that turns token ids into hidden states.

    `get_decoder` returns the model itself for some classes, among them the text classes of Llama 3.2 Vision and
    Llama 4; the decoder is then its `model` (transformers 5.23).
    """
    decoder: Any = model.get_decoder()
    return getattr(model, "model", decoder) if decoder is model else decoder


def causal_model_classes(config: PretrainedConfig) -> list[type[PreTrainedModel]]:
    """Classes that predict the next token for a configuration, text-only ones first; empty where there are none.

    The mappings behind the auto classes, which give a class without an instance (transformers 5.23).
    """
    from transformers.models.auto import modeling_auto

    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    ):
        found: Any = mapping.get(type(config), None)
        if found:
            return list(found) if isinstance(found, tuple | list) else [found]
    return []


def render_chat_template(
    source: str, turns: list[dict[str, str]], options: Mapping[str, Any], *, generation_prompt: bool
) -> str:
    """Render a chat template without a tokenizer; `options` are its other variables, special tokens among them.

    What `apply_chat_template` calls. It needs no torch, so a process for it alone is small (transformers 5.23).
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        [turns], chat_template=source, add_generation_prompt=generation_prompt, **options
    )
    text: str = rendered[0][0]
    return text


def weights_ignored_on_load(model: PreTrainedModel) -> set[str]:
    """Patterns of names of stored weights that a model does not use and does not report (transformers 5.23)."""
    return set(model._keys_to_ignore_on_load_unexpected or ())


def ignore_weights_on_load(model: PreTrainedModel, patterns: set[str]) -> None:
    """Add to `weights_ignored_on_load`."""
    model._keys_to_ignore_on_load_unexpected = weights_ignored_on_load(model) | patterns


@contextmanager
def load_weights_one_by_one() -> Iterator[None]:
    """Within the context, transformers does not read weights ahead, which would hold all of them in memory.

    An environment variable that its documentation does not list (transformers 5.23).
    """
    with environment({"HF_DEACTIVATE_ASYNC_LOAD": "1"}):
        yield


def is_tokenizers_error(error: BaseException) -> bool:
    """Whether an exception is one of the tokenizers library, which has no type of its own for them.

    It raises `Exception` itself for a file that it cannot read, and where it panics, pyo3's PanicException, which is no
    Exception and can be imported from nowhere (tokenizers 0.22).
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"


def copy_load_marks(source: nn.Parameter, target: nn.Parameter) -> None:
    """Mark a parameter as loaded where `source` is: an unmarked one is initialized anew (transformers 5.23)."""
    vars(target).update(vars(source))


def conversion_errors(error: BaseException) -> str:
    """What went wrong while transformers converted stored weights, empty if nothing did.

    It collects these errors, out of memory among them, prints a report, and raises a RuntimeError that says only that
    there were some; they are in the frame that raises it (transformers 5.23, `log_state_dict_report`).
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    found = getattr(trace.tb_frame.f_locals.get("loading_info"), "conversion_errors", None) if trace else None
    return " ".join(map(str, found.values())) if found else ""


def restore_embedding_scale(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Set the scale of an embedding, if the module is one that has it, to its exact value in `dtype`.

    Gemma's is a buffer, rounded to the dtype that the model was built in; the exact number is an attribute
    (transformers 5.23).
    """
    import torch

    scale = getattr(module, "scalar_embed_scale", None)
    if scale is not None:
        module.embed_scale = torch.nn.Buffer(torch.tensor(scale, dtype=dtype, device=device), persistent=False)


def sdpa_attention(*args: Any, **kwargs: Any) -> Any:
    """The attention that transformers registers as "sdpa" (transformers 5.23)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*args, **kwargs)


def sdpa_mask(*args: Any, **kwargs: Any) -> Any:
    """The mask that belongs to `sdpa_attention` (transformers 5.23)."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def silence_bitsandbytes() -> None:
    """Drop its warning, for every layer and pass, that inputs are cast."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
