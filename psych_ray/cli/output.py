"""What happens when the reader of stdout or stderr leaves, as `head` does: a command ends quietly, a sweep goes on.

The streams of the process are replaced, so that every writer is covered, those of libraries too. Knows no command.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_LEFT = 141
"""Exit code of a command whose output nobody reads: 128 + SIGPIPE, as a shell gives for cat and grep."""


class ReaderLeftError(OSError):
    """Nobody reads stdout any more. No BrokenPipeError, for which rich ends the process with another exit code."""


class _Descriptor(io.FileIO):
    """A file descriptor that is redirected to the null device once its reader has left."""

    def __init__(self, descriptor: int, name: str, *, goes_on: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.name = name
        self._goes_on = goes_on

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._has_no_reader(error):
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())  # also what is still buffered, and what the interpreter flushes at its end
        os.close(null)
        if not self._goes_on:
            raise ReaderLeftError(errno.EPIPE, "the reader of the output has left")
        return super().write(data)

    def _has_no_reader(self, error: OSError) -> bool:
        """Whether this is a pipe without reader, or a terminal that was closed; other files may fail with EIO too."""
        is_terminal = stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return error.errno == errno.EPIPE or (error.errno == errno.EIO and is_terminal)


def watch_readers(*, goes_on: bool) -> None:
    """Replace stdout and stderr of this process by streams that notice when their reader leaves.

    What is written to stderr afterwards is dropped. With `goes_on` that holds for stdout as well; without, writing to
    stdout raises ReaderLeftError once.
    """
    sys.stdout = _watched(sys.stdout, goes_on=goes_on)
    sys.stderr = _watched(sys.stderr, goes_on=True)


def _watched(stream: TextIO, *, goes_on: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None where the descriptor is closed
        return stream
    stream.flush()
    raw = _Descriptor(stream.fileno(), stream.name, goes_on=goes_on)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as Python does for -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
