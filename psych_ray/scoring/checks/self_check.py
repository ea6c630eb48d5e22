"""Trust is checked when a checkpoint is loaded: the way it is going to work against the slow way, on a few probes.

The slow way is the model's own forward, one sequence at a time, all logits. What differs from it is not used; what is
wrong in itself (logits that are not finite, a head that is not the file's, two begin-of-texts) refuses the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from psych_ray.compat import is_out_of_memory
from psych_ray.errors import CheckpointError, first_line
from psych_ray.scoring.engines.base import Engine, Query, TokenScores, WholeModelEngine
from psych_ray.scoring.scored import Check
from psych_ray.scoring.tokens.alignment import align
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.status import Status

BOUND_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Mean difference a token between two ways of the same weights; round-off stays an order of magnitude below."""

_PROBE_TEXT = 'Say "<<A>>", (<<b>>)\nthen <<-3.5>>\nor <<🙂>>? <<non->>, $<<12>>: <<two words>><<next>>.'
_PROBE_TOKENS = 256
_FIRST_TOKENS = 16


def self_check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ways: Mapping[str, Callable[[], Engine]],
    *,
    name: str = "this checkpoint",
    directory: Path | None = None,
    context: int | None = None,
) -> tuple[Engine, list[Check]]:
    """Take the first of `ways`, by name, that scores as the slow way does, or that itself, and tell what was seen.

    `directory` holds its files, `context` bounds the probes. CheckpointError where the checkpoint itself is wrong.
    """
    checks = [_responses_found(tokenizer), _one_begin_of_text(tokenizer)]
    if directory is not None:
        checks.append(_head_is_the_files(model, directory))
    slow = WholeModelEngine(model)
    queries = _probes(tokenizer, min(_PROBE_TOKENS, context or _PROBE_TOKENS))
    expected = slow.score(queries)
    checks.append(_finite(expected))
    _refuse_if_wrong(name, checks)
    bound = BOUND_NATS.get(model.dtype, BOUND_NATS[torch.bfloat16])
    for way, build in ways.items():
        engine, check = _try(way, build, queries, expected, bound)
        checks.append(check)
        if engine is not None:
            return engine, checks
    return slow, checks


def sharded_self_check(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    reduced: Check,
    *,
    name: str = "this checkpoint",
    context: int | None = None,
) -> list[Check]:
    """The same for a checkpoint that no process could hold in the slow way: `reduced` compared a small copy of it.

    All ranks call it together. CheckpointError where something is wrong.
    """
    answers = engine.score(_probes(tokenizer, min(_PROBE_TOKENS, context or _PROBE_TOKENS)))
    checks = [_responses_found(tokenizer), _one_begin_of_text(tokenizer), reduced, _finite(answers)]
    _refuse_if_wrong(name, checks)
    return checks


def _refuse_if_wrong(name: str, checks: Sequence[Check]) -> None:
    wrong = [check for check in checks if not check.passed]
    if wrong:
        raise CheckpointError(
            f"{name} fails its self-check: " + "; ".join(f"{check.name}: {check.detail}" for check in wrong)
        )


def _try(
    way: str,
    build: Callable[[], Engine],
    queries: Sequence[Query],
    expected: Sequence[TokenScores],
    bound: float,
) -> tuple[Engine | None, Check]:
    """Score all probes at once in this way; packing that leaks, or a head that is not the model's, shows here."""
    name = f"{way} = slow way"
    try:
        engine = build()
        found = engine.score(queries)
    except (ValueError, RuntimeError, NotImplementedError, AttributeError, AssertionError) as error:
        if is_out_of_memory(error):  # a slower engine needs no less
            raise
        return None, Check(name, passed=False, detail=first_line(error))
    differences = np.concatenate([np.abs(a.nll_R - b.nll_R) for a, b in zip(found, expected, strict=True)])
    mean, largest = float(differences.mean()), float(differences.max())
    leaked = _leak(engine, queries)
    passed = bool(np.isfinite(mean)) and mean <= bound and leaked <= bound
    detail = f"{mean:.1e} nats a token, at most {largest:.1e} (bound {bound:g})"
    if leaked > bound:
        detail += f"; what stands beside a text changes it by {leaked:.1e}"
    return (engine if passed else None), Check(name, passed, detail)


def _leak(engine: Engine, queries: Sequence[Query]) -> float:
    """How much the first tokens of a text change when the text before it in the batch does, nats a token.

    Shapes and places stay the same, so that nothing but a leak should: a recurrent state that runs on across texts
    fades quickly and is lost in the mean over whole probes.
    """
    before, text = queries[0], queries[1]
    other = Query(before.token_ids_T[::-1].copy(), before.at_R)
    (_, one), (_, two) = engine.score([before, text]), engine.score([other, text])
    return float(np.abs(one.nll_R - two.nll_R)[:_FIRST_TOKENS].mean())


def _probes(tokenizer: PreTrainedTokenizerBase, most: int) -> list[Query]:
    """Ask for every token of some simulated transcripts of different lengths, short ones between long ones."""
    queries = []
    for number, transcript in enumerate(simulated_transcripts(participants=1, seed=3)):
        text_length = len(transcript.text) // (1 + number % 3)
        ids = np.asarray(tokenizer(transcript.text[:text_length], verbose=False)["input_ids"][:most], np.int64)
        queries.append(Query(ids, np.arange(1, len(ids))))
    return queries


def _finite(scores: Sequence[TokenScores]) -> Check:
    bad = sum(int((~np.isfinite(answer.nll_R)).sum()) for answer in scores)
    return Check("likelihoods are finite", bad == 0, f"{bad} are not" if bad else "all")


def _responses_found(tokenizer: PreTrainedTokenizerBase) -> Check:
    """Every response of a nasty text stands in the tokens that are scored for it."""
    transcript = Transcript(study="probe", experiment="probe", participant="probe", text=_PROBE_TEXT)
    alignment = align(condition_named("plain").render(transcript, None), tokenizer, None)
    lost = []
    for response, first, last in zip(transcript.responses, alignment.first_R, alignment.last_R, strict=True):
        wanted = transcript.response_text(response)
        read = tokenizer.decode(alignment.token_ids_T[first:last].tolist())
        known = (
            "\N{REPLACEMENT CHARACTER}" not in read and tokenizer.unk_token_id not in alignment.token_ids_T[first:last]
        )
        if alignment.status_R[response.number] == Status.scored.code and known and wanted.strip() not in read:
            lost.append(wanted)
    return Check("responses found", not lost, f"{lost} not" if lost else f"{alignment.straddling_edges} straddling")


def _one_begin_of_text(tokenizer: PreTrainedTokenizerBase) -> Check:
    ids = tokenizer("probe", verbose=False)["input_ids"]
    n = list(ids).count(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else 0
    return Check("begin-of-text at most once", n <= 1, f"{n} times")


def _head_is_the_files(model: PreTrainedModel, directory: Path) -> Check:
    """Compare some rows of the head with the file's, so that a head tied or renamed wrongly does not pass."""
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
            return Check("head is the file's", same, "as stored" if same else f"{names[0]} differs from what is used")
    return Check("head is the file's", passed=True, detail="the file has none: tied to the embeddings")
