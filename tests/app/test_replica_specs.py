"""What replicas are told of the configuration, beside the settings that change scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from psych_ray.app.cluster import cluster_to_plan_for
from psych_ray.app.prepare import prepare
from psych_ray.app.sweep import replica_specs
from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.config import ClusterConfig, Config, ResultsConfig, TranscriptsConfig
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store


@pytest.mark.parametrize("calibration", [True, False])
def test_calibration_is_told_and_is_no_part_of_the_identity(calibration: bool, tmp_path: Path) -> None:
    config = Config(
        transcripts=TranscriptsConfig(participants=1),
        results=ResultsConfig(root=str(tmp_path / "root")),
        cluster=ClusterConfig(nodes=1, cpus=2),
    )
    config.scoring.calibration = calibration
    store = open_store(config.results.root)
    with cluster_to_plan_for(config.cluster) as cluster:
        prepared = prepare(config, [simulator_checkpoint()], Snapshot.read(store), store, cluster)
        (spec,) = replica_specs(prepared, config).values()
    assert spec.scoring.calibration is calibration
    assert "calibration" not in vars(spec.identity)
