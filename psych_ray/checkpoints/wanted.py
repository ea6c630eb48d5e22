"""Which checkpoints of the hub a configuration names, and how each is described: by the user, the list, or proposals.

Decides what wins where they differ. Asks the hub through what it is given, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from psych_ray.checkpoints.hub import Hub, Pinned
from psych_ray.checkpoints.listed import listed_card, listed_ids
from psych_ray.checkpoints.proposals import propose
from psych_ray.config import CheckpointCard, CheckpointsConfig, Stage

YOURS, LISTED = "the configuration", "the list"
_DESCRIBED = ("family", "generation", "size_b", "stage", "base", "quantization", "adapter")
_NOT_SAID = (None, "unknown", False)


@dataclass(frozen=True, slots=True)
class Described:
    """A card, and what each of its fields follows from."""

    card: CheckpointCard
    origin: Mapping[str, str]
    """By field, of those that are known."""

    @property
    def is_proposed(self) -> bool:
        """Whether any field is a proposal."""
        return not set(self.origin.values()) <= {YOURS, LISTED}

    @property
    def sources(self) -> str:
        """A line with what the fields follow from."""
        fields: dict[str, list[str]] = {}
        for name, origin in self.origin.items():
            fields.setdefault(origin, []).append(name)
        return "; ".join(f"{', '.join(names)}: {origin}" for origin, names in fields.items()) or "nothing is known"


def wanted_cards(config: CheckpointsConfig) -> list[CheckpointCard]:
    """The hub's checkpoints of a configuration, each with what the user says of it: listed ones, ids, further cards."""
    own = {card.id: card for card in config.cards}
    ids: list[tuple[str, str | None]] = [(one, None) for one in listed_ids(config.listed)]
    ids += [(name, revision or None) for name, _, revision in (one.partition("@") for one in config.ids)]
    wanted = []
    for name, revision in dict.fromkeys(ids):
        card = own.get(name) or CheckpointCard(id=name)
        wanted.append(replace(card, revision=revision or card.revision))
    named = {name for name, _ in ids}
    return wanted + [card for card in config.cards if card.id not in named]


def describe(card: CheckpointCard, pinned: Pinned | None, known: Collection[str], hub: Hub) -> Described:
    """Fill what the user does not say of a checkpoint: from the list, for others by proposals.

    `pinned`: what the hub or its cache says of it; None: neither does. `known`: ids among which a base is looked for.
    """
    said = {name: value for name in _DESCRIBED if (value := getattr(card, name)) not in _NOT_SAID}
    origin = dict.fromkeys(said, YOURS)
    listed = listed_card(card.id)
    if listed is not None:
        more = {name: getattr(listed, name) for name in _DESCRIBED if getattr(listed, name) not in _NOT_SAID}
        origins = dict.fromkeys(more, LISTED)
    else:
        facts, n_parameters = (pinned.facts, pinned.n_parameters) if pinned else (None, None)
        proposal = propose(card.id, facts, known, hub.facts_of, n_parameters)
        more, origins = proposal.values, proposal.origin
    if said.get("stage") == Stage.base and not card.adapter:
        more = {name: value for name, value in more.items() if name != "base"}
    new = {name: value for name, value in more.items() if name not in said}
    return Described(replace(card, **new), origin | {name: origins[name] for name in new})
