"""Tells the tracker how far replicas are with their units, from their heartbeats. Decides nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psych_ray.sweep.unit import Unit
from psych_ray.tracking import events
from psych_ray.tracking.events import Tracker
from psych_ray.worker.heartbeat import Heartbeat


@dataclass(slots=True)
class UnitsInProgress:
    """The units that replicas have, from when they are handed out until they are reported or lost."""

    tracker: Tracker
    _units: dict[int, Unit] = field(default_factory=dict)
    """By replica."""

    def given(self, replica: int, unit: Unit) -> None:
        """A replica was given a unit."""
        self._units[replica] = unit
        self.tracker.handle(
            events.UnitStarted(unit.checkpoint, unit.condition, unit.id, unit.n_characters, unit.n_responses)
        )

    def reported(self, replica: int) -> None:
        """A replica has reported its unit, which waits to be committed."""
        self._units.pop(replica, None)

    def lost(self, replica: int) -> None:
        """A replica failed or was stopped; what it has read of its unit, if it had one, is lost."""
        if (unit := self._units.pop(replica, None)) is not None:
            self.tracker.handle(events.UnitLost(unit.checkpoint, unit.condition, unit.id))

    def tell(self, heartbeats: Mapping[tuple[int, int], Heartbeat], *, ranks: int) -> None:
        """Tell how far all are. `heartbeats`: the last of each rank, by replica and rank; `ranks`: of all replicas."""
        told = []
        for replica, unit in self._units.items():
            first = heartbeats.get((replica, 0))
            if first is None or first.reading is None or first.reading.unit != unit.id:
                continue  # it has not begun with this unit
            gpus = tuple(beat.gpu for (of, _), beat in heartbeats.items() if of == replica and beat.gpu is not None)
            reading = first.reading
            told.append(events.UnitReading(*unit.task, unit.id, reading.characters, reading.tokens, gpus=gpus))
        self.tracker.handle(events.Progressed(tuple(told), ranks))
