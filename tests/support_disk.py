"""Checkpoints of any size without a model, processes that fetch them, and a hub on loopback."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

from psych_ray.checkpoints.find import Checkpoint, find_checkpoints
from psych_ray.config import CheckpointsConfig, CheckpointSource

SHA = "0123456789abcdef0123456789abcdef01234567"


def weights(size: int, seed: int = 0) -> bytes:
    """A safetensors file of one tensor of random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def write_checkpoint(directory: Path, *sizes: int, seed: int = 0) -> Path:
    """A directory in the hub's layout with as many shards as sizes, and files that loading does not read."""
    directory.mkdir(parents=True)
    shards = [f"model-{k}.safetensors" for k in range(len(sizes))]
    for k, (name, size) in enumerate(zip(shards, sizes, strict=True)):
        (directory / name).write_bytes(weights(size, 100 * seed + k))
    index = {"weight_map": {f"w{k}": name for k, name in enumerate(shards)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "optimizer.pt").write_bytes(b"x" * 1000)
    (directory / "consolidated.safetensors").write_bytes(weights(1000))
    return directory


def write_adapter(directory: Path, base: Path, size: int) -> Path:
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (directory / "adapter_model.safetensors").write_bytes(weights(size, 7))
    return directory


def found(*directories: Path) -> list[Checkpoint]:
    return find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(d) for d in directories]))


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


_FETCH = """
import sys, time
from pathlib import Path
from psych_ray.checkpoints import copying
from psych_ray.checkpoints.disk import WeightsDisk
sys.path.insert(0, {here!r})
from support_disk import found

copying._CHUNK_BYTES = {chunk}
real = copying._copy
def logged(source, *more):
    with open({log!r}, "a") as log:
        log.write(source.name + "\\n")
    real(source, *more)
copying._copy = logged
print("ready", flush=True)
sys.stdin.readline()
with WeightsDisk({disk!r}, {limit}).fetched(found(Path({source!r})), on_bytes=lambda: time.sleep({pause})) as fetched:
    print(fetched.checkpoints[0].copy, *fetched.notes, flush=True)
    sys.stdin.readline()
"""


def fetching_process(
    source: Path,
    disk: Path,
    *,
    log: Path,
    chunk: int = 100_000,
    pause: float = 0.0,
    limit: float | None = None,
    prefix: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """A process that is ready, fetches after one line of input, and ends its use after another.

    It copies in chunks with pauses, and logs the name of each file that it begins.
    """  # fmt: skip
    code = _FETCH.format(
        here=str(Path(__file__).parent), chunk=chunk, log=str(log), disk=str(disk), limit=limit, source=str(source),
        pause=pause,
    )  # fmt: skip
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


class _Hub(BaseHTTPRequestHandler):
    """As much of a hub as a model needs, with ranges."""

    files: ClassVar[dict[str, bytes]]
    requests: ClassVar[list[tuple[str, int]]]
    """Files of which content was sent, with the first byte."""
    breaks_at: ClassVar[list[int]]
    """Once for each: an answer ends after so many bytes."""

    refused: ClassVar[set[str]]
    """Files whose content is not given at present."""

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):
            self._file()
            return
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest(),
             "lfs": {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
            for name, data in self.files.items()
        ]  # fmt: skip
        info = {"id": "lab/tiny", "sha": SHA, "siblings": [{"rfilename": name} for name in self.files]}
        self._send(200, json.dumps(tree if "/tree/" in self.path else info).encode(), {})

    def _file(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        data = self.files[name]
        if self.command == "GET" and name in self.refused:
            self._send(503, b"", {})
            return
        start = int(m[1]) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        more = {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if start:
            more["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.requests.append((name, start))
        self._send(206 if start else 200, data[start:], more)

    def _send(self, status: int, body: bytes, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            if self.breaks_at and len(body) > self.breaks_at[0]:
                body = body[: self.breaks_at.pop()]
                self.close_connection = True
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_of(directory: Path) -> Iterator[tuple[str, type[_Hub]]]:
    """Serve the files of a directory as lab/tiny on loopback; its address, and what was asked."""
    handler = type("Hub", (_Hub,), {"files": content(directory), "requests": [], "breaks_at": [], "refused": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
