"""What everything above speaks about: a transcript, and the human responses marked in it. Knows no file format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from psych_ray.transcripts.markers import Response, find_responses


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One participant's session.

    `text` holds every human response between `<<` and `>>`. `metadata` has what is known about the participant, as
    strings; what is not known is left out. `reaction_times_ms` has one entry a response, None where not recorded.
    `true_nll_nats` is there for simulated participants only: what each response cost the simulator that made it.
    """

    study: str
    experiment: str
    participant: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    reaction_times_ms: tuple[float | None, ...] | None = None
    true_nll_nats: tuple[float, ...] | None = None
    copy: int = 0
    """How often a source held this very record before."""

    @cached_property
    def id(self) -> str:
        """Stable id: a hash of all that a condition may put before a checkpoint, and of who said it."""
        record = [self.study, self.experiment, self.participant, self.text, sorted(self.metadata.items()), self.copy]
        return hashlib.blake2b(json.dumps(record).encode(), digest_size=16).hexdigest()

    @cached_property
    def responses(self) -> tuple[Response, ...]:
        """The marked responses in the order of the text; MarkerError where the markers do not pair up."""
        return find_responses(self.text)

    def response_text(self, response: Response) -> str:
        """What the participant answered, without the markers."""
        return self.text[response.start : response.end]
