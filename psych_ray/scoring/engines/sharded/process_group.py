"""Several processes that hold one checkpoint together, a rank each: how they find each other, and who they are.

One gang a process, ever: torch.distributed and DeepSpeed keep it in globals. Every rank does the same with the same
queries in the same order; what only one may do (write a part) is rank 0's. Knows no Ray and no model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that hold one checkpoint."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0


def rows_of(n_rows: int, ranks: Ranks) -> tuple[int, int]:
    """First row of this rank's share of so many, and the one after its last; shares differ by one row at most."""
    first, end = (n_rows * at // ranks.size for at in (ranks.rank, ranks.rank + 1))
    return first, end


class Rendezvous:
    """Where the ranks of a gang meet. Rank 0 binds the port by itself, so no other process can take it in between."""

    def __init__(self, host: str, size: int, *, timeout_s: float) -> None:
        self.host = host
        self._store = TCPStore(
            host, 0, size, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
        )
        self.port: int = self._store.port
        self._timeout_s = timeout_s

    def join(self, size: int, *, device: str) -> Ranks:
        """Join as rank 0; returns when all ranks are there."""
        return _join(self._store, Ranks(0, size), self.host, self.port, device, self._timeout_s)


def join(rank: int, size: int, *, host: str, port: int, device: str, timeout_s: float) -> Ranks:
    """Join the gang whose rank 0 opened the rendezvous; returns when all ranks are there.

    `timeout_s` bounds every collective from then on: a rank that stalls longer than that is taken for lost.
    """
    store = TCPStore(host, port, size, is_master=False, timeout=timedelta(seconds=timeout_s))
    return _join(store, Ranks(rank, size), host, port, device, timeout_s)


def _join(store: Store, ranks: Ranks, host: str, port: int, device: str, timeout_s: float) -> Ranks:
    """Make the process group, and tell DeepSpeed, which reads the environment, the same.

    Each process sees one GPU only, its own, so its local rank is 0 whatever its rank.
    """
    assert not distributed.is_initialized(), "one gang a process"
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        if host == "127.0.0.1":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ |= {
        "RANK": str(ranks.rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(ranks.size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=timedelta(seconds=timeout_s),
        device_id=torch.device("cuda", 0) if device == "cuda" else None,
    )
    return ranks
