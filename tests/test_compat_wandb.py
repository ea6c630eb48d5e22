"""The undocumented interfaces of wandb in `psych_ray.compat.wandb`: one line says which is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import wandb

from psych_ray.compat.wandb import (
    WANDB_PRIVATE_SETTINGS,
    wandb_data_in,
    wandb_offline_directory,
    wandb_reference,
    wandb_settings,
)


def gone(interface: str) -> str:
    return f"wandb {wandb.__version__} has no {interface} any more, see psych_ray/compat/wandb.py"


@pytest.fixture(autouse=True)
def no_wandb_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", [*WANDB_PRIVATE_SETTINGS, "stop_fn"])
def test_settings_are_there(name: str) -> None:
    assert name in wandb.Settings.model_fields, gone(f"Settings.{name}")


def test_stop_fn_takes_a_function_without_arguments() -> None:
    settings = wandb_settings({"stop_fn": print})
    assert settings.stop_fn is print, gone("Settings.stop_fn")


@pytest.mark.parametrize(
    ("variable", "name"),
    [("WANDB_INIT_TIMEOUT", "init_timeout"), ("WANDB__FILE_STREAM_RETRY_MAX", "x_file_stream_retry_max")],
)
def test_variables_of_the_environment_set_settings(variable: str, name: str) -> None:
    settings = wandb.Settings()
    settings.update_from_env_vars({variable: "7"})
    assert float(getattr(settings, name)) == 7, gone(f"environment variable {variable}")


def test_settings_of_the_environment_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB__DISABLE_STATS", "false")
    settings = wandb_settings({"x_disable_stats": True, "x_save_requirements": False, "no_such_setting": 1})
    assert settings.x_disable_stats is False
    assert settings.x_save_requirements is False


def test_teardown_is_there() -> None:
    assert callable(getattr(wandb, "teardown", None)), gone("teardown")


def test_offline_runs_are_in_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with wandb.init(
        mode="offline", dir=tmp_path, settings=wandb_settings({"silent": True} | WANDB_PRIVATE_SETTINGS)
    ) as run:
        directory = wandb_offline_directory(run)
    wandb.teardown()
    assert list(directory.glob("offline-run-*/*.wandb")), gone("directory DIR/wandb/offline-run-*")


def test_an_address_is_added_to_an_artifact_without_looking_at_it() -> None:
    artifact = wandb.Artifact("name", type="responses")
    for digest in ("1", "2", "1"):
        wandb_reference(artifact, f"folder/{digest}", "s3://no-such-bucket/part.parquet", digest, 70)
    entries = artifact.manifest.entries
    assert {name: (entry.ref, entry.size) for name, entry in entries.items()} == {
        f"folder/{digest}": ("s3://no-such-bucket/part.parquet", 70) for digest in "12"
    }, gone("ArtifactManifestEntry")
    assert entries["folder/1"].digest != entries["folder/2"].digest


def test_files_of_artifacts_are_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    with wandb_data_in(tmp_path):
        with wandb.Artifact("name", type="responses").new_file("file.txt") as file:
            file.write("text")
        assert list((tmp_path / "artifacts").rglob("*")), gone("environment variable WANDB_DATA_DIR")
    assert "WANDB_DATA_DIR" not in os.environ
