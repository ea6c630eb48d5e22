"""A transcript, and the human responses marked in it. Independent of file formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from psych_ray.transcripts.markers import Response, find_responses

ID_RULE = 2


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One participant's session.

    `text` holds every human response between `<<` and `>>`. `metadata` has the known fields about the participant,
    as strings. `reaction_times_ms` has one entry per response, None where not recorded. `true_nll_nats`, of simulated
    participants only, has the NLL of each response under the simulator that generated it.
    """

    study: str
    experiment: str
    participant: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    reaction_times_ms: tuple[float | None, ...] | None = None
    true_nll_nats: tuple[float, ...] | None = None
    is_psych101: bool | None = None
    """Whether the study came with Psych-101, not first with Psych-201; None: not known."""
    copy: int = 0
    """Number of earlier records of the source that are equal to this one, but perhaps for metadata."""
    id_rule: int = ID_RULE
    """What `id` hashes; 1, of results roots of earlier versions: metadata too."""

    @cached_property
    def id(self) -> str:
        """Stable id: a hash of study, experiment, participant and text, the same for a contribution and the hub."""
        record: list[object] = [self.study, self.experiment, self.participant, self.text, self.copy]
        if self.id_rule == 1:
            record.insert(4, sorted(self.metadata.items()))
        return hashlib.blake2b(json.dumps(record).encode(), digest_size=16).hexdigest()

    @cached_property
    def responses(self) -> tuple[Response, ...]:
        """The marked responses in the order of the text; MarkerError where the markers do not pair up."""
        return find_responses(self.text)

    def response_text(self, response: Response) -> str:
        """Text of a response, without the markers."""
        return self.text[response.start : response.end]
