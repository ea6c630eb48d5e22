"""How far a sweep is: the events, counted. No clock and no output: the caller gives the time of each event, in seconds.

Units in progress count by what heartbeats tell of them; what a replica had read when it failed is no longer counted.
Time before the first unit of a task (queueing, loading) is not part of its rate. Remaining times are in `remaining`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import Event, TaskPlan
from psych_ray.tracking.running import RunningMeans


class Pace:
    """Tokens against time, of a task or of the whole sweep."""

    def __init__(self) -> None:
        self.tokens = 0
        """Of committed parts."""
        self.tokens_reading = 0.0
        """Of units that are not committed."""
        self.first_at: float | None = None
        self.last_at: float | None = None

    @property
    def seconds(self) -> float:
        """From the start of the first unit to the last committed part or heartbeat."""
        return 0.0 if self.first_at is None or self.last_at is None else self.last_at - self.first_at

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read per second of wall time; None before the first heartbeat or part."""
        tokens = self.tokens + self.tokens_reading
        return tokens / self.seconds if self.seconds > 0 and tokens > 0 else None

    def start(self, at: float) -> None:
        """A unit started."""
        if self.first_at is None:
            self.first_at = at

    def add(self, tokens: int, at: float) -> None:
        """A part was committed."""
        self.start(at)
        self.tokens += tokens
        self.last_at = at

    def read(self, tokens: float, at: float) -> None:
        """Units that are not committed have read so many tokens."""
        self.tokens_reading = tokens
        if tokens:
            self.last_at = at


@dataclass(slots=True)
class UnitProgress:
    """A unit that a replica has, or that waits to be committed."""

    characters: int
    responses: int
    began: float
    read_at: float
    """When the last heartbeat told of it."""
    characters_read: float = 0.0
    tokens: float = 0.0

    @property
    def share(self) -> float:
        """Of its characters that were read."""
        return min(1.0, self.characters_read / self.characters) if self.characters else 0.0

    @property
    def seconds(self) -> float:
        """For which it has been read."""
        return self.read_at - self.began if self.characters_read else 0.0


class TaskProgress:
    """One checkpoint under one condition."""

    def __init__(self, plan: TaskPlan) -> None:
        self.plan = plan
        self.pace = Pace()
        self.means = RunningMeans(plan.tallies)
        self.units_committed = 0
        self.responses_new = 0
        """Committed by this sweep."""
        self.responses_skipped = 0
        self.seconds_committed = 0.0
        """That replicas took for what this sweep committed."""
        self.reading: dict[str, UnitProgress] = {}
        """Units that replicas have, by id."""

    def start(self, event: events.UnitStarted, at: float) -> None:
        """A replica has received a unit."""
        self.pace.start(at)
        self.reading[event.unit] = UnitProgress(event.characters, event.responses, at, at)

    def read(self, event: events.UnitReading, at: float) -> None:
        """A replica has told how far it is with a unit."""
        unit = self.reading.get(event.unit)
        if unit is not None:
            unit.read_at, unit.characters_read, unit.tokens = at, event.characters, event.tokens
            self._update_pace(at)

    def lose(self, unit: str, at: float) -> None:
        """A unit is not with a replica any more, and will not be committed."""
        self.reading.pop(unit, None)
        self._update_pace(at)

    def commit(self, report: UnitReport, at: float) -> None:
        """A part is committed."""
        unit = self.reading.pop(report.given or report.unit, None)
        self.pace.add(report.tokens, at)
        self._update_pace(at)
        self.means.add(report.by_study)
        self.units_committed += 1
        self.responses_new += report.responses
        self.seconds_committed += report.seconds if unit is None else max(report.seconds, unit.seconds)

    def _update_pace(self, at: float) -> None:
        self.pace.read(sum(unit.tokens for unit in self.reading.values()), at)

    @property
    def units(self) -> int:
        """Units of this sweep; more than planned where units were split."""
        return max(self.plan.units, self.units_committed)

    @property
    def responses_committed(self) -> int:
        """By this sweep and earlier ones."""
        return self.plan.responses_committed + self.responses_new

    @property
    def responses_read(self) -> float:
        """Committed ones, and those of units in progress in proportion to their characters that were read."""
        read = self.responses_committed + sum(unit.share * unit.responses for unit in self.reading.values())
        return min(read, self.plan.responses)

    @property
    def started(self) -> bool:
        """A unit was started in this sweep."""
        return self.pace.first_at is not None

    @property
    def complete(self) -> bool:
        """Every response of the plan is committed."""
        return self.responses_committed >= self.plan.responses

    @property
    def settled(self) -> bool:
        """Every response of the plan is committed or skipped: no unit is left."""
        return self.responses_committed + self.responses_skipped >= self.plan.responses

    @property
    def share_read(self) -> float:
        """Of what this sweep is to score: committed, or read in units in progress; from 0 to 1."""
        missing = self.plan.responses - self.plan.responses_committed
        return min(1.0, (self.responses_read - self.plan.responses_committed) / missing) if missing > 0 else 1.0

    @property
    def share_left(self) -> float:
        """Of what this sweep is to score: neither read nor skipped; from 0 to 1."""
        missing = self.plan.responses - self.plan.responses_committed
        return max(0.0, 1.0 - self.share_read - self.responses_skipped / missing) if missing > 0 else 0.0

    @property
    def seconds_spent(self) -> float:
        """That replicas took for what was read."""
        return self.seconds_committed + sum(unit.seconds for unit in self.reading.values())


class SweepProgress:
    """All tasks, and the checkpoints that are loading."""

    def __init__(self, tasks: Iterable[TaskPlan] = ()) -> None:
        self.tasks = {task.key: TaskProgress(task) for task in tasks}
        self.loading: dict[str, float] = {}
        """When loading began, by slug; in the order in which it began."""
        self.loading_seconds: dict[str, float] = {}
        """How long the latest replica took to load, by slug."""
        self.pace = Pace()
        self.started_seconds: dict[str, float] = {}
        """The same from when its processes were asked for, by slug."""
        self.failures = 0
        """Including those that were retried."""
        self.ranks: int | None = None
        """Of all replicas that load or score; None where it is not known."""
        self.changed_at = 0.0

    def handle(self, event: Event, at: float) -> None:
        """Count the event. KeyError where its task is not in the plan."""
        self.changed_at = at
        match event:
            case events.CheckpointLoading(checkpoint):
                self.loading.setdefault(checkpoint, at)
            case events.CheckpointLoaded(checkpoint, seconds):
                self.started_seconds[checkpoint] = at - self.loading.pop(checkpoint, at - seconds)
                self.loading_seconds[checkpoint] = seconds
            case events.UnitStarted() | events.Progressed() | events.UnitLost() | events.UnitCommitted():
                self._count_units(event, at)
            case events.ResponsesSkipped(checkpoint, condition, responses):
                # A checkpoint that could not be loaded is skipped, and is then no longer loading.
                self.loading.pop(checkpoint, None)
                self.tasks[checkpoint, condition].responses_skipped += responses
            case events.Failed():
                self.failures += 1
            case _:
                pass

    def _count_units(
        self, event: events.UnitStarted | events.Progressed | events.UnitLost | events.UnitCommitted, at: float
    ) -> None:
        match event:
            case events.UnitStarted(checkpoint, condition):
                self.tasks[checkpoint, condition].start(event, at)
                self.pace.start(at)
            case events.Progressed(units, ranks):
                self.ranks = ranks
                for unit in units:
                    self.tasks[unit.checkpoint, unit.condition].read(unit, at)
            case events.UnitLost(checkpoint, condition, lost):
                self.tasks[checkpoint, condition].lose(lost, at)
            case events.UnitCommitted(report):
                self.tasks[report.checkpoint, report.condition].commit(report, at)
                self.pace.add(report.tokens, at)
        self._update_pace(at)

    @property
    def responses_committed(self) -> int:
        """By this sweep and earlier ones."""
        return sum(task.responses_committed for task in self.tasks.values())

    @property
    def responses_read(self) -> float:
        """Those, and the share of units in progress that was read."""
        return sum(task.responses_read for task in self.tasks.values())

    @property
    def responses(self) -> int:
        """Responses in the plan."""
        return sum(task.plan.responses for task in self.tasks.values())

    @property
    def running(self) -> list[TaskProgress]:
        """Started and not settled, in the order in which they started."""
        tasks = [task for task in self.tasks.values() if task.started and not task.settled]
        return sorted(tasks, key=lambda task: task.pace.first_at or 0.0)

    @property
    def complete(self) -> int:
        """Tasks of which every response is committed."""
        return sum(task.complete for task in self.tasks.values())

    @property
    def waiting(self) -> int:
        """Tasks that have not started and whose checkpoint is not loading."""
        return sum(not (task.started or task.settled or slug in self.loading) for (slug, _), task in self.tasks.items())

    def _update_pace(self, at: float) -> None:
        self.pace.read(sum(task.pace.tokens_reading for task in self.tasks.values()), at)
