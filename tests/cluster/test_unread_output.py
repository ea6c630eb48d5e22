"""A sweep whose output nobody reads any more goes on without it; the status of its root ends quietly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support_sweeps import command

from psych_ray.app.status import status_of
from psych_ray.cli.output import READER_LEFT
from psych_ray.results.store import open_store


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_goes_on_where_nobody_reads_its_output(scratch, tmp_path, tiny_checkpoint, byte_tokenizer_directory):
    root = tmp_path / "root"
    arguments = command([tiny_checkpoint("Llama", byte_tokenizer_directory)], root, "transcripts.participants=2")
    reader, writer = os.pipe()
    sweep = subprocess.Popen(arguments, env=os.environ | {"TMPDIR": str(scratch)}, stdout=writer, stderr=writer)
    try:
        begun = os.read(reader, 1)
    finally:
        os.close(reader)
    assert sweep.wait(timeout=200) == 0
    assert len(begun) == 1
    (task,) = status_of(open_store(str(root))).tasks
    assert (task.transcripts, task.transcripts_missing) == (8, 0)
    assert (root / "report/index.html").is_file()

    status = [sys.executable, "-m", "psych_ray.cli.main", "status", f"results.root={root}"]
    run = subprocess.run(status, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (run.returncode, run.stderr) == (READER_LEFT, b"")
