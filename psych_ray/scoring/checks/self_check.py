"""Checks of a loaded checkpoint: its engine is compared with the reference on a few probes.

The reference is the model's own forward, one sequence at a time, all logits. An engine that differs from it is not
used. CheckpointError for a checkpoint that is wrong in itself: likelihoods that are not finite, a head that is not the
file's, two begin-of-text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from psych_ray.compat.torch import is_out_of_memory
from psych_ray.errors import CheckpointError, first_line
from psych_ray.scoring.engines.base import Engine, Query, TokenScores, WholeModelEngine
from psych_ray.scoring.engines.row_blocks import ROWS
from psych_ray.scoring.scored import Check
from psych_ray.scoring.tokens.alignment import align
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.status import Status

BOUND_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest accepted mean difference of two engines with the same weights, nats per token: ten times the round-off."""

_PROBE_TEXT = 'Say "<<A>>", (<<b>>)\nthen <<-3.5>>\nor <<🙂>>? <<non->>, $<<12>>: <<two words>><<next>>.'
_PROBE_TOKENS = 256
_LONG_PROBE_TOKENS = ROWS + 128
_FIRST_TOKENS = 16


def self_check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    candidates: Mapping[str, Callable[[], Engine]],
    *,
    name: str = "this checkpoint",
    directory: Path | None = None,
    context: int | None = None,
) -> tuple[Engine, list[Check]]:
    """Build the first of `candidates`, by name, that matches the reference, else the reference; also all checks.

    `directory` holds the checkpoint's files, `context` bounds the tokens of a probe. CheckpointError where the
    checkpoint itself is wrong. A candidate that runs out of memory raises: a slower one takes no less.
    """
    checks = [_responses_found(tokenizer), _one_begin_of_text(tokenizer)]
    if directory is not None:
        checks.append(_head_is_the_files(model, directory))
    reference = WholeModelEngine(model)
    queries = _probes(tokenizer, min(_PROBE_TOKENS, context or _PROBE_TOKENS))
    queries.append(_long_probe(queries, context))
    expected = reference.score(queries)
    checks.append(_finite(expected))
    _require_passed(name, checks)
    bound = BOUND_NATS.get(model.dtype, BOUND_NATS[torch.bfloat16])
    for candidate, build in candidates.items():
        engine, check = _compare(candidate, build, queries, expected, bound)
        checks.append(check)
        if engine is not None:
            return engine, checks
    return reference, checks


def sharded_self_check(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    shrunk: Check,
    *,
    name: str = "this checkpoint",
    context: int | None = None,
) -> list[Check]:
    """Checks of a checkpoint that the reference cannot hold; `shrunk` compared its engine on a shrunk model.

    All ranks call it together. CheckpointError where a check fails.
    """
    scores = engine.score(_probes(tokenizer, min(_PROBE_TOKENS, context or _PROBE_TOKENS)))
    checks = [_responses_found(tokenizer), _one_begin_of_text(tokenizer), shrunk, _finite(scores)]
    _require_passed(name, checks)
    return checks


def _require_passed(name: str, checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        raise CheckpointError(
            f"{name} fails its self-check: " + "; ".join(f"{check.name}: {check.detail}" for check in failed)
        )


def _compare(
    candidate: str,
    build: Callable[[], Engine],
    queries: Sequence[Query],
    expected: Sequence[TokenScores],
    bound: float,
) -> tuple[Engine | None, Check]:
    """Compare the scores of all probes in one call: packing that mixes sequences, or another head, differs here."""
    name = f"{candidate} matches the reference"
    try:
        engine = build()
        found = engine.score(queries)
    except (ValueError, RuntimeError, NotImplementedError, AttributeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        return None, Check(name, passed=False, detail=first_line(error))
    differences = np.concatenate([np.abs(a.nll_R - b.nll_R) for a, b in zip(found, expected, strict=True)])
    mean, largest = float(differences.mean()), float(differences.max())
    leaked = _leak(engine, queries)
    passed = bool(np.isfinite(mean)) and mean <= bound and leaked <= bound
    detail = f"{mean:.1e} nats per token, at most {largest:.1e} (bound {bound:g})"
    if leaked > bound:
        detail += f"; the sequence before it changes a sequence by {leaked:.1e}"
    return (engine if passed else None), Check(name, passed, detail)


def _leak(engine: Engine, queries: Sequence[Query]) -> float:
    """Mean change of a sequence's first tokens when the sequence before it in the batch changes, nats per token.

    Shapes and positions stay the same, so that only a leak changes scores. A recurrent state that continues across
    sequences fades quickly and does not show in the mean over whole probes.
    """
    before, text = queries[0], queries[1]
    other = Query(before.token_ids_T[::-1].copy(), before.at_R)
    (_, one), (_, two) = engine.score([before, text]), engine.score([other, text])
    return float(np.abs(one.nll_R - two.nll_R)[:_FIRST_TOKENS].mean())


def _probes(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Query]:
    """Every token of some simulated transcripts of different lengths, short ones between long ones."""
    queries = []
    for number, transcript in enumerate(simulated_transcripts(participants=1, seed=3)):
        text_length = len(transcript.text) // (1 + number % 3)
        ids = np.asarray(tokenizer(transcript.text[:text_length], verbose=False)["input_ids"][:max_tokens], np.int64)
        queries.append(Query(ids, np.arange(1, len(ids))))
    return queries


def _long_probe(probes: Sequence[Query], context: int | None) -> Query:
    """A sequence that an engine reads in several blocks, if it reads in any."""
    ids = np.concatenate([probe.token_ids_T for probe in probes])[
        : min(_LONG_PROBE_TOKENS, context or _LONG_PROBE_TOKENS)
    ]
    return Query(ids, np.arange(1, len(ids)))


def _finite(scores: Sequence[TokenScores]) -> Check:
    bad = sum(int((~np.isfinite(one.nll_R)).sum()) for one in scores)
    return Check("likelihoods are finite", bad == 0, f"{bad} are not" if bad else "all")


def _responses_found(tokenizer: PreTrainedTokenizerBase) -> Check:
    """The tokens that are scored for a response contain it, for responses that are difficult to align."""
    transcript = Transcript(study="probe", experiment="probe", participant="probe", text=_PROBE_TEXT)
    alignment = align(condition_named("plain").render(transcript, None), tokenizer, None)
    missing = []
    for response, first, last in zip(transcript.responses, alignment.first_R, alignment.last_R, strict=True):
        text = transcript.response_text(response)
        decoded = tokenizer.decode(alignment.token_ids_T[first:last].tolist())
        is_text = (
            "\N{REPLACEMENT CHARACTER}" not in decoded
            and tokenizer.unk_token_id not in alignment.token_ids_T[first:last]
        )
        if alignment.status_R[response.number] == Status.scored.code and is_text and text.strip() not in decoded:
            missing.append(text)
    return Check(
        "responses found", not missing, f"{missing} not" if missing else f"{alignment.straddling_edges} straddling"
    )


def _one_begin_of_text(tokenizer: PreTrainedTokenizerBase) -> Check:
    ids = tokenizer("probe", verbose=False)["input_ids"]
    n = list(ids).count(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else 0
    return Check("begin-of-text at most once", n <= 1, f"{n} times")


def _head_is_the_files(model: PreTrainedModel, directory: Path) -> Check:
    """Compare some rows of the head with those in the file, so that a head tied or renamed wrongly does not pass."""
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith("lm_head.weight")]  # noqa: SIM118
            if not names or weight is None or not weight.is_floating_point():
                continue
            stored = file.get_slice(names[0])
            rows = np.linspace(0, stored.get_shape()[0] - 1, 8).astype(int)
            same = all(
                torch.equal(stored[int(row) : int(row) + 1].to(weight.dtype), weight[int(row) : int(row) + 1].cpu())
                for row in rows
            )
            return Check(
                "head is the file's", same, "as stored" if same else f"{names[0]} differs from the head that is used"
            )
    return Check("head is the file's", passed=True, detail="the file has none: tied to the embeddings")
