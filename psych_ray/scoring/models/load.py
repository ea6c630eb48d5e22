"""Loads a checkpoint's files to a model in memory. CheckpointError where it would not be what its files describe.

transformers initializes weights that a file lacks at random, and ignores weights for which it has no parameter; here
both are errors. Does not depend on tokenizers, adapters or engines.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from psych_ray.checkpoints.cards import CONFIG, is_adapter
from psych_ray.checkpoints.model_config import read_config
from psych_ray.checkpoints.quantization import method_of, require_library
from psych_ray.checkpoints.trust import SETTING
from psych_ray.checkpoints.weight_files import weight_files
from psych_ray.compat.torch import is_connection_lost
from psych_ray.compat.transformers import is_tokenizers_error, silence_bitsandbytes
from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError, ReplicaLostError, first_line
from psych_ray.scoring.memory import LOADING_ADVICE, memory_errors
from psych_ray.scoring.models.text_model import text_model

_LIBRARY_ERRORS = (
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def load_model(
    card: CheckpointCard, directory: Path, scoring: ScoringConfig, *, allow_pickle: bool, partitioned: bool = False
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """Load the weights of a directory to this process's device, and the whole configuration of the checkpoint.

    A weight goes from the mapped file straight to the device: the host never holds a copy of all. `partitioned`: each
    is replaced by a part of it as it is loaded, and the device cannot hold all.
    """
    assert not is_adapter(directory), "transformers would merge it into the weights"
    stored = read_config(directory / CONFIG, code_allowed=card.trust_remote_code)
    quantized = stored.get("quantization_config")
    require_library(card, quantized)
    files = weight_files(directory, allow_pickle=allow_pickle)
    device, dtype = device_of(scoring.device), getattr(torch, scoring.dtype)
    model_class: Any
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": files[0].suffix == ".safetensors"}
    with loading_errors(card, directory):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=card.trust_remote_code)
        if quantized and not AutoHfQuantizer.supports_quant_method(quantized):  # transformers would ignore it
            raise ValueError(
                f"its config.json has quant_method {quantized['quant_method']!r}, which transformers lacks"
            )
        if quantized or card.quantization:
            options |= _quantized_options(card, config, dtype, device)
        elif device.type != "cpu" and not partitioned:
            options["device_map"] = {"": device}
        if card.trust_remote_code and "AutoModelForCausalLM" in stored.get("auto_map", {}):
            model_class, model_config = AutoModelForCausalLM, config
            options["trust_remote_code"] = True
        else:
            model_class, model_config = text_model(config)
        loaded: Any = model_class.from_pretrained(directory, config=model_config, output_loading_info=True, **options)
        model, loading = loaded
        _require_complete(card, loading)
        if quantized or card.quantization:
            _cast_unquantized(model, dtype)
        else:
            _require_all_used(card, model, loading)
            model = model.to(device)
    return model, config


@contextmanager
def loading_errors(card: CheckpointCard, directory: Path) -> Iterator[None]:
    """Raise CheckpointError, one line, for what the libraries raise for unusable files.

    Two are no fault of the files: InsufficientMemoryError, and ReplicaLostError where another rank is gone, which a
    collective of this one reports.
    """
    try:
        with memory_errors(f"{card.id}: out of memory while loading {directory}", LOADING_ADVICE):
            yield
    except _LIBRARY_ERRORS as error:
        if is_connection_lost(error):
            raise ReplicaLostError(f"{card.id}: another rank was lost while loading: {first_line(error)}") from error
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{card.id}: it has modelling code of its own ({directory}/*.py), which is not run by default; "
                f"read that code, then set {SETTING}=[{card.path or card.id}]"
            ) from error
        raise _not_loaded(card, directory, error) from error
    except BaseException as error:
        if not is_tokenizers_error(error):
            raise
        raise _not_loaded(card, directory, error) from error


def _not_loaded(card: CheckpointCard, directory: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{card.id}: cannot be loaded from {directory}: {first_line(error)}")


def device_of(wanted: str) -> torch.device:
    """Device of this process for the setting `scoring.device`."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def _quantized_options(
    card: CheckpointCard, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Options with the device of quantized weights, which cannot be moved later, and the dtype of their products."""
    options: dict[str, Any] = {"device_map": {"": device}}
    silence_bitsandbytes()
    stored = getattr(config, "quantization_config", None)
    if stored and method_of(stored) == "bitsandbytes":
        stored["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    elif not stored and card.quantization == "bnb-8bit":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif not stored:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options


def _cast_unquantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast embeddings, norms and head to `dtype`; transformers keeps the stored dtype in quantized checkpoints."""
    stored: Any = model.config.quantization_config
    if method_of(stored if isinstance(stored, dict) else stored.to_dict()) != "bitsandbytes":
        return  # others have scales among their parameters, which are valid in their own dtype only
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _require_complete(card: CheckpointCard, loading: Mapping[str, Iterable[object]]) -> None:
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in loading.get(what) or ())
        if names:
            raise CheckpointError(
                f"{card.id}: its files do not hold all weights of its architecture ({what.replace('_', ' ')}: "
                f"{_some(names)}); fetch it again"
            )


def _require_all_used(card: CheckpointCard, model: PreTrainedModel, loading: Mapping[str, Iterable[object]]) -> None:
    """Raise CheckpointError for weights that belong to a layer of the model, but that it would ignore.

    A bias that the configuration excludes, or a scale of the other weights of a layer. Whole modules that the
    architecture does not use (towers, heads for other tasks) are ignored.
    """
    modules = dict(model.named_modules())
    names = []
    for name in map(str, loading.get("unexpected_keys") or ()):
        parent, _, own_name = name.rpartition(".")
        module = modules.get(parent)
        if module is not None and any(True for _ in module.parameters(recurse=False)):
            names += [name] if getattr(module, own_name, None) is None else []
    if names:
        raise CheckpointError(
            f"{card.id}: its config.json leaves no parameter for some of its weights ({_some(sorted(names))}), so it "
            "would score as another model; fetch config.json again"
        )


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
