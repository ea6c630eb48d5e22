"""Renders chat templates in a process of its own, within limits of time, memory and output.

Templates come with checkpoints and are programs: they may loop, recurse, or ask for gigabytes in one expression, which
no thread of this process could end. Does not depend on tokenizers or conditions.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from psych_ray.child import module_command, module_environment
from psych_ray.errors import ReplicaLostError

SECONDS = 10.0
"""CPU time of one rendering, at most. One of 80,000 characters takes 0.1 s with the templates of Qwen 3 and OLMo 3."""
MEMORY_BYTES = 500_000_000
"""Memory of one rendering, at most."""
_WAIT_FACTOR = 12
"""A rendering may wait for a processor so many times as long as it may use one."""
_START_SECONDS = 300.0
_EXIT_SECONDS = 5.0
"""How long a process may take to end after it closed its connection."""
_CHARACTERS, _PER_CHARACTER, _PER_TURN = 1_000_000, 10, 1_000
"""Characters of output, at most: some, and some more for each character and each turn of the conversation."""


class LimitError(Exception):
    """A template that takes more time or memory, or writes more, than one rendering may; what it does, in words."""


class TemplateProcess:
    """A process that renders templates, started when it is first needed, and again after one exceeded a limit."""

    def __init__(self, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[bytes, bytes] | None = None

    def render(
        self,
        source: str,
        turns: Sequence[Mapping[str, str]],
        options: Mapping[str, Any],
        *,
        generation_prompt: bool,
    ) -> str:
        """Text of the turns. `options`: other variables of the template, as JSON can hold them.

        ValueError, with the template's message, where it raises an error; LimitError where it exceeds a limit;
        ReplicaLostError where the process was ended by something else, or does not answer.
        """
        characters = sum(len(value) for turn in turns for value in turn.values())
        most = _CHARACTERS + _PER_CHARACTER * characters + _PER_TURN * len(turns)
        request = {
            "source": source, "turns": [dict(turn) for turn in turns], "options": dict(options),
            "generation_prompt": generation_prompt, "most_characters": most,
        }  # fmt: skip
        with self._lock:
            answer = json.loads(self._ask(json.dumps(request).encode()))
            if answer.get("limit") == "memory":
                self._end()  # it may hold on to it
        if "text" in answer:
            return str(answer["text"])
        if "limit" in answer:
            memory = f"takes more than {self._memory_bytes / 1e9:.1g} GB of memory for a conversation"
            raise LimitError(memory if answer["limit"] == "memory" else f"writes more than {most:,} characters")
        raise ValueError(answer["error"])

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(_WAIT_FACTOR * self._seconds):
                self._end()
                raise ReplicaLostError("the process that renders chat templates does not answer")
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._death() from None

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        arguments = (theirs.fileno(), self._seconds, self._memory_bytes)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  a module of this package
                module_command("psych_ray.scoring.tokens.template_child", *arguments),
                # One thread: libraries reserve address space, which is limited, for each.
                env=module_environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            if self._connection.poll(_START_SECONDS):
                self._connection.recv_bytes()
                return
        except (EOFError, OSError):
            pass
        self._end()
        raise ReplicaLostError("the process that renders chat templates cannot be started")

    def _death(self) -> Exception:
        """Why the process ended: killed by the kernel for its CPU time, by a template's crash, or from outside."""
        assert self._process is not None
        try:
            status = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its connection and goes on
            self._process.kill()
            status = self._process.wait()
        self._end()
        if status == -signal.SIGPROF:
            return LimitError(f"takes more than {self._seconds:g} s for a conversation")
        if status in {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}:
            return LimitError(f"crashes the process that renders it ({signal.Signals(-status).name})")
        return ReplicaLostError(f"the process that renders chat templates was ended (exit status {status})")

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None


SHARED_PROCESS = TemplateProcess()
"""Renders for all checkpoints of this process."""
atexit.register(SHARED_PROCESS.close)
