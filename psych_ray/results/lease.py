"""The lease of a results root: who writes to it at the moment, so that a second sweep is refused at once.

A file that its holder writes again every few seconds; its age is read by the storage's own clock, so the clocks of
machines need not agree. The lease is for people: that two processes never both commit is guaranteed by `results.log`.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from psych_ray.errors import PsychRayError, ResultsError, UnreachableError
from psych_ray.results.log import TakenOverError
from psych_ray.results.store import ResultsStore

UNREACHABLE_S = 900.0
_RENEWALS = 6
"""How often a lease is written again in the time after which it may be taken over."""
_RELEASED_S = 10.0
"""How long the end of a lease may take; what is not removed then is taken over by the next process."""
_FOLDER = "lease"
_NAME = f"{_FOLDER}/holder.json"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lease."""

    id: str
    command: str
    user: str
    host: str
    process: int
    process_space: str
    """Boot and namespace in which the number of the process has a meaning; empty where that is not known."""
    started: int
    """Of the process, clock ticks after boot."""
    since: str

    @classmethod
    def this_process(cls, command: str) -> Holder:
        """Describe the process that calls this."""
        return cls(
            id=uuid.uuid4().hex,
            command=command,
            user=_user(),
            host=socket.gethostname(),
            process=os.getpid(),
            process_space=_process_space(),
            started=_started(os.getpid()) or 0,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def runs(self) -> bool | None:
        """Whether the process still exists; None where this machine cannot tell."""
        if not self.process_space or self.process_space != _process_space():
            return None
        return _started(self.process) == self.started

    def __str__(self) -> str:
        return f"{self.command} of {self.user} on {self.host} (process {self.process}, since {self.since})"


class Lease:
    """A lease that this process holds, until another process takes it over."""

    def __init__(self, store: ResultsStore, holder: Holder, seconds: float, unreachable_seconds: float) -> None:
        self._store = store
        self._unreachable_s = unreachable_seconds
        self._unreachable: tuple[float, UnreachableError] | None = None
        """Since when the store gives no answer, by the monotonic clock, and what it was asked last."""
        self._every_s = seconds / _RENEWALS
        self._holder = holder
        self._taken_by: Holder | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def require(self) -> None:
        """Raise TakenOverError where another process is known to have taken the lease.

        ResultsError where the store has not answered for `unreachable_seconds`.
        """
        if self._taken_by is not None:
            raise TakenOverError(
                f"{self._store.location}: taken over by {self._taken_by} while this process did not answer; what it "
                "committed stays, the rest is left to the other"
            )
        since, error = self._unreachable or (None, None)
        if since is not None and time.monotonic() - since >= self._unreachable_s:
            raise ResultsError(f"{error}; given up, the same command continues") from error

    def _beat(self) -> None:
        """Renew the lease until it is released, and then remove it, unless another process takes it over."""
        while not self._released.wait(self._every_s):
            began = time.monotonic()
            try:
                if not self._is_held():
                    return
                _write(self._store, self._holder)
            except UnreachableError as error:  # perhaps away for a while: the lease grows older
                since, _ = self._unreachable or (began, None)
                self._unreachable = since, error
            except PsychRayError:
                continue
            else:
                self._unreachable = None
        with suppress(PsychRayError):
            if self._is_held():
                self._store.remove([_NAME])

    def _is_held(self) -> bool:
        holder = _read(self._store)
        if holder is not None and holder.id != self._holder.id:
            self._taken_by = holder
        return self._taken_by is None

    def start(self) -> None:
        """Begin to renew the lease."""
        self._thread.start()

    def release(self) -> None:
        """Stop renewing the lease, and remove it where it is still held and the store answers soon."""
        self._released.set()
        self._thread.join(timeout=_RELEASED_S)


@contextmanager
def hold_lease(
    store: ResultsStore,
    command: str,
    *,
    seconds: float,
    say: Callable[[str], None],
    unreachable_seconds: float = UNREACHABLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Hold the lease of a results root for as long as the block runs.

    ResultsError names the holder where another process holds it. A lease whose holder is gone, or did not renew it for
    `seconds`, is taken over; `say` gets a line while this waits to learn that.
    """
    holder = Holder.this_process(command)
    if not store.create(_NAME, _content(holder)):
        _require_stale(store, seconds, say=say, sleep=sleep)
        _write(store, holder)
        now = _read(store)
        if now is None or now.id != holder.id:
            raise ResultsError(_refusal(store, now))
    lease = Lease(store, holder, seconds, unreachable_seconds)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


def holder_of(store: ResultsStore) -> Holder | None:
    """The process that holds the lease, as far as this machine can tell; None where there is none."""
    holder = _read(store)
    return None if holder is None or holder.runs is False else holder


def _require_stale(
    store: ResultsStore, seconds: float, *, say: Callable[[str], None], sleep: Callable[[float], None]
) -> None:
    """Return once the lease is free or stale; ResultsError as soon as it is known that its holder runs."""
    seen: float | None = None
    waited, pause = 0.0, seconds / _RENEWALS / 5
    while True:
        holder, renewed = _read(store), _renewed(store)
        runs = None if holder is None else holder.runs
        # Waiting also ends for a lease from the future, which is left when the storage's clock is set back.
        if renewed is None or runs is False or max(_now(store) - renewed, waited) > seconds:
            return
        if runs or (seen is not None and renewed != seen):
            raise ResultsError(_refusal(store, holder))
        if seen is None:
            say(f"{store.location} was in use by {holder or 'another process'}: waiting to learn whether it still is")
        seen = renewed
        sleep(pause)
        waited += pause


def _refusal(store: ResultsStore, holder: Holder | None) -> str:
    return (
        f"results.root={store.location} is in use by {holder or 'another process'}: "
        "wait for its end, stop it, or name another results.root"
    )


def _read(store: ResultsStore) -> Holder | None:
    """Holder of the lease; None where there is none, or its file is damaged."""
    if not store.exists(_NAME):
        return None
    try:
        return Holder(**json.loads(store.read(_NAME)))
    except (ValueError, TypeError, RecursionError):
        return None


def _write(store: ResultsStore, holder: Holder) -> None:
    store.write(_NAME, _content(holder))


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _renewed(store: ResultsStore) -> float | None:
    """When the lease was written, by the clock of the storage."""
    return next((file.modified for file in store.files(_FOLDER) if file.name == _NAME), None)


def _now(store: ResultsStore) -> float:
    """The present time by the clock of the storage: that of a file that is written now."""
    name = f"{_FOLDER}/clock-{uuid.uuid4().hex}"
    store.write(name, b"")
    try:
        return next(file.modified for file in store.files(_FOLDER) if file.name == name)
    finally:
        store.remove([name])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return str(os.getuid())


def _process_space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> int | None:
    """When a process started, clock ticks after boot; None where there is no such process, or it has ended."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in {"Z", "X"} else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
