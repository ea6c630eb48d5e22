"""What can be wrong with a results store, and what is done about it. Does not look for it: `results.verify` does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from psych_ray.results.log import LoggedPart


class Remedy(StrEnum):
    """What follows from a fault, as the user reads it."""

    drop = "repair=true drops it from the table, and the next sweep scores its responses again"
    relist = "repair=true lists it as it is"
    remake = "repair=true makes the log anew from the parts"
    set_aside = "it is not in the table; repair=true moves it to damaged/"
    rewrite = "repair=true moves it to damaged/, and the next command that writes makes it again"
    take_in = "repair=true, or the next sweep, takes it into the table, or removes it where its transcripts are there"
    sweep = "the next sweep of these transcripts writes them again"

    @property
    def done(self) -> str:
        """What a repair has done about it, as the user reads it."""
        return _DONE[self]


_DONE = {
    Remedy.drop: "dropped from the table; the next sweep scores its responses again",
    Remedy.relist: "listed as it is",
    Remedy.remake: "made anew from the parts",
    Remedy.set_aside: "moved to damaged/",
    Remedy.rewrite: "moved to damaged/; the next command that writes makes it again",
    Remedy.take_in: "taken into the table, or removed where its transcripts were there",
    Remedy.sweep: Remedy.sweep.value,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    name: str
    """Of a file or folder in the store."""
    what: str
    remedy: Remedy
    logged: LoggedPart | None = None
    """As the log has it; for `drop` and `relist`."""

    def __str__(self) -> str:
        return f"{self.name}: {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a results store holds, and what is wrong with it."""

    parts: int
    rows: int
    """Of the parts with which nothing is wrong."""
    transcripts: int
    """Different ones in those parts."""
    faults: tuple[Fault, ...]
    unknown: tuple[str, ...]
    """Names of files that psych_ray did not write; nothing reads or removes them."""
    uncommitted: int
    """Whole parts that a process which is running has not committed yet."""
    replaced: int
    """Files that left the table, and that a later command removes."""
