"""Runs a function on several ranks: processes of their own that meet over loopback, as a gang does, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

from psych_ray.scoring.engines.sharded.process_group import Ranks, Rendezvous, join

TIMEOUT_S = 120.0


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """Call `function(ranks, *arguments)` on every rank, and return what each answered, by rank.

    Function, arguments and answers must pickle. Raises the first rank's error as text.
    """
    context = multiprocessing.get_context("spawn")
    ports, answers = context.Queue(), context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, size, ports, answers, timeout_s, function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    try:
        found = dict(answers.get(timeout=2 * timeout_s) for _ in ranks)
    finally:
        for process in ranks:
            process.join(5)
            process.kill()
    wrong = [found[rank][1] for rank in range(size) if not found[rank][0]]
    if wrong:
        raise AssertionError(wrong[0])
    return [found[rank][1] for rank in range(size)]


def _rank(rank, size, ports, answers, timeout_s, function, arguments) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import torch

        torch.set_num_threads(1)
        if rank == 0:
            rendezvous = Rendezvous("127.0.0.1", size, timeout_s=timeout_s)
            for _ in range(size - 1):
                ports.put(rendezvous.port)
            ranks: Ranks = rendezvous.join(size, device="cpu")
        else:
            port = ports.get(timeout=timeout_s)
            ranks = join(rank, size, host="127.0.0.1", port=port, device="cpu", timeout_s=timeout_s)
        answer = function(ranks, *arguments)
        answers.put((rank, (True, answer)))
    except BaseException:  # noqa: BLE001  whatever it is, the test is told
        answers.put((rank, (False, traceback.format_exc())))
