"""The process that renders chat templates, started by `template_process`: limits itself, then answers requests.

A template is a program that comes with a checkpoint, and one expression of it may take any time and memory, without
giving up the interpreter. Only the kernel can end that, so this process has limits of CPU time and memory. Ends when
its parent closes the connection or dies. Does not import torch.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from psych_ray.compat.transformers import render_chat_template
from psych_ray.errors import first_line

_MESSAGE_CHARACTERS = 500


def main(descriptor: int, seconds: float, memory_bytes: int) -> None:
    """Answer each request of the connection: the text, or an error, `limit` where one of the limits was exceeded.

    `seconds` of CPU time for each; when they are over, this process ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the connection
    connection = Connection(descriptor)
    render_chat_template("", [], {}, generation_prompt=False)  # imports what it needs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(memory_bytes)
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)  # CPU time, at whose end the kernel ends this process by SIGPROF
        answer = _answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(json.dumps(answer).encode())


def _limit_memory(more_bytes: int) -> None:
    """Limit the address space to what there is now and so much more. Where there is no /proc, nothing is limited."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        text = render_chat_template(
            request["source"], request["turns"], request["options"], generation_prompt=request["generation_prompt"]
        )
    except MemoryError:
        return {"limit": "memory"}
    except Exception as error:  # noqa: BLE001  whatever a template raises is its fault
        return {"error": first_line(error)[:_MESSAGE_CHARACTERS]}
    return {"text": text} if len(text) <= request["most_characters"] else {"limit": "characters"}


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
