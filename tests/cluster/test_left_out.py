"""A sweep of ids of the hub of which one cannot be reached: told, and the others swept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.ray
@pytest.mark.slow
def test_an_id_that_cannot_be_reached_is_told_and_the_others_are_swept(
    tiny_checkpoint, byte_tokenizer_directory, tmp_path, scratch
):
    repository = tmp_path / "hub/models--lab--llama-3.1-1B-chat"
    shutil.copytree(tiny_checkpoint("Llama", byte_tokenizer_directory), repository / "snapshots" / SHA)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(SHA)
    arguments = [
        "sweep", "checkpoints=hub", "checkpoints.ids=[lab/llama-3.1-1B-chat,lab/none]", "transcripts.participants=1",
        "transcripts.studies=[demo_recall]", "checkpoints.references=[]", "report.figures=[domains]",
        "tracking=console", f"results.root={tmp_path}/root", "cluster.cpus=2",
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "psych_ray.cli.main", *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert run.returncode == 3, run.stdout + run.stderr
    assert "left out: lab/none: the hub is disabled (HF_HUB_OFFLINE)" in run.stderr
    assert "not scored: lab/none: the hub is disabled (HF_HUB_OFFLINE)" in run.stderr
    assert "lab/llama-3.1-1B-chat: family llama, generation llama-3.1, size_b 1.0, stage instruct" in run.stderr
    assert (tmp_path / "root/responses/checkpoint=lab--llama-3.1-1B-chat").is_dir()
    assert (tmp_path / "root/report/index.html").is_file()
