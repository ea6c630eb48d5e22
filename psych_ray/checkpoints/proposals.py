"""Family, generation, size, stage and base of a checkpoint of which only the hub id is known.

From its own and its bases' model cards, and from names. Pure: whoever asks gives the model cards. Proposals describe;
they allow nothing, and a card of the user's replaces any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from psych_ray.checkpoints.listed import listed_card
from psych_ray.checkpoints.model_cards import QUANTIZED, ModelCardFacts
from psych_ray.checkpoints.names import NameFacts, base_by_name, facts_of_name
from psych_ray.config import CheckpointCard, Stage

NAME, MODEL_CARD, BASE, WEIGHTS = "its name", "its model card", "its base", "its weights"
"""What a proposal follows from."""
_MAX_LINE = 6
"""Of checkpoints made from one another: base, SFT, DPO, instruct, adapter, quantized."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed of one checkpoint, and what each value follows from."""

    values: dict[str, Any] = field(default_factory=dict)
    """By field of its card."""
    origin: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: object, origin: str) -> None:
        """Propose a value, unless it is None, or there is one."""
        if value is not None and name not in self.values:
            self.values[name] = value
            self.origin[name] = origin


def propose(
    checkpoint_id: str,
    facts: ModelCardFacts | None,
    known: Collection[str],
    ask: Callable[[str], ModelCardFacts | None],
    n_parameters: int | None = None,
) -> Proposal:
    """Propose what a card says of a checkpoint.

    `facts`: of its model card; None where there is none. `known`: ids among which a base is looked for by name. `ask`:
    the facts of another checkpoint's model card.
    """
    said, name, proposal = facts or ModelCardFacts(), facts_of_name(checkpoint_id), Proposal()
    line = _line(checkpoint_id, said, ask)
    if said.is_adapter:
        proposal.add("adapter", True, MODEL_CARD)
    if said.relation == QUANTIZED and line:
        _like(line[0], line[1:], known, proposal)
    _add_stage(facts, name, line, proposal)
    if proposal.values.get("stage") != Stage.base:
        proposal.add("base", line[-1] if line else None, MODEL_CARD)
        proposal.add("base", base_by_name(checkpoint_id, known), NAME)
    if said.is_adapter and line:
        proposal.values["base"] = line[0]  # the weights that the adapter modifies
    _add_lineage(name, said, proposal, n_parameters)
    return proposal


def _line(checkpoint_id: str, facts: ModelCardFacts, ask: Callable[[str], ModelCardFacts | None]) -> list[str]:
    """The checkpoints that it was made from, the last one first: up to one that is itself a base."""
    line: list[str] = []
    base = facts.base
    while base is not None and base not in {checkpoint_id, *line} and len(line) < _MAX_LINE:
        line.append(base)
        card = listed_card(base)
        if card is not None:
            base = card.base
        elif facts_of_name(base).stage == Stage.base:
            break
        else:
            base = (ask(base) or ModelCardFacts()).base
    return line


def _like(source: str, line: Sequence[str], known: Collection[str], proposal: Proposal) -> None:
    """A quantized copy has the stage of what was quantized, and its base."""
    card, name = listed_card(source) or CheckpointCard(id=source), facts_of_name(source)
    is_base = name.stage is None and name.is_plain and not line
    proposal.add("stage", card.stage or name.stage or (Stage.base if is_base else None), BASE)
    if proposal.values.get("stage") != Stage.base:
        proposal.add("base", card.base or (line[-1] if line else base_by_name(source, known)), MODEL_CARD)


def _add_stage(facts: ModelCardFacts | None, name: NameFacts, line: Sequence[str], proposal: Proposal) -> None:
    proposal.add("stage", name.stage, NAME)
    if line or (facts is not None and facts.bases):
        proposal.add("stage", Stage.instruct if facts is not None and facts.is_conversational else None, MODEL_CARD)
    elif name.is_plain:
        is_base = facts is None or not facts.is_conversational
        proposal.add("stage", Stage.base if is_base else Stage.instruct, NAME if facts is None else MODEL_CARD)


def _add_lineage(name: NameFacts, facts: ModelCardFacts, proposal: Proposal, n_parameters: int | None) -> None:
    base = proposal.values.get("base")
    of_base = facts_of_name(base) if base else NameFacts()
    card = listed_card(base) if base else None
    proposal.add("family", name.family, NAME)
    proposal.add("family", card.family if card else of_base.family, BASE)
    family = re.match(r"[a-z]+", facts.model_type or "")
    proposal.add("family", family[0] if family else None, WEIGHTS)
    proposal.add("generation", name.generation, NAME)
    proposal.add("generation", card.generation if card else of_base.generation, BASE)
    proposal.add("size_b", name.size_b, NAME)
    proposal.add("size_b", card.size_b if card else of_base.size_b, BASE)
    proposal.add("size_b", float(f"{n_parameters / 1e9:.2g}") if n_parameters else None, WEIGHTS)
