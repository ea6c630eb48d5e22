"""launch/skypilot is what SkyPilot's own parser takes, where SkyPilot is installed. It is no dependency of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "launch/skypilot/sweep.yaml"


def test_skypilot_takes_the_task_and_nothing_that_it_does_not_know():
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot")
    config = yaml.safe_load(FILE.read_text())
    given = {"secrets_overrides": [("RAY_AUTH_TOKEN", "0" * 64)]}
    task = sky.Task.from_yaml_config(config, **given)
    (resources,) = task.resources
    assert resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [130]
    assert task.num_nodes == 2
    assert set(task.secrets) == {"RAY_AUTH_TOKEN"}
    with pytest.raises(ValueError, match="use_spots"):
        sky.Task.from_yaml_config(config | {"resources": {"use_spots": True}}, **given)
