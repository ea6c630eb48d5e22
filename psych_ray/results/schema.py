"""The columns of the table of responses, the footer of a part, its name. Does not depend on where they are stored."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from psych_ray.scoring.calibration import NLL_AT, OF_OPTIONS, OPTIONS_HIT

FOLDER = "responses"
"""Of the table, in the results store."""

_PATH = re.compile(rf"{FOLDER}/checkpoint=([^/]+)/condition=([^/]+)/([^/-]+)(?:-([^/]+))?\.parquet")
_NAME = pa.dictionary(pa.int32(), pa.string())

RESPONSES = pa.schema(
    [
        pa.field("study", _NAME, nullable=False),
        pa.field("experiment", _NAME, nullable=False),
        pa.field("participant", _NAME, nullable=False),
        pa.field("transcript", _NAME, nullable=False),
        pa.field("response", pa.int32(), nullable=False),
        pa.field("char_start", pa.int32(), nullable=False),
        pa.field("char_end", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("nll", pa.float32()),
        pa.field("top1", pa.bool_()),
        pa.field("status", _NAME, nullable=False),
        pa.field("n_options", pa.int16()),
        *(pa.field(name, pa.float32()) for name in NLL_AT.values()),
        *(pa.field(name, pa.bool_() if name == OPTIONS_HIT else pa.float32()) for name in OF_OPTIONS),
    ]
)
"""One row per response. `nll` in nats, summed over its tokens; `nll` and `top1` are null unless scored.

`n_options`: number of distinct responses of the transcript that are one capital letter A-Z; null unless this one is.
The others are described in `scoring.calibration`. Those of temperatures are null unless a language model scored the
response with `scoring.calibration`; those of options too where it is no option, no single token, or the only option.
"""

ADDED_LATER = frozenset(RESPONSES.names[RESPONSES.get_field_index("status") + 1 :])
"""Columns that parts of earlier versions, and the logs of their tables, lack: null there."""


@dataclass(frozen=True, slots=True)
class TranscriptRef:
    """A transcript of the plan, and where its text is in `sources/` of the results store."""

    id: str
    study: str
    file: str
    """Name in the store."""
    row: int
    n_characters: int
    n_responses: int


@dataclass(frozen=True, kw_only=True)
class ScoringIdentity:
    """The settings that change scores. A results store holds one set of them."""

    dtype: str
    cut: str
    cut_at: int | None
    parity: bool

    def differences(self, other: ScoringIdentity) -> list[str]:
        """One line, `scoring.NAME=VALUE, not OTHER`, for every setting in which the two differ."""
        own, others = asdict(self), asdict(other)
        return [f"scoring.{name}={own[name]}, not {others[name]}" for name in own if own[name] != others[name]]


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What footers record of a checkpoint, and statistics use."""

    slug: str
    """Name in paths: the id, with every character replaced that is special in a path or a partition."""
    id: str
    fingerprint: str
    """Changes when the weights, their configuration or their tokenizer do."""
    revision: str | None = None
    family: str = "unknown"
    generation: str = "unknown"
    size_b: float | None = None
    stage: str | None = None
    base: str | None = None
    """Slug of the base checkpoint that this one is compared with."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Scored responses of one study: how many, and the sums that a running mean needs."""

    responses: int = 0
    nll_nats: float = 0.0
    """Sum over the responses."""
    top1: int = 0
    """Responses whose every token is the arg max of the vocabulary."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.responses + other.responses, self.nll_nats + other.nll_nats, self.top1 + other.top1)


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What made a part, and counts of its rows; JSON under the key `psych_ray` of the file's Parquet metadata."""

    unit: str
    condition: str
    checkpoint: CheckpointFacts
    scoring: ScoringIdentity
    engine: str
    versions: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    rows_by_status: dict[str, int] = field(default_factory=dict)
    transcripts: list[str] = field(default_factory=list)
    """Ids, in the order of the rows."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """By study; 0 responses for a study that has rows, none of them scored."""
    straddling_edges: dict[str, int] = field(default_factory=dict)
    """By study: edges of responses that are inside a token."""
    tokens: int = 0
    """Tokens read."""
    seconds: float = 0.0
    """Spent scoring."""
    device: str | None = None
    """What the replica ran on, all its ranks, for example `2 GPUs`; None in parts of earlier versions."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was read in how long, from the footers of parts."""

    device: str | None
    """As in the footers."""
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part: hive-partitioned, so that any reader of Parquet finds checkpoint and condition in it.

    Two attempts at one unit have different names, as they differ in what their footers say.
    """

    checkpoint: str
    """Slug."""
    condition: str
    unit: str
    checksum: str = ""
    """Of the content, hexadecimal; empty in names of earlier versions."""

    def __str__(self) -> str:
        attempt = f"-{self.checksum}" if self.checksum else ""
        return f"{FOLDER}/checkpoint={self.checkpoint}/condition={self.condition}/{self.unit}{attempt}.parquet"

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """Part of this name in the store; None for a name that no part has."""
        match = _PATH.fullmatch(name)
        # Deltalake's log may contain a NUL, which no path can.
        return cls(*(group or "" for group in match.groups())) if match and "\0" not in name else None

    @property
    def task(self) -> tuple[str, str]:
        """Checkpoint (slug) and condition."""
        return self.checkpoint, self.condition


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was written, as its writer describes it: what is committed to the table's log."""

    name: PartName
    size: int
    """Bytes."""
    footer: Footer
