"""Reads W&B's offline file back: a 7-byte header, then records in the format of LevelDB's log.

Blocks of 32 KiB hold fragments (CRC 4 bytes, length 2, type 1: whole, first, middle, last), each record a protocol
buffer. The package writes such files but has no reader for them any more.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _FILE_HEADER, _HEADER = 32 * 1024, 7, struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one piece of a run would upload."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    resumed: bool = False
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def _messages(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, pending = _FILE_HEADER, b""
    while at + _HEADER.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        if kind == 0:
            return
        fragment = data[at + _HEADER.size : at + _HEADER.size + length]
        at += _HEADER.size + length
        pending = fragment if kind in (_WHOLE, _FIRST) else pending + fragment
        if kind in (_WHOLE, _LAST):
            yield pending


def read(path: Path) -> OfflineRun:
    run = OfflineRun()
    names: dict[int, str] = {}
    for message in _messages(path.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.name, run.group, run.job_type = (
                found.run_id,
                found.display_name,
                found.run_group,
                found.job_type,
            )
            run.project, run.resumed = found.project, found.resumed
            run.config |= {item.key: json.loads(item.value_json) for item in found.config.update}
        elif kind == "metric":
            metric = record.metric
            names[len(names) + 1] = metric.name or metric.glob_name
            step = metric.step_metric or names.get(metric.step_metric_index, "")
            run.step_metrics[metric.name or metric.glob_name] = step
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_all(directory: Path) -> list[OfflineRun]:
    """All pieces of all runs below the directory, in the order in which they were begun."""
    return [
        read(path) for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_ctime_ns)
    ]
