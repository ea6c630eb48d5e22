"""Numbers and intervals in sentences, which say no more than the interval allows.

An interval that includes zero is no difference, a missing one no direction. Independent of tables and of findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from psych_ray.report.findings.finding import Number

_MAX_DECIMALS = 5


class Direction(Enum):
    """Where the 95 % interval of an estimate is."""

    above = "above zero"
    below = "below zero"
    includes = "includes zero"
    unknown = "no interval"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, which is None where there are too few studies."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(
        cls, row: Mapping[str, Any], value: str = "d", low: str = "low", high: str = "high", *, minus: float = 0.0
    ) -> Estimate:
        """From the columns of a table; `minus` is subtracted."""
        value_, low_, high_ = (None if row[name] is None else row[name] - minus for name in (value, low, high))
        return cls(value_, low_, high_)

    @property
    def direction(self) -> Direction:
        """Of the interval, not of the value."""
        if any(each is None or not math.isfinite(each) for each in (self.value, self.low, self.high)):
            return Direction.unknown
        assert self.low is not None
        assert self.high is not None
        return Direction.above if self.low > 0 else Direction.below if self.high < 0 else Direction.includes

    def text(self, name: str = "d") -> str:
        """For example `d = 0.14, 95 % interval 0.10 to 0.18`."""
        if self.value is None:
            return f"{name} is not known"
        if self.direction is Direction.unknown:
            return f"{name} = {number(self.value)}, too few studies for an interval"
        assert self.low is not None
        assert self.high is not None
        digits = self._decimals()
        value, low, high = (number(each, digits) for each in (self.value, self.low, self.high))
        return f"{name} = {value}, 95 % interval {low} to {high}"

    def _decimals(self) -> int:
        """Two, or as many as show that an interval excludes zero."""
        assert self.low is not None
        assert self.high is not None
        for decimals in range(2, _MAX_DECIMALS):
            shown = [round(each, decimals) for each in (self.low, self.high)]
            if self.direction is Direction.includes or all(shown):
                return decimals
        return _MAX_DECIMALS

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals share a value; also where one is not known."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

    def number(self, of: str, measure: str, n: Mapping[str, int] | None = None) -> Number:
        """For summary.json."""
        return Number(of=of, measure=measure, estimate=self.value, low=self.low, high=self.high, n=n or {})


def number(value: float, decimals: int = 2) -> str:
    """With this many decimals, without a sign on zero."""
    return f"{value:z.{decimals}f}"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """`1 pair`, `1,200 pairs`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or noun + 's'}"


def listed(items: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; of more than `most`, the first and how many there are besides."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([*([", ".join(items[:-1])] if len(items) > 1 else []), *items[-1:]])


def claim(estimate: Estimate, *, above: str, below: str, none: str, unknown: str) -> str:
    """The words for the direction of the interval."""
    words = {
        Direction.above: above,
        Direction.below: below,
        Direction.includes: none,
        Direction.unknown: unknown,
    }
    return words[estimate.direction]


def directions(estimates: Iterable[Estimate]) -> dict[Direction, int]:
    """How many intervals are where."""
    found = dict.fromkeys(Direction, 0)
    for each in estimates:
        found[each.direction] += 1
    return found


def tally_text(found: Mapping[Direction, int], of: str, *, who: str, above: str, below: str) -> str:
    """`Of 18 pairs, {who} {above} in 10 and {below} in 1; in 7 the 95 % interval includes zero.` without what is none.

    `of`: for example `18 pairs`.
    """
    if found[Direction.unknown] == sum(found.values()):
        return f"Of {of}, none has an interval, so that no direction can be told."
    told = [
        f"{words} in {found[each]}"
        for each, words in ((Direction.above, above), (Direction.below, below))
        if found[each]
    ]
    if not told:
        none = f"For none of {of} can it be told that {who} {above}"
        return f"{none}{f' or {below}' if below else ''}: {_rest(found)}."
    return f"Of {of}, {who} {' and '.join(told)}{f'; {_rest(found)}' if _rest(found) else ''}."


def _rest(found: Mapping[Direction, int]) -> str:
    rest = []
    if found[Direction.includes]:
        rest.append(f"in {found[Direction.includes]} the 95 % interval includes zero")
    if found[Direction.unknown]:
        rest.append(f"{found[Direction.unknown]} {'has' if found[Direction.unknown] == 1 else 'have'} no interval")
    return "; ".join(rest)
