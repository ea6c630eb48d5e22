"""LoRA adapters on a base that is loaded once; every call of an engine activates its own adapter.

The engines of the base and of its adapters share the base's weights, which do not change: an adapter adds layers beside
them. Adapters that change the base itself raise CheckpointError. Imports peft only when an adapter is loaded.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, read_json
from psych_ray.checkpoints.weight_files import ADAPTER, weight_files
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.base import Engine, Query, TokenScores
from psych_ray.scoring.models.load import loading_errors
from psych_ray.scoring.models.text_model import decoder_path, is_unused_weight

# Adapters of vision checkpoints are trained on the whole model or on its text model, and name their weights by it.
_OF_TEXT = re.compile(r"^base_model\.model\.(model\.)?(language_model\.)?(model\.)?(?=(layers|embed_tokens|norm)\.)")
# Initializations that do not change the base's weights. Others subtract the adapter's initial product from them.
_INITIALIZATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


class SharedBase:
    """A loaded base and the adapters that were added to it, in place, of which one or none is active."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._head = model.get_output_embeddings()
        self._peft: Any = None
        self._active: str | None = None
        self._lock = threading.RLock()

    def add(self, card: CheckpointCard, directory: Path) -> str:
        """Add an adapter that `require_adapter` accepted, inactive; returns the name to activate it by.

        CheckpointError where the weights in its files and the base's layers do not match exactly.
        """
        peft: Any = importlib.import_module("peft")
        name = f"adapter_{len(self._peft.peft_config) if self._peft else 0}"
        with self._lock, loading_errors(card, directory):
            config = peft.LoraConfig.from_pretrained(directory, inference_mode=True)
            config.init_lora_weights = False  # all of them are read from the files
            if self._peft is None:
                self._peft = peft.PeftModel(self.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
            weights = peft.load_peft_weights(str(directory), device="cpu")
            prefix = f"base_model.model.{decoder_path(self.model)}."
            weights = {_OF_TEXT.sub(prefix, key): weight for key, weight in weights.items()}
            loaded = peft.set_peft_model_state_dict(self._peft, weights, adapter_name=name)
            missing = [key for key in loaded.missing_keys if f".{name}." in f"{key}."]
            unexpected = [key for key in loaded.unexpected_keys if not is_unused_weight(self.model, key)]
            _require_fit(card, missing, unexpected)
            self.model.eval()
            self._peft.base_model.disable_adapter_layers()  # peft activates what it adds
            self._active = None
        return name

    def changes_head(self, name: str) -> bool:
        """Whether an adapter changes how hidden states become logits."""
        head: Any = self.model.get_output_embeddings()
        return head is not self._head and any(f".{name}." in f".{key}." for key in head.state_dict())

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Within the context one adapter is active, or with None none, as the base was loaded; one thread at a time.

        Which one was active before is so again afterwards.
        """
        with self._lock:
            before = self._active
            self._switch(name)
            try:
                yield
            finally:
                self._switch(before)

    def _switch(self, name: str | None) -> None:
        if name == self._active:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)
        self._active = name


class AdapterEngine:
    """An engine on a shared base that scores with one adapter active, or with none."""

    def __init__(self, engine: Engine, shared: SharedBase, adapter: str | None) -> None:
        self.name = engine.name
        self._engine = engine
        self._shared = shared
        self._adapter = adapter

    @property
    def model(self) -> PreTrainedModel:
        """The shared base, with no adapter active."""
        return self._shared.model

    @property
    def batch_tokens(self) -> int:
        """As of the engine."""
        return self._engine.batch_tokens

    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Likelihoods of the scored tokens under this adapter."""
        with self._shared.active(self._adapter):
            return self._engine.score(batch)

    def around(self, engine: Engine) -> AdapterEngine:
        """Wrap another engine on the same model, to compare the two under the same adapter."""
        return AdapterEngine(engine, self._shared, self._adapter)


def require_adapter(card: CheckpointCard, directory: Path, *, allow_pickle: bool) -> None:
    """Raise CheckpointError, before its base is loaded, for an adapter that cannot be scored.

    peft is not installed, the weights are missing or pickled, it is no LoRA, or it changes the base itself.
    """
    if find_spec("peft") is None:
        raise CheckpointError(
            f"{card.id}: it is an adapter, and the library peft is not installed here; pip install peft"
        )
    weight_files(directory, name=ADAPTER, allow_pickle=allow_pickle)
    config = read_json(directory / ADAPTER_CONFIG)
    kind, start = config.get("peft_type"), config.get("init_lora_weights", True)
    if kind != "LORA":
        raise CheckpointError(f"{card.id}: its {ADAPTER_CONFIG} has peft_type {kind}; only LORA adapters are scored")
    if config.get("megatron_config"):  # peft would import the module that the file names
        raise CheckpointError(f"{card.id}: its {ADAPTER_CONFIG} has a megatron_config, which is not scored; remove it")
    for what, found in (
        (f"bias: {config.get('bias')}", config.get("bias") not in (None, "none")),
        (f"init_lora_weights: {start}", start not in _INITIALIZATIONS),
        ("layer_replication", bool(config.get("layer_replication"))),
    ):
        if found:
            raise CheckpointError(
                f"{card.id}: with {what} in its {ADAPTER_CONFIG} it changes the weights of its base, which others "
                "share; merge it into its base and sweep the merged checkpoint"
            )


def _require_fit(card: CheckpointCard, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    for keys, what in (
        (missing, "its files lack weights that its configuration requires"),
        (unexpected, "its base has no parameters for some of its weights"),
    ):
        if keys:
            some = ", ".join(sorted(keys)[:2])
            raise CheckpointError(f"{card.id}: {what} ({some}{', …' if len(keys) > 2 else ''}); is it on its own base?")
