"""Engines: how a replica holds and runs the weights. One protocol: token ids in, likelihoods of chosen tokens out.

Does not depend on transcripts, responses or files; packing sequences and sharding weights happen inside `Engine.score`.
Shapes: T tokens of one sequence, R scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from psych_ray.compat.torch import float32_linear
from psych_ray.compat.transformers import text_decoder
from psych_ray.scoring.calibration import OF_OPTIONS, TEMPERATURES
from psych_ray.scoring.likelihood import Head
from psych_ray.scoring.memory import SCORING_ADVICE, memory_errors


@dataclass(frozen=True, slots=True)
class Query:
    """One sequence of tokens [T] and the indices [R] of those to be scored, ascending, none of them 0."""

    token_ids_T: NDArray[np.int64]
    at_R: NDArray[np.int64]
    options_K: NDArray[np.int64] | None = None
    """Ids of the tokens among which a participant chose, ascending, for the columns of `scoring.calibration`, which are
    left out where this is None. Fewer than two: there are no options."""

    def __post_init__(self) -> None:
        if len(self.at_R) and self.at_R[0] < 1:
            raise ValueError("token 0 has no token before it that could predict it")

    @property
    def length(self) -> int:
        """Tokens to run: those from the last scored token on change no score."""
        return int(self.at_R[-1]) if len(self.at_R) else 0


@dataclass(frozen=True, slots=True)
class TokenScores:
    """For the scored tokens of one query: NLL in nats, float32 [R]; is it the arg max of the vocabulary, bool [R]."""

    nll_R: NDArray[np.float32]
    top1_R: NDArray[np.bool_]
    calibration_RC: NDArray[np.float32] | None = None
    """`calibration.COLUMNS`; NaN where the query has no options. None where it asks for none."""


NO_SCORES = TokenScores(np.empty(0, np.float32), np.empty(0, np.bool_))


class Engine(Protocol):
    """A loaded checkpoint."""

    name: str

    @property
    def batch_tokens(self) -> int:
        """Tokens per call of `score` with which it runs fastest; one query may have more."""

    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Teacher-forced likelihoods of the scored tokens, one result per query, in order.

        InsufficientMemoryError where they do not fit in memory.
        """


class TransformersEngine:
    """One transformers model on one device: body over the whole sequence, head at the scored tokens only."""

    name = "transformers"
    batch_tokens = 1
    """One sequence at a time: on a CPU a batch is no faster, and padding costs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        # Sequences run alone, without padding, so that no mask is needed and a causal kernel can be used.
        self._body: Any = text_decoder(model)
        self._head = Head.of(model)

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run each sequence alone."""
        return [self._score(query) if len(query.at_R) else NO_SCORES for query in batch]

    def _score(self, query: Query) -> TokenScores:
        with pass_memory_errors(query.length):
            return self._score_alone(query)

    def _score_alone(self, query: Query) -> TokenScores:
        device = self.model.device
        ids_1T = torch.from_numpy(query.token_ids_T[: query.length]).to(device)[None]
        hidden_TD = self._body(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
        targets_R = torch.from_numpy(query.token_ids_T[query.at_R]).to(device)
        hidden_RD = hidden_TD[torch.from_numpy(query.at_R).to(device) - 1]
        del hidden_TD
        return to_scores(*self._head.token_nll(hidden_RD, targets_R, padded_options([query], device)))


class WholeModelEngine:
    """The reference: the model's own forward, all logits, one sequence at a time.

    The self-check compares every other engine with it, and it scores where none of them agrees. It shares no code with
    them: it neither takes the model apart nor uses `likelihood`, but log_softmax of whole logits. In half precision,
    too, these are float32, where the head is a matrix without adapters.
    """

    name = "transformers, whole logits"
    batch_tokens = 1

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run each sequence alone, with the head at every token."""
        return [self._score(query) if len(query.at_R) else NO_SCORES for query in batch]

    def _score(self, query: Query) -> TokenScores:
        with pass_memory_errors(query.length):
            return self._score_alone(query)

    def _score_alone(self, query: Query) -> TokenScores:
        ids_T = torch.from_numpy(query.token_ids_T).to(self.model.device)
        with _float32_logits(self.model):
            logits_TV = self.model(input_ids=ids_T[None, : query.length], use_cache=False).logits[0]
        at_R = torch.from_numpy(query.at_R).to(self.model.device)
        logits_RV = logits_TV[at_R - 1].float()
        log_p_RV = logits_RV.log_softmax(-1)
        nll_R = -log_p_RV.gather(-1, ids_T[at_R, None])[:, 0]
        scores: tuple[Tensor, ...] = (nll_R, log_p_RV.argmax(-1) == ids_T[at_R])
        if query.options_K is not None:
            scores += (_calibration(logits_RV, ids_T[at_R], query.options_K),)
        return to_scores(*scores)


@contextmanager
def _float32_logits(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, logits of a model in half precision are float32: others would differ by their rounding."""
    head: Any = model.get_output_embeddings()
    if model.dtype == torch.float32 or type(head) is not nn.Linear or "forward" in vars(head):
        yield
        return
    weight, bias = head.weight, head.bias

    def unrounded(rows: Tensor) -> Tensor:
        return float32_linear(rows.flatten(0, -2), weight, bias).view(*rows.shape[:-1], -1)

    vars(head)["forward"] = unrounded  # instead of a hook, so that the rounded ones are not computed
    try:
        yield
    finally:
        del vars(head)["forward"]


def _calibration(logits_RV: Tensor, targets_R: Tensor, options_K: NDArray[np.int64]) -> Tensor:
    """The columns of `scoring.calibration` by their definitions."""
    columns = []
    for temperature in TEMPERATURES:
        log_p_RV = (logits_RV / temperature).log_softmax(-1)
        columns.append(-log_p_RV.gather(-1, targets_R[:, None])[:, 0])
    if len(options_K) < 2:
        columns += [torch.full_like(columns[0], torch.nan)] * len(OF_OPTIONS)
    else:
        options = torch.from_numpy(options_K).to(targets_R.device)
        all_options_R = logits_RV.log_softmax(-1)[:, options].logsumexp(-1)
        p_RK = logits_RV[:, options].softmax(-1)
        brier_R = (p_RK - (options == targets_R[:, None]).float()).square().sum(-1)
        top_R, best_R = p_RK.max(-1)
        columns += [(-all_options_R).clamp(min=0), brier_R, top_R, (options[best_R] == targets_R).float()]
    return torch.stack(columns, dim=-1)


def pass_memory_errors(n_tokens: int) -> AbstractContextManager[None]:
    """Raise InsufficientMemoryError, with the number of tokens, where a forward pass does not fit in memory."""
    return memory_errors(f"out of memory in a forward pass of {n_tokens} tokens", SCORING_ADVICE)


def to_scores(*scores: Tensor) -> TokenScores:
    """Bring the scores of one query to numpy."""
    return TokenScores(*(values.cpu().numpy() for values in scores))


def padded_options(queries: Sequence[Query], device: torch.device) -> Tensor | None:
    """The options of each scored token of all queries [R, K], -1 where there are fewer; None where none is asked for.

    Either all queries have `options_K` or none has.
    """
    options = [query.options_K for query in queries if query.options_K is not None]
    if not options:
        return None
    width = max(1, *map(len, options))
    padded = [np.pad(of_query, (0, width - len(of_query)), constant_values=-1) for of_query in options]
    rows = [np.tile(of_query, (len(query.at_R), 1)) for query, of_query in zip(queries, padded, strict=True)]
    return torch.from_numpy(np.concatenate(rows)).to(device)
