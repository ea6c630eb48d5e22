"""How far a sweep is: what the events say, counted. No clock, no output: every event brings its time, in seconds.

Rates and remaining times come from committed parts only, so they move when a part is committed and count down in
between. Time before the first unit of a task is taken (queueing, loading) is not in its rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.base import Task
from psych_ray.tracking.running import RunningMeans


class Pace:
    """Amount done against time; the common part of a task and of the whole sweep."""

    def __init__(self) -> None:
        self.tokens = 0
        self.first_at: float | None = None
        self.last_at: float | None = None

    @property
    def seconds(self) -> float:
        """From the first unit taken to the last part committed."""
        return 0.0 if self.first_at is None or self.last_at is None else self.last_at - self.first_at

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read per second of wall time; None before the first part."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    def begin(self, at: float) -> None:
        """A unit was taken."""
        if self.first_at is None:
            self.first_at = at

    def advance(self, tokens: int, at: float) -> None:
        """A part was committed."""
        self.begin(at)
        self.tokens += tokens
        self.last_at = at

    def seconds_left(self, done: float, remaining: float, at: float) -> float | None:
        """What `remaining` will take if it goes as `done` went; None when that cannot be told yet."""
        if remaining <= 0:
            return 0.0
        if done <= 0 or self.seconds <= 0 or self.last_at is None:
            return None
        return max(0.0, remaining * self.seconds / done - (at - self.last_at))


class TaskProgress:
    """One checkpoint under one condition."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pace = Pace()
        self.means = RunningMeans(task.scored_by_study)
        self.units_done = 0
        self.responses_done = 0
        self.responses_aside = 0
        """Cannot be scored in this sweep."""

    @property
    def units(self) -> int:
        """Units of this sweep; more than planned where units were split."""
        return max(self.task.units, self.units_done)

    @property
    def responses(self) -> int:
        """Responses committed in total, by earlier runs too."""
        return self.task.responses_committed + self.responses_done

    @property
    def started(self) -> bool:
        """A unit was taken in this sweep."""
        return self.pace.first_at is not None

    @property
    def complete(self) -> bool:
        """Every response of the plan is committed."""
        return self.responses >= self.task.responses

    @property
    def settled(self) -> bool:
        """Every response of the plan is committed or set aside: nothing more will come."""
        return self.responses + self.responses_aside >= self.task.responses

    @property
    def characters_done(self) -> float:
        """Characters read in this sweep, estimated from the share of its responses that is committed."""
        to_do = self.task.responses - self.task.responses_committed
        return self.task.characters * min(1.0, self.responses_done / to_do) if to_do > 0 else 0.0

    def seconds_left(self, at: float) -> float | None:
        """Estimated from responses."""
        remaining = self.task.responses - self.responses - self.responses_aside
        return self.pace.seconds_left(self.responses_done, remaining, at)


class SweepProgress:
    """All tasks, and the checkpoints that are loading."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self.tasks = {task.key: TaskProgress(task) for task in tasks}
        self.loading: dict[str, float] = {}
        """Since when, by slug; in the order in which loading began."""
        self.loading_seconds: dict[str, float] = {}
        """How long the latest replica took to load, by slug."""
        self.pace = Pace()
        self.troubles = 0

    @property
    def responses(self) -> int:
        """Responses committed in total, by earlier runs too."""
        return sum(task.responses for task in self.tasks.values())

    @property
    def responses_planned(self) -> int:
        """Responses in the plan."""
        return sum(task.task.responses for task in self.tasks.values())

    @property
    def running(self) -> list[TaskProgress]:
        """Started and not settled, in the order in which they started."""
        tasks = [task for task in self.tasks.values() if task.started and not task.settled]
        return sorted(tasks, key=lambda task: task.pace.first_at or 0.0)

    @property
    def complete(self) -> int:
        """Tasks with every response committed."""
        return sum(task.complete for task in self.tasks.values())

    @property
    def waiting(self) -> int:
        """Tasks that have not begun and whose checkpoint is not loading either."""
        return sum(not (task.started or task.settled or slug in self.loading) for (slug, _), task in self.tasks.items())

    def seconds_left(self, at: float) -> float | None:
        """Estimated from characters: responses of different studies take very different times."""
        done = sum(task.characters_done for task in self.tasks.values())
        planned = sum(task.task.characters for task in self.tasks.values())
        return self.pace.seconds_left(done, planned - done, at)

    def load(self, slug: str, at: float) -> None:
        """A replica of the checkpoint begins to load."""
        self.loading.setdefault(slug, at)

    def ready(self, slug: str, seconds: float) -> None:
        """A replica of the checkpoint has loaded."""
        self.loading.pop(slug, None)
        self.loading_seconds[slug] = seconds

    def set_aside(self, key: tuple[str, str], responses: int) -> TaskProgress:
        """Responses of the task cannot be scored; if its checkpoint was loading, it no longer is."""
        self.loading.pop(key[0], None)
        task = self.tasks[key]
        task.responses_aside += responses
        return task

    def begin(self, key: tuple[str, str], at: float) -> TaskProgress:
        """A unit of the task was taken."""
        task = self.tasks[key]
        task.pace.begin(at)
        self.pace.begin(at)
        return task

    def advance(self, report: UnitReport, at: float) -> TaskProgress:
        """A part was committed."""
        task = self.tasks[report.checkpoint, report.condition]
        task.pace.advance(report.tokens, at)
        task.means.add(report.by_study)
        task.units_done += 1
        task.responses_done += report.responses
        self.pace.advance(report.tokens, at)
        return task
