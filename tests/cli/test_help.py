"""Help of single commands, the reference of all settings and --cfg: they say what the configuration is."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from psych_ray.cli.command_help import HELP
from psych_ray.cli.compose import as_yaml, load_config
from psych_ray.cli.main import COMMANDS, main
from psych_ray.cli.reference import reference
from psych_ray.cli.settings import settings_by_group, settings_of
from psych_ray.cli.shipped import choices
from psych_ray.config import CheckpointCard

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference.md"
GROUPS = settings_by_group()
SETTINGS = [one for own in GROUPS.values() for one in own]


def test_the_committed_reference_is_the_one_that_is_made():
    assert REFERENCE.read_text() == reference(), "python -m psych_ray.cli.reference > docs/reference.md"


def test_every_setting_and_choice_is_explained():
    assert [one.name for one in (*SETTINGS, *settings_of(CheckpointCard)) if not one.meaning] == []
    assert [f"{name}={choice}" for name, own in choices().items() for choice, text in own.items() if not text] == []


def test_settings_are_those_of_the_configuration_with_their_defaults():
    composed = yaml.safe_load(as_yaml(load_config([])))
    names = {
        f"{group}.{name}" if isinstance(own, dict) else group
        for group, own in composed.items()
        for name in (own if isinstance(own, dict) else [group])
    }
    chosen = {"checkpoints.source", "transcripts.source", "cluster.kind", "tracking.kind"}
    assert {one.name for one in SETTINGS} == names - chosen
    defaults = {one.name: one.default for one in SETTINGS}
    expected = {"scoring.dtype": "float32", "scoring.cut_at": "null", "conditions": "[plain]", "repair": "false"}
    assert {name: defaults[name] for name in expected} == expected
    values = {one.name: one.values for one in SETTINGS}
    assert values["scoring.cut"] == "tokens|characters"
    assert values["transcripts.sample_fraction"] == "NUMBER|null"
    assert values["checkpoints.paths"] == "[TEXT,...]"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_its_settings_and_examples_that_parse(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for name in HELP[command].uses:
        own = [one.name for one in SETTINGS if one.name == name or one in GROUPS.get(name, [])]
        assert own or name in choices()
        assert all(f"\n  {one}=" in out for one in own)
    assert HELP[command].examples
    for line in HELP[command].examples:
        assert line in out
        program, of, *overrides = shlex.split(line)
        assert (program, of) == ("psych-ray", command)
        load_config(overrides)


def test_every_choice_is_in_the_help_of_a_sweep(capsys):
    assert main(["sweep", "-h"]) == 0
    out = capsys.readouterr().out
    assert [name for name, own in choices().items() if f"\n  {name}={'|'.join(own)}\n" not in out] == []


def test_help_of_a_command_is_instant():
    heavy = {"torch", "ray", "transformers", "hydra", "omegaconf", "polars", "wandb", "numpy"}
    code = "import sys; from psych_ray.cli.main import main; main(['plan', '--help']); "
    code += f"print({heavy!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")


def test_cfg_prints_the_configuration_and_does_nothing_else(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "transcripts.limit=3", "--cfg", "scoring.dtype=bfloat16"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["transcripts"]["limit"] == 3
    assert shown["scoring"]["dtype"] == "bfloat16"
    assert shown["checkpoints"]["references"] == ["chance", "frequencies", "rescorla_wagner"]
    assert main(["sweep", "scoring.dtype=x", "--cfg"]) == 2
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
