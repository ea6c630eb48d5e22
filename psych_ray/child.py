"""Processes that this one starts: modules of this package, and shells that clean up after it was killed.

`python -m` by itself imports first from the working directory, which may hold anything. Depends on nothing else of
psych_ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def module_command(module: str, *arguments: object) -> list[str]:
    """Command line that runs a module of this package; with `module_environment`."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def module_environment(**more: str) -> dict[str, str]:
    """This process's environment, with the paths from which this process imports, and `more` variables."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more


@contextmanager
def shell_after_death(script: str, *arguments: object) -> Iterator[None]:
    """Within the context, let a shell run `script`, with these arguments, once this process is gone.

    Nothing happens where there is no shell.
    """
    shell = None
    with suppress(OSError):
        shell = subprocess.Popen(  # noqa: S603
            # it reads from a pipe that is closed when this process is gone
            ["/bin/sh", "-c", f"cat > /dev/null\n{script}", "sh", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal may be sent to all processes of a terminal or group
        )
    try:
        yield
    finally:
        if shell is not None:
            shell.kill()
            shell.communicate()
