"""Runs a function on several ranks, each a process, that meet over loopback as a gang does, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

from psych_ray.scoring.engines.sharded.process_group import Rank, Rendezvous, join

TIMEOUT_S = 120.0


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """Call `function(rank, *arguments)` on every rank; what each returned, by rank.

    Function, arguments and results must pickle. AssertionError with the traceback of the first rank that failed.
    """
    context = multiprocessing.get_context("spawn")
    ports, results = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_run, args=(index, size, ports, results, timeout_s, function, arguments), daemon=True)
        for index in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=2 * timeout_s) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    failed = [found[index][1] for index in range(size) if not found[index][0]]
    if failed:
        raise AssertionError(failed[0])
    return [found[index][1] for index in range(size)]


def _run(index, size, ports, results, timeout_s, function, arguments) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import torch

        torch.set_num_threads(1)
        if index == 0:
            rendezvous = Rendezvous("127.0.0.1", size, timeout_s=timeout_s)
            for _ in range(size - 1):
                ports.put(rendezvous.port)
            rank: Rank = rendezvous.join(size, device="cpu")
        else:
            port = ports.get(timeout=timeout_s)
            rank = join(index, size, host="127.0.0.1", port=port, device="cpu", timeout_s=timeout_s)
        results.put((index, (True, function(rank, *arguments))))
    except BaseException:  # noqa: BLE001  whatever it is, the test shows it
        results.put((index, (False, traceback.format_exc())))
