"""How far a sweep is: the events, counted. No clock and no output: the caller gives the time of each event, in seconds.

Rates and remaining times come from committed parts only: they change when a part is committed and count down in
between. Time before the first unit of a task (queueing, loading) is not part of its rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from psych_ray.tracking import events
from psych_ray.tracking.events import Event, TaskPlan
from psych_ray.tracking.running import RunningMeans


class Pace:
    """Tokens against time, of a task or of the whole sweep."""

    def __init__(self) -> None:
        self.tokens = 0
        self.first_at: float | None = None
        self.last_at: float | None = None

    @property
    def seconds(self) -> float:
        """From the start of the first unit to the last committed part."""
        return 0.0 if self.first_at is None or self.last_at is None else self.last_at - self.first_at

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read per second of wall time; None before the first part."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    def start(self, at: float) -> None:
        """A unit started."""
        if self.first_at is None:
            self.first_at = at

    def add(self, tokens: int, at: float) -> None:
        """A part was committed."""
        self.start(at)
        self.tokens += tokens
        self.last_at = at

    def seconds_left(self, done: float, remaining: float, at: float) -> float | None:
        """Time for `remaining` at the mean rate of `done`; None before the first part."""
        if remaining <= 0:
            return 0.0
        if done <= 0 or self.seconds <= 0 or self.last_at is None:
            return None
        return max(0.0, remaining * self.seconds / done - (at - self.last_at))


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

    @property
    def units(self) -> int:
        """Units of this sweep; more than planned where units were split."""
        return max(self.plan.units, self.units_committed)

    @property
    def responses_committed(self) -> int:
        """By this sweep and earlier ones."""
        return self.plan.responses_committed + self.responses_new

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
    def characters_done(self) -> float:
        """Characters read in this sweep, estimated from the fraction of its responses that is committed."""
        missing = self.plan.responses - self.plan.responses_committed
        return self.plan.characters * min(1.0, self.responses_new / missing) if missing > 0 else 0.0

    def seconds_left(self, at: float) -> float | None:
        """Estimated from responses."""
        remaining = self.plan.responses - self.responses_committed - self.responses_skipped
        return self.pace.seconds_left(self.responses_new, remaining, at)


class SweepProgress:
    """All tasks, and the checkpoints that are loading."""

    def __init__(self, tasks: Iterable[TaskPlan] = ()) -> None:
        self.tasks = {task.key: TaskProgress(task) for task in tasks}
        self.loading: dict[str, float] = {}
        """When loading began, by slug; in the order in which it began."""
        self.loading_seconds: dict[str, float] = {}
        """How long the latest replica took to load, by slug."""
        self.pace = Pace()
        self.failures = 0
        """Including those that were retried."""

    def handle(self, event: Event, at: float) -> None:
        """Count the event. KeyError where its task is not in the plan."""
        match event:
            case events.CheckpointLoading(checkpoint):
                self.loading.setdefault(checkpoint, at)
            case events.CheckpointLoaded(checkpoint, seconds):
                self.loading.pop(checkpoint, None)
                self.loading_seconds[checkpoint] = seconds
            case events.UnitStarted(checkpoint, condition):
                self.tasks[checkpoint, condition].pace.start(at)
                self.pace.start(at)
            case events.UnitCommitted(report):
                task = self.tasks[report.checkpoint, report.condition]
                task.pace.add(report.tokens, at)
                task.means.add(report.by_study)
                task.units_committed += 1
                task.responses_new += report.responses
                self.pace.add(report.tokens, at)
            case events.ResponsesSkipped(checkpoint, condition, responses):
                # A checkpoint that could not be loaded is skipped, and is then no longer loading.
                self.loading.pop(checkpoint, None)
                self.tasks[checkpoint, condition].responses_skipped += responses
            case events.Failed():
                self.failures += 1
            case events.SweepStarted() | events.Noted() | events.SweepEnded():
                pass

    @property
    def responses_committed(self) -> int:
        """By this sweep and earlier ones."""
        return sum(task.responses_committed for task in self.tasks.values())

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

    def seconds_left(self, at: float) -> float | None:
        """Estimated from characters, because responses of different studies take very different times."""
        done = sum(task.characters_done for task in self.tasks.values())
        planned = sum(task.plan.characters for task in self.tasks.values())
        return self.pace.seconds_left(done, planned - done, at)
