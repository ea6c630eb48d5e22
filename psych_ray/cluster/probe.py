"""Whether a running Ray cluster can be connected to, tried by a process of its own, which can be ended at any time.

Connecting waits inside of Ray's C++ code, in which neither time-outs nor Ctrl-C end it.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from psych_ray.child import module_command, module_environment
from psych_ray.errors import first_line

CONNECT_S = 30.0
_HOST_AND_PORT = re.compile(r"\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)")


def why_not_connected(address: str, seconds: float = CONNECT_S) -> str | None:
    """Try to connect to a cluster; why that fails, None where it does not. KeyboardInterrupt ends it at once."""
    with subprocess.Popen(  # noqa: S603  a module of this package
        module_command(__name__, address, seconds),
        env=module_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"no answer within {seconds:g} s"
        finally:
            process.kill()
    with suppress(ValueError, IndexError):
        reason: str | None = json.loads(out.splitlines()[-1])
        return reason
    return f"the attempt ended with exit code {process.returncode}"


def _attempt(address: str) -> str | None:
    try:
        if match := _HOST_AND_PORT.fullmatch(address):
            socket.create_connection((match["host"], int(match["port"]))).close()  # Ray would try again for long
        import ray

        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        ray.nodes()
        ray.shutdown()
    except Exception as error:  # noqa: BLE001  of any library: it is told, not handled
        return first_line(error)
    return None


if __name__ == "__main__":
    signal.alarm(int(float(sys.argv[2])) + 5)  # also where the parent is gone
    print(json.dumps(_attempt(sys.argv[1])))  # noqa: T201  the result
