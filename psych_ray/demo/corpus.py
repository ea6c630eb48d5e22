"""Simulated participants as training batches. Independent of models.

Training is fast for three reasons: windows instead of complete sessions, letters that are renamed each time a
participant is drawn, and as target of a choice the simulator's probabilities of both options instead of the one drawn.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from psych_ray.demo.recipe import Phase
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import TASKS, simulated_transcripts

_RENAMED_TASK = "demo_bandit"
"""The task whose letters differ between participants."""
# Shapes: B participants in a batch, T tokens, V vocabulary, L capital letters.


class Tokens(NamedTuple):
    """Training data of one participant [T] or of a batch of them [B, T].

    The target of a response token is `token_ids` with `probability`, else `other_ids`: the letter of the other option.
    """

    token_ids: Tensor
    is_response: Tensor
    other_ids: Tensor
    probability: Tensor


class Corpus:
    """Participants of every task, from which batches are drawn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, participants: int, seed: int, normative: bool) -> None:
        people = list(simulated_transcripts(participants=participants, seed=seed, normative=normative))
        self._letters_L = torch.tensor(tokenizer.convert_tokens_to_ids(list(string.ascii_uppercase)))
        self._vocabulary = len(tokenizer)
        self._pad_id = float(tokenizer.pad_token_id)
        self._tasks = [[self._tokens(person, tokenizer) for person in people if person.study == task] for task in TASKS]
        self._rng = np.random.default_rng(seed)

    def batches(self, phase: Phase) -> Iterator[Tokens]:
        """One batch per step."""
        for _ in range(phase.steps):
            yield self._padded([self._draw(k, phase) for k, n in enumerate(phase.participants) for _ in range(n)])

    def _draw(self, task: int, phase: Phase) -> Tokens:
        people = self._tasks[task]
        person = self._window(people[int(self._rng.integers(len(people)))], phase.window_tokens)
        return self._renamed(person) if TASKS[task] == _RENAMED_TASK else person

    def _tokens(self, person: Transcript, tokenizer: PreTrainedTokenizerFast) -> Tokens:
        encoded = tokenizer(person.text, return_offsets_mapping=True)
        number_at = {index: r.number for r in person.responses for index in range(r.start, r.end)}
        numbers = torch.tensor([number_at.get(start, -1) for start, _ in encoded["offset_mapping"]])
        token_ids, is_response = torch.tensor(encoded["input_ids"]), numbers >= 0
        other_ids, probability = token_ids.clone(), torch.ones(len(token_ids))
        letters = torch.unique(token_ids[torch.isin(token_ids, self._letters_L)])
        if len(letters) == 2:
            assert person.true_nll_nats is not None
            other_ids[is_response] = letters.sum() - token_ids[is_response]
            probability[is_response] = torch.exp(-torch.tensor(person.true_nll_nats)[numbers[is_response]])
        return Tokens(token_ids, is_response, other_ids, probability)

    def _window(self, person: Tokens, length: int | None) -> Tokens:
        """Half of the windows are the beginning of the session, the others begin anywhere."""
        spare = 0 if length is None else len(person.token_ids) - length
        first = int(self._rng.integers(spare + 1)) if spare > 0 and self._rng.random() < 0.5 else 0
        return Tokens(*(row[first : None if length is None else first + length] for row in person))

    def _renamed(self, person: Tokens) -> Tokens:
        names_V = torch.arange(self._vocabulary)
        names_V[self._letters_L] = self._letters_L[torch.from_numpy(self._rng.permutation(len(self._letters_L)))]
        return person._replace(token_ids=names_V[person.token_ids], other_ids=names_V[person.other_ids])

    def _padded(self, people: Sequence[Tokens]) -> Tokens:
        """A batch, padded on the right; padding is not a response."""
        padding = (self._pad_id, False, self._pad_id, 1.0)
        columns = zip(zip(*people, strict=True), padding, strict=True)
        return Tokens(*(pad_sequence(list(rows), batch_first=True, padding_value=pad) for rows, pad in columns))
