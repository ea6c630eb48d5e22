"""Loads a checkpoint into a scorer. Refuses whatever would score without being what its files say.

transformers fills weights that a file lacks with random numbers and goes on; here that is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from psych_ray.config import CutBy, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.alignment import require_offsets
from psych_ray.scoring.checkpoints import Checkpoint, require_supported
from psych_ray.scoring.engines import TransformersEngine
from psych_ray.scoring.hub import fetch
from psych_ray.scoring.scorer import Cut, LanguageModelScorer

# The study's authors cut here; they count characters.
_CUT_CHARACTERS = 32_768


def load_scorer(
    checkpoint: Checkpoint, scoring: ScoringConfig | None = None, *, allow_pickle: bool = False
) -> LanguageModelScorer:
    """Load a checkpoint on this process's device. CheckpointError where it cannot be loaded whole."""
    scoring = scoring or ScoringConfig()
    require_supported(scoring)
    card = checkpoint.card
    directory = Path(card.path) if card.path else fetch(card, allow_pickle=allow_pickle)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=card.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=card.trust_remote_code)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=getattr(torch, scoring.dtype),
            use_safetensors=not allow_pickle,
            trust_remote_code=card.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{card.id}: cannot be loaded from {directory}: {first_line}") from error
    model, loading = loaded
    _require_whole(card.id, loading)
    require_offsets(tokenizer, card.id)
    _require_vocabulary(card.id, tokenizer, model)
    engine = TransformersEngine(model.to(_device(scoring.device)))
    return LanguageModelScorer(engine, tokenizer, _cut(scoring, config))


def _require_whole(checkpoint_id: str, loading: Mapping[str, Iterable[object]]) -> None:
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in loading.get(what) or ())
        if names:
            raise CheckpointError(
                f"{checkpoint_id}: its files do not hold all weights of its architecture ({what.replace('_', ' ')}: "
                f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}); fetch it again"
            )


def _require_vocabulary(checkpoint_id: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"{checkpoint_id}: its tokenizer has {len(tokenizer)} tokens, its weights {rows}: not a pair"
        )


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def _cut(scoring: ScoringConfig, config: PreTrainedConfig) -> Cut:
    """Where transcripts end for this checkpoint; never beyond its context, whatever the setting."""
    text_config = config.get_text_config(decoder=True)
    context = getattr(text_config, "max_position_embeddings", None)
    if scoring.cut == CutBy.characters:
        return Cut(tokens=context, characters=scoring.cut_at or _CUT_CHARACTERS)
    limits = [limit for limit in (scoring.cut_at, context) if limit is not None]
    return Cut(tokens=min(limits, default=None))
