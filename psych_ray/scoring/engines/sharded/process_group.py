"""The process group of a gang: several processes, a rank each, that hold one checkpoint together.

One gang per process: torch.distributed and DeepSpeed keep it in globals. Every rank runs the same queries in the same
order; only rank 0 writes parts. Does not import Ray, and does not depend on models.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Rank:
    """This process in its process group."""

    index: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.index == 0


def shard_bounds(n_rows: int, rank: Rank) -> tuple[int, int]:
    """First row of this rank's shard of `n_rows`, and the row after its last; shards differ by one row at most."""
    first, end = (n_rows * index // rank.world_size for index in (rank.index, rank.index + 1))
    return first, end


def on_any_rank(flag: bool) -> bool:
    """Whether it is set on any rank; a collective, with the time-out of the process group."""
    flags = torch.tensor([int(flag)])
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())


class Rendezvous:
    """The address at which the ranks of a gang meet.

    Rank 0 binds the port itself, so that no other process can take it in between.
    """

    def __init__(self, host: str, world_size: int, *, timeout_s: float) -> None:
        self.host = host
        # The store by itself listens on all addresses.
        listening = socket.create_server((host, 0)).detach() if host == _LOOPBACK else None
        self._store = TCPStore(
            host,
            0,
            world_size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listening,
        )
        self.port: int = self._store.port
        self._timeout_s = timeout_s

    def join(self, world_size: int, *, device: str) -> Rank:
        """Join as rank 0; returns when all ranks have joined."""
        return _join(self._store, Rank(0, world_size), self.host, self.port, device, self._timeout_s)


def join(index: int, world_size: int, *, host: str, port: int, device: str, timeout_s: float) -> Rank:
    """Join the gang whose rank 0 opened the rendezvous; returns when all ranks have joined.

    `timeout_s` also bounds every later collective: a rank that keeps the others waiting longer counts as lost.
    """
    store = TCPStore(host, port, world_size, is_master=False, timeout=timedelta(seconds=timeout_s))
    return _join(store, Rank(index, world_size), host, port, device, timeout_s)


def _join(store: Store, rank: Rank, host: str, port: int, device: str, timeout_s: float) -> Rank:
    """Initialize the process group, and set the environment from which DeepSpeed reads the same.

    Each process sees one GPU only, its own, so its local rank is 0 whatever its rank.
    """
    assert not distributed.is_initialized(), "one gang per process"
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    if host == _LOOPBACK:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    os.environ |= {
        "RANK": str(rank.index),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(rank.world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=torch.device("cuda", 0) if device == "cuda" else None,
    )
    return rank
