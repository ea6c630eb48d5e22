"""How a command ends when it is asked to by a signal, or when it must because a library does not return.

The first signal asks: work in flight may be finished for a while, where the main thread says so (`patiently`);
elsewhere, and at the second signal, KeyboardInterrupt is raised. A thread ends the process where the main thread does
not get that far, because it is inside C++ code that does not look for signals. Depends on nothing else of psych_ray.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
INTERRUPTED_LINE = "interrupted; what is committed stays, the same command continues"

PATIENCE_S: Mapping[int, float] = {signal.SIGINT: 30.0, signal.SIGTERM: 10.0, signal.SIGHUP: 10.0}
"""How long work in flight may take after the first signal. A preempted machine often has 30 s from SIGTERM on."""
CLEAN_UP_S = 15.0
"""How long the main thread may take from the last signal, or the end of the patience, to its end."""


class Ending:
    """What has been asked of this process. Without `signals`, nothing ever is."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._is_patient = False
        self._is_raised = False
        self._handled: list[int] = []
        self.skips_clean_up = False
        """Whether the interpreter's own clean-up would not return, because a library waits for what is gone."""

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._until is not None

    @property
    def seconds_left(self) -> float:
        """Time that work in flight may still take after a signal."""
        return 0.0 if self._until is None or self._is_raised else max(0.0, self._until - time.monotonic())

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Within the context, the first signal does not raise: the block looks at `is_asked` and `seconds_left`."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False
            self._is_raised = self._is_raised or self.is_asked

    def interrupt(self) -> NoReturn:
        """Raise KeyboardInterrupt after the first signal; the second one then does not interrupt what cleans up."""
        self._is_raised = True
        raise KeyboardInterrupt

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within the context, SIGINT, SIGTERM and SIGHUP are handled as the module says. For the main thread."""
        # nohup ignores SIGHUP
        self._handled = [n for n in PATIENCE_S if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        numbers, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        before = {number: signal.getsignal(number) for number in self._handled}
        self.take_back()
        wakeup_before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(numbers,), name="signals", daemon=True)
        thread.start()
        hook_before, sys.unraisablehook = sys.unraisablehook, self._raise_again
        try:
            yield
        finally:
            sys.unraisablehook = hook_before
            self._handled = []
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            wakeup.close()
            thread.join()
            numbers.close()

    def take_back(self) -> None:
        """Install the handlers again, after a library has installed its own; nothing outside of `signals`."""
        for number in self._handled:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = self._until is None
        if is_first:
            self._until = time.monotonic() + PATIENCE_S[number]
        if not (self._is_raised or (is_first and self._is_patient)):
            self._is_raised = True  # once: a second one would interrupt what cleans up after the first
            raise KeyboardInterrupt

    def _raise_again(self, ignored: sys.UnraisableHookArgs) -> None:
        """Repeat an interruption that came where Python prints exceptions and goes on, such as after a fork."""
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(ignored)
            return
        self._is_raised = False
        again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    def _watch(self, numbers: socket.socket) -> None:
        """End the process if it has not ended in time; Python writes the number of every signal to the socket."""
        n_signals, deadline = 0, float("inf")
        while True:
            numbers.settimeout(None if n_signals == 0 else max(0.0, deadline - time.monotonic()) or 1e-3)
            try:
                received = numbers.recv(1)
            except TimeoutError:
                end_process(INTERRUPTED_LINE, INTERRUPTED)
            if not received:
                return
            number = received[0]
            if number not in self._handled:
                continue
            n_signals += 1
            patience_s = PATIENCE_S[number] if n_signals == 1 and self._is_patient else 0.0
            deadline = min(deadline, time.monotonic() + patience_s + CLEAN_UP_S)


@contextmanager
def ends_within(seconds: float, line: str, exit_code: int = 1) -> Iterator[None]:
    """End the process, with a line on stderr, if the block takes longer than `seconds`, even in C++ code."""
    timer = threading.Timer(seconds, end_process, (line, exit_code))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_process(line: str | None, exit_code: int) -> NoReturn:
    """End now, with a line on stderr, without the interpreter's own clean-up, which waits for threads of libraries."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    with suppress(OSError):
        os.write(2, f"psych-ray: {line}\n".encode() if line else b"")
    os._exit(exit_code)


ENDING = Ending()
"""Of this process, as signals are."""
