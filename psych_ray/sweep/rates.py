"""Rates of replicas: measured ones where the results root has them, assumed ones elsewhere. Pure.

What a sweep measured of a checkpoint is compared with what was assumed for the same device; the ratio, its slowdown,
also applies to other numbers of ranks, and, as the median over checkpoints, to checkpoints that have not run yet. Does
not depend on where measurements are stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from psych_ray.results.schema import Measured
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, REFERENCE_CHARACTERS_PER_S, Device, device_named

_TOKENS_PER_S = 1e-3, 1e9
"""Least and most that can have been measured; anything else is a wrong footer."""
_CHARACTERS_PER_TOKEN_AT_MOST = 40.0
"""More is no text that was read: counts of other transcripts, or a condition that reads a fraction of them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one replica reads in a second."""

    tokens_per_s: float
    characters_per_token: float = CHARACTERS_PER_TOKEN
    """Of the source text; renderings repeat or omit some of it."""
    is_measured: bool = False
    """From the checkpoint's own units, or from those of others on the same kind of device."""

    @property
    def characters_per_s(self) -> float:
        """Of the source text."""
        return self.characters_per_token * self.tokens_per_s


@dataclass(slots=True)
class _Sums:
    tokens: float = 0.0
    seconds: float = 0.0
    assumed_seconds: float = 0.0

    def add(self, tokens: float, seconds: float, assumed_seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds
        self.assumed_seconds += assumed_seconds

    @property
    def slowdown(self) -> float:
        return self.seconds / self.assumed_seconds


@dataclass(frozen=True, slots=True)
class Rates:
    """The measurements of a root, summed. Keys: checkpoint (slug) and kind of device."""

    _slowdowns: Mapping[tuple[str, str], float] = field(default_factory=dict)
    _by_task: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    _tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    """Of checkpoints whose parts do not say what they ran on, by slug."""
    _characters_per_token: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By checkpoint and condition."""

    @classmethod
    def of(
        cls,
        measured: Mapping[tuple[str, str], Iterable[Measured]],
        n_parameters: Mapping[str, int],
        characters: Mapping[tuple[str, str], tuple[int, int]],
    ) -> Rates:
        """Sum measurements by checkpoint (slug) and condition.

        `n_parameters`: by slug; a checkpoint that is not in it, or has none, tells nothing. `characters`: characters of
        the source text and tokens read for them, of those tasks where both are known.
        """
        sums: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
        by_task: defaultdict[tuple[str, str, str], _Sums] = defaultdict(_Sums)
        elsewhere: defaultdict[str, _Sums] = defaultdict(_Sums)
        for (slug, condition), device, one in _usable(measured, n_parameters):
            if device is None:
                elsewhere[slug].add(one.tokens, one.seconds, 0.0)
                continue
            assumed_seconds = one.tokens / device.tokens_per_s(n_parameters[slug])
            sums[slug, device.kind].add(one.tokens, one.seconds, assumed_seconds)
            by_task[slug, condition, device.kind].add(one.tokens, one.seconds, assumed_seconds)
        per_token = {key: read / tokens for key, (read, tokens) in characters.items() if read > 0 and tokens > 0}
        return cls(
            {key: one.slowdown for key, one in sums.items()},
            {key: one.slowdown for key, one in by_task.items()},
            {slug: one.tokens / one.seconds for slug, one in elsewhere.items()},
            {key: ratio for key, ratio in per_token.items() if ratio <= _CHARACTERS_PER_TOKEN_AT_MOST},
        )

    def of_checkpoint(self, checkpoint: str, n_parameters: int, device: Device) -> Rate:
        """Rate of a checkpoint (slug) over all its conditions."""
        per_token = [ratio for (slug, _), ratio in self._characters_per_token.items() if slug == checkpoint]
        ratio = median(per_token) if per_token else CHARACTERS_PER_TOKEN
        return self._rate(checkpoint, n_parameters, device, self._slowdowns.get((checkpoint, device.kind)), ratio)

    def of_task(self, checkpoint: str, condition: str, n_parameters: int, device: Device) -> Rate:
        """Rate of a checkpoint (slug) under a condition."""
        slowdown = self._by_task.get((checkpoint, condition, device.kind))
        ratio = self._characters_per_token.get((checkpoint, condition))
        if slowdown is not None and ratio is not None:
            return self._rate(checkpoint, n_parameters, device, slowdown, ratio)
        return self.of_checkpoint(checkpoint, n_parameters, device)

    def _rate(self, slug: str, n_parameters: int, device: Device, slowdown: float | None, ratio: float) -> Rate:
        if not n_parameters:
            return Rate(REFERENCE_CHARACTERS_PER_S / CHARACTERS_PER_TOKEN)
        assumed = device.tokens_per_s(n_parameters)
        if slowdown is None and slug in self._tokens_per_s:
            return Rate(self._tokens_per_s[slug], ratio, is_measured=True)
        if slowdown is None:
            others = [one for (_, kind), one in self._slowdowns.items() if kind == device.kind]
            slowdown = median(others) if others else None
        if slowdown is None:
            return Rate(assumed, ratio)
        return Rate(assumed / slowdown, ratio, is_measured=True)


def _usable(
    measured: Mapping[tuple[str, str], Iterable[Measured]], n_parameters: Mapping[str, int]
) -> Iterable[tuple[tuple[str, str], Device | None, Measured]]:
    """Measurements of checkpoints of known size, with their device; None where it is not known."""
    for task, all_of_task in measured.items():
        for one in all_of_task:
            is_possible = one.seconds > 0 and _TOKENS_PER_S[0] <= one.tokens / one.seconds <= _TOKENS_PER_S[1]
            if is_possible and n_parameters.get(task[0]):
                yield task, device_named(one.device), one
