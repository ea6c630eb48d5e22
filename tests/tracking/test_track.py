"""`psych-ray track`: the runs of a sweep, rebuilt from a results root without the sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import wandb
from support_table import commit, footer, people

from psych_ray.app import track as tracking
from psych_ray.app.track import track
from psych_ray.cli.main import main
from psych_ray.config import Config, ResultsConfig, TrackingConfig, TrackingKind, TrackingMode
from psych_ray.errors import ConfigError, ResultsError
from psych_ray.results.catalogue import read_catalogued
from psych_ray.results.schema import CheckpointFacts
from psych_ray.results.store import open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.tracking import wandb_run_id
from psych_ray.transcripts.conditions import condition_named

pytestmark = pytest.mark.usefixtures("isolated_wandb")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a root with two checkpoints, of which one lacks a transcript; each in parts of two transcripts."""
    config = Config(results=ResultsConfig(root=str(tmp_path / "demo")))
    store = open_store(config.results.root)
    refs = people(store)
    units = []
    for slug, known in (("a", refs), ("b", refs[:-1])):
        for first in range(0, len(known), 2):
            scored = list(
                SimulatorScorer().score(read_catalogued(store, known[first : first + 2]), condition_named("plain"))
            )
            facts = CheckpointFacts(slug=slug, id=slug, fingerprint="f")
            made_by = replace(footer(f"u{first}"), checkpoint=facts, tokens=100, seconds=2.0, device="1 GPU")
            units.append((scored, replace(made_by, versions={"torch": "2"})))
    commit(store, *units)
    return config


def test_runs_are_rebuilt_from_footers(config: Config, read_offline_runs) -> None:
    said: list[str] = []
    lines, is_well = track(config, say=said.append)
    assert (said, is_well) == ([], True)
    directory = config.tracking_root() / "rebuilt"
    assert lines == [f"W&B: 3 offline runs in {directory}/wandb; `wandb sync {directory}/wandb` uploads them"]
    wandb.teardown()
    runs = {run.id: run for run in read_offline_runs(directory)}
    root = config.results.root
    a, b = (runs.pop(wandb_run_id(root, slug, "plain")) for slug in "ab")
    assert [point["responses"] for point in a.history] == [4, 8, 12, 16]
    # 0.5 nats of each first response, k of the second of participant k.
    assert [point["nll_nats"] for point in a.history] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert [point["tokens"] for point in a.history] == [100, 200, 300, 400]
    assert [point["tokens_per_second"] for point in a.history] == [50.0] * 4
    assert (a.summary["complete"], a.exit_code, a.summary["responses"]) == (True, 0, 16)
    assert (a.config["engine"], a.config["device"], a.config["versions"]) == ("simulator", "1 GPU", {"torch": "2"})
    assert (b.summary["complete"], b.exit_code, b.summary["responses"]) == (False, 1, 14)
    assert b.summary["responses_planned"] == 16
    (report,) = runs.values()
    assert report.id == wandb_run_id(root, "", "report")
    names = {name.split("/")[1] for name in report.history[0] if name.startswith("tables/")}
    assert "by_checkpoint" in names
    assert "transcript_differences" not in names
    (parts,) = [one["entries"] for one in report.artifacts if one["type"] == "responses"]
    assert len(parts) == 8
    for name, (uri, size) in parts.items():
        path = Path(root) / name
        assert (Path(url2pathname(urlparse(uri).path)), path.stat().st_size) == (path, size)


def test_many_parts_are_few_points_with_the_same_end(
    config: Config, read_offline_runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_POINTS", 2)
    for _ in range(2):  # the second time replaces the first
        assert track(config, say=print)[1]
    wandb.teardown()
    (a,) = [
        run
        for run in read_offline_runs(config.tracking_root() / "rebuilt")
        if run.id == wandb_run_id(config.results.root, "a", "plain")
    ]
    assert [point["responses"] for point in a.history] == [8, 16]
    assert [point["nll_nats"] for point in a.history] == pytest.approx([1.0, 2.0])


def test_what_cannot_be_rebuilt_is_one_line(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ResultsError, match="nothing is committed there"):
        track(replace(config, results=ResultsConfig(root=str(tmp_path / "empty"))), say=print)
    with pytest.raises(ConfigError, match="needs tracking=wandb"):
        track(replace(config, tracking=TrackingConfig(kind=TrackingKind.console)), say=print)
    assert main(["track", f"results.root={config.results.root}", "tracking=console"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(ConfigError, match="unset it"):
        track(config, say=print)


def test_a_server_that_does_not_answer_is_one_warning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config.tracking = TrackingConfig(mode=TrackingMode.online)
    said: list[str] = []
    lines, is_well = track(config, say=said.append)
    assert is_well
    assert len(said) == 1
    assert said[0].startswith("W&B fails online, runs are kept offline")
    assert "3 offline runs" in lines[0]
