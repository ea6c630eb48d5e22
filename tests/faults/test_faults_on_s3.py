"""Sweeps in a bucket whose server fails, or goes away: the table is that of an undisturbed sweep on a local disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import cloud_credentials
import pytest
import s3_server
from cloud_credentials import SECRET
from support_sweeps import assert_same, command, finish, n_parts, start, table, wait_for_parts, wait_until_gone

from psych_ray.cli.main import main
from psych_ray.results.store import open_store

ROOT = "s3://bucket/folder"
FEW = "transcripts.participants=3"


@pytest.fixture
def server(monkeypatch, tmp_path):
    cloud_credentials.forget_credentials(monkeypatch, tmp_path)
    with s3_server.s3_server() as server:
        cloud_credentials.use_keys(monkeypatch, server)
        server.clear()  # moto's objects are those of the process
        server.create_bucket("bucket")
        yield server


@pytest.fixture
def sweep(server, tmp_path, tiny_checkpoint, byte_tokenizer_directory):
    """Start a sweep; the scratch directory of its processes is `sweep.scratch`."""
    checkpoint = tiny_checkpoint("Llama", byte_tokenizer_directory)
    scratch = Path(tempfile.mkdtemp(prefix="pf", dir="/tmp"))  # short: Ray's sockets are below it

    def begin(root: Path | str = ROOT, *more: str) -> subprocess.Popen[str]:
        return start(command([checkpoint], root, FEW, f"report.root={tmp_path}/report", *more), scratch)

    begin.scratch = scratch
    begin.overrides = command([checkpoint], ROOT, FEW, f"report.root={tmp_path}/report")[4:]
    yield begin
    shutil.rmtree(scratch)


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_is_killed_and_resumed_while_requests_fail_loses_doubles_and_changes_nothing(
    sweep, server, tmp_path, capfd
):
    said = [finish(sweep(tmp_path / "local"))]
    assert said[0][0] == 0, said
    server.fail_at_random(s3_server.TRANSIENT, 0.2, seed=3)
    killed = sweep()
    wait_for_parts(killed, ROOT, 2)
    killed.kill()
    said.append(finish(killed))
    assert said[-1][0] == -9, said
    wait_until_gone(sweep.scratch)
    assert 2 <= n_parts(ROOT) < n_parts(tmp_path / "local"), "the kill came too late to disturb anything"
    said.append(finish(sweep()))
    assert said[-1][0] == 0, said[-1]
    server.clear_faults()
    assert_same(table(ROOT), table(tmp_path / "local"))
    assert "lease/holder.json" not in {file.name for file in open_store(ROOT).files("")}

    assert main(["sweep", *sweep.overrides]) == 0, "nothing is left to do"
    assert main(["status", f"results.root={ROOT}"]) == 0
    assert main(["plan", *sweep.overrides]) == 0
    out, err = capfd.readouterr()
    assert "; complete" in out
    objects = [open_store(ROOT).read(file.name) for file in open_store(ROOT).files("")]
    report = [path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert len(objects) > 10
    assert len(report) > 2
    assert SECRET not in json.dumps([said, out, err])
    assert not any(SECRET.encode() in content for content in objects + report)


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.slow
def test_a_bucket_that_goes_away_for_good_ends_the_sweep_in_one_line_and_the_same_command_continues(
    sweep, server, tmp_path
):
    process = sweep(ROOT, "results.unreachable_seconds=5")
    wait_for_parts(process, ROOT, 2)
    server.is_gone, began = True, time.monotonic()
    code, _, err = finish(process)
    assert code == 1, err
    assert time.monotonic() - began < 5 + 40
    (line,) = [line for line in err.splitlines() if line.startswith("psych-ray: ")]
    assert f"{server.url} does not answer" in line
    assert line.endswith("given up, the same command continues")
    assert "Traceback" not in err
    wait_until_gone(sweep.scratch)
    server.is_gone = False
    code, _, err = finish(sweep())
    assert code == 0, err
    found = table(ROOT)
    assert len(found) == found.unique(["checkpoint", "transcript", "response"]).height > 0
    assert main(["status", f"results.root={ROOT}"]) == 0
