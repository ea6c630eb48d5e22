"""Whole sweeps on a real local Ray, killed and disturbed: the table at the end is the one of an undisturbed sweep."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support_sweeps import (
    PARTICIPANTS,
    assert_same,
    command,
    finish,
    n_parts,
    processes_of,
    start,
    table,
    wait_for_parts,
    wait_until_gone,
)

from psych_ray.cli.main import main
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.transcripts.simulated import simulated_transcripts

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, byte_tokenizer_directory) -> list[Path]:
    made = [tiny_checkpoint(name, byte_tokenizer_directory) for name in ("Llama", "Qwen3")]
    return [path.rename(path.with_name(name)) for path, name in zip(made, ("a", "b"), strict=True)]


@pytest.fixture(scope="module")
def undisturbed(checkpoints, scratch, tmp_path_factory) -> tuple[Path, pl.DataFrame]:
    root = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(command(checkpoints, root), scratch))
    assert code == 0, err
    assert str(root) in out
    wait_until_gone(scratch)
    assert list(scratch.iterdir()) == [], "Ray's temporary directory is still there"
    return root, table(root)


def test_every_marked_response_is_there_once_a_checkpoint(undisturbed):
    root, found = undisturbed
    transcripts = list(simulated_transcripts(participants=PARTICIPANTS, seed=201))
    expected = {(t.id, r.number, r.start, r.end) for t in transcripts for r in t.responses}
    for checkpoint in ("a", "b"):
        rows = found.filter(pl.col("checkpoint") == checkpoint)
        assert rows.height == len(expected)
        assert set(rows.select("transcript", "response", "char_start", "char_end").iter_rows()) == expected
    assert set(found["status"]) == {"scored"}
    assert found["nll"].null_count() == 0
    assert {f.engine for f in Snapshot.read(open_store(str(root))).footers} == {"transformers, packed, oneDNN"}


def test_a_second_sweep_finds_nothing_to_do(undisturbed, checkpoints, scratch):
    root, before = undisturbed
    # also where nothing could be scored: what is complete needs no room
    code, out, err = finish(start(command(checkpoints, root, "cluster.memory_gb=0.0001"), scratch))
    assert code == 0, err
    assert "page:" in out
    assert table(root).equals(before)
    wait_until_gone(scratch)


def test_sigkill_at_any_moment_and_again_loses_and_doubles_nothing(undisturbed, checkpoints, scratch, tmp_path):
    expected, rng = undisturbed[1], random.Random(7)
    total = n_parts(undisturbed[0])
    for _ in range(3):
        process = start(command(checkpoints, tmp_path), scratch)
        wait_for_parts(process, tmp_path, min(total, n_parts(tmp_path) + rng.randint(1, max(1, total // 4))))
        time.sleep(rng.random() * 0.05)
        process.kill()
        finish(process)
        wait_until_gone(scratch)
    assert n_parts(tmp_path) < total, "the kills came too late to disturb anything"
    code, _, err = finish(start(command(checkpoints, tmp_path), scratch))
    assert code == 0, err
    assert_same(table(tmp_path), expected)
    wait_until_gone(scratch)


def test_a_killed_replica_is_replaced(undisturbed, checkpoints, scratch, tmp_path):
    process = start(command(checkpoints, tmp_path), scratch)
    wait_for_parts(process, tmp_path, 1)
    replicas = [p for p in processes_of(scratch) if "RankProcess" in " ".join(p.cmdline())]
    assert replicas
    replicas[0].send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert "ended while scoring" in err or "ended while loading" in err
    assert_same(table(tmp_path), undisturbed[1])


def test_a_stopped_replica_is_replaced(undisturbed, checkpoints, scratch, tmp_path):
    process = start(command(checkpoints, tmp_path, "cluster.stall_seconds=5", "cluster.load_seconds=30"), scratch)
    wait_for_parts(process, tmp_path, 1)
    replicas = [p for p in processes_of(scratch) if "RankProcess" in " ".join(p.cmdline())]
    assert replicas
    replicas[0].send_signal(signal.SIGSTOP)
    code, _, err = finish(process)
    assert code == 0, err
    assert err.count("it made no progress for ") == 1, err
    assert_same(table(tmp_path), undisturbed[1])
    wait_until_gone(scratch)


def test_ctrl_c_ends_with_130_and_what_is_committed_stays(undisturbed, checkpoints, scratch, tmp_path):
    process = start(command(checkpoints, tmp_path), scratch)
    wait_for_parts(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert "what is committed stays" in err
    wait_until_gone(scratch)
    assert 2 <= n_parts(tmp_path) < n_parts(undisturbed[0])
    ids = table(tmp_path).select("checkpoint", "transcript", "response")
    assert ids.is_unique().all()


def test_a_checkpoint_that_cannot_be_loaded_is_set_aside_and_the_rest_goes_on(checkpoints, scratch, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(checkpoints[0], broken)
    weights = load_file(broken / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    exploding = tmp_path / "exploding"
    shutil.copytree(checkpoints[0], exploding)
    (exploding / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}")
    root = tmp_path / "root"
    more = ("transcripts.limit=2", "conditions=[plain,chat]")
    code, _, err = finish(start(command([broken, exploding, checkpoints[1]], root, *more), scratch))
    assert code == 3, err
    assert "Traceback" not in err
    assert "broken, plain" in err
    assert "model.norm.weight" in err
    assert "exploding, chat" in err
    assert "its chat template takes more than 0.5 GB of memory for a conversation; sweep it without chat" in err
    found = set(table(root).select("checkpoint", "condition").iter_rows())
    assert found == {("b", "plain"), ("b", "chat"), ("exploding", "plain")}
    wait_until_gone(scratch)
    code, out, err = finish(start(command([broken], tmp_path / "alone", "transcripts.limit=2"), scratch))
    assert code == 3, err
    assert "not scored: broken, plain" in err
    assert "nothing could be scored" in out
    wait_until_gone(scratch)


def test_other_settings_on_the_same_root_are_refused(undisturbed, checkpoints, scratch):
    code, _, err = finish(start(command(checkpoints, undisturbed[0], "scoring.dtype=bfloat16"), scratch))
    assert code == 1
    assert err.strip().count("\n") == 0
    assert "scored with other settings (scoring.dtype=bfloat16, not float32 there)" in err


def test_after_damage_repair_and_compaction_the_table_and_its_report_are_the_same(
    undisturbed, checkpoints, scratch, tmp_path, capsys
):
    def psych_ray(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, f"results.root={root}"])
        return code, capsys.readouterr().out

    def report() -> dict[str, pl.DataFrame]:
        assert psych_ray("report")[0] == 0
        return {path.name: pl.read_csv(path) for path in (root / "report").rglob("*.csv")}

    root, expected = tmp_path / "root", undisturbed[1]
    shutil.copytree(undisturbed[0], root)
    part, source = next(root.glob("responses/*/*/*.parquet")), next(root.glob("sources/*.parquet"))
    n_rows = pq.read_metadata(part).num_rows
    for file in (part, source):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    code, out = psych_ray("verify")
    assert code == 1
    assert str(part.relative_to(root)) in out
    assert str(source.relative_to(root)) in out
    assert psych_ray("verify", "repair=true")[0] == 1, "the texts are not there yet"
    assert table(root).height == expected.height - n_rows
    code, _, err = finish(start(command(checkpoints, root), scratch))
    assert code == 0, err
    wait_until_gone(scratch)
    assert_same(table(root), expected)
    code, out = psych_ray("verify")
    assert (code, out.strip().endswith("nothing is wrong")) == (0, True)
    reported, status = report(), psych_ray("status")[1].splitlines()[-1]
    code, out = psych_ray("compact")
    assert code == 0
    assert "3 parts instead of" in out, "those that were repaired were scored on more CPU cores"
    assert psych_ray("status")[1].splitlines()[-1] == status
    again = report()
    assert again.keys() == reported.keys()
    for name, frame in reported.items():  # sums of floats depend on how many parts were added up
        assert_frame_equal(again[name], frame, rel_tol=1e-12)
    assert psych_ray("verify")[0] == 0
    code, _, err = finish(start(command(checkpoints, root, "cluster.memory_gb=0.0001"), scratch))
    assert code == 0, "nothing is to be scored again"
    assert_same(table(root), expected)
    wait_until_gone(scratch)
