"""What one word composes: the checkpoints, conditions and transcripts of each finding, and a user's own files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from psych_ray.checkpoints.listed import listed_card, listed_ids
from psych_ray.checkpoints.wanted import wanted_cards
from psych_ray.cli.compose import load_config
from psych_ray.cli.main import main
from psych_ray.config import CheckpointSource, Config, Dtype, TranscriptSource
from psych_ray.errors import ConfigError

CONDITIONS = {
    "nll_by_size": ["plain"],
    "misalignment": ["plain"],
    "generations": ["plain"],
    "domains": ["plain"],
    "accuracy": ["plain", "discrete"],
    "chat": ["plain", "chat"],
    "persona": ["plain", "persona"],
    "centaur": ["plain"],
    "paper": ["plain", "chat", "persona", "discrete"],
}


def ids_of(config: Config) -> set[str]:
    return {card.id for card in wanted_cards(config.checkpoints)}


def published_ids() -> dict[str, set[str]]:
    """The checkpoints of which the study published each finding, by data that the report compares with."""
    data = yaml.safe_load(Path("psych_ray/study/published.yaml").read_text())
    by_size, pairs = data["checkpoints"], data["pairs"]

    def both(*groups: str) -> set[str]:
        posts = flat([pairs[group] for group in groups])
        return {*posts, *(card.base for post in posts if (card := listed_card(post)) and card.base)}

    return {
        "nll_by_size": {one for sizes in by_size.values() for ids in sizes.values() for one in ids},
        "misalignment": both("instruct", "reasoning", "vision"),
        "generations": both(*data["by_generation"]),
        "domains": both("by_domain"),
        "accuracy": {
            one for group, sizes in data["accuracy"].items() for size in sizes for one in by_size[group][size]
        },
        "persona": set(data["persona_benefit"]["checkpoints"]),
        "centaur": {one for post in data["behavioural"] for one in (post, listed_card(post).base)},
        "paper": set(listed_ids(["*"])),
    }


def flat(value: list[Any]) -> list[str]:
    return [inner for one in value for inner in (flat(one) if isinstance(one, list) else [one])]


@pytest.mark.parametrize("name", CONDITIONS)
def test_an_experiment_composes_what_its_finding_is_made_of(name):
    config = load_config([f"experiment={name}"])
    assert config.conditions == CONDITIONS[name]
    assert config.transcripts.source == TranscriptSource.psych201
    assert config.transcripts.collection == ("psych201" if name == "centaur" else None)
    assert config.scoring.dtype == Dtype.bfloat16
    if name != "chat":
        assert ids_of(config) == published_ids()[name]


def test_the_chat_experiment_has_the_post_trained_checkpoints_only():
    cards = [listed_card(one) for one in ids_of(load_config(["experiment=chat"]))]
    assert {card.stage for card in cards} == {"instruct", "reasoning"}
    assert {card.id for card in cards} == {
        one for one in published_ids()["nll_by_size"] if listed_card(one).stage != "base"
    }


def test_overrides_replace_what_an_experiment_chooses():
    overrides = ["conditions=[plain]", "checkpoints=olmo3", "scoring.dtype=float32", "results.root=here"]
    for order in ([*overrides, "experiment=persona"], ["experiment=persona", *overrides]):
        config = load_config(order)
        assert (config.conditions, config.scoring.dtype, config.results.root) == (["plain"], Dtype.float32, "here")
        assert {one.split("/")[0] for one in ids_of(config)} == {"allenai"}


def test_without_an_experiment_the_demo_is_chosen():
    config = load_config([])
    assert (config.transcripts.source, config.checkpoints.source) == (TranscriptSource.demo, CheckpointSource.demo)


@pytest.fixture
def own(tmp_path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/mine.yaml").write_text(
        "source: hub\nids: [lab/A-1B@v2, lab/B-1B]\ncards: [{id: lab/B-1B, stage: code, base: lab/A-1B}]\n"
    )
    return tmp_path


@pytest.mark.parametrize("form", ["--config-dir DIR", "--config-dir=DIR"])
def test_a_users_own_files_are_choices(own, form, capsys, monkeypatch):
    ran: list[Config] = []
    monkeypatch.setattr("psych_ray.cli.commands.COMMANDS", {"plan": lambda config: ran.append(config) or 0})
    assert main(["plan", *form.replace("DIR", str(own)).split(), "checkpoints=mine"]) == 0
    assert main(["plan", "checkpoints=mine", *form.replace("DIR", str(own)).split()]) == 0
    assert ran[0] == ran[1]
    first, second = wanted_cards(ran[0].checkpoints)
    assert (first.id, first.revision, first.stage) == ("lab/A-1B", "v2", None)
    assert (second.id, second.stage, second.base) == ("lab/B-1B", "code", "lab/A-1B")


def test_a_users_own_experiment_composes_with_the_packages_choices(own):
    (own / "experiment").mkdir()
    (own / "experiment/ours.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /checkpoints: mine\n  - override /transcripts: psych101\n"
        "conditions: [plain, zero_shot]\n"
    )
    config = load_config(["experiment=ours"], directory=str(own))
    assert config.conditions == ["plain", "zero_shot"]
    assert config.transcripts.source == TranscriptSource.psych101
    assert ids_of(config) == {"lab/A-1B", "lab/B-1B"}


def test_a_wrong_directory_of_files_is_one_line(own, capsys):
    (own / "checkpoints/paper.yaml").write_text("source: demo\n")
    for arguments, says in (
        (["--config-dir"], "--config-dir needs a directory"),
        (["--config-dir", str(own / "none")], "is no directory"),
        (["--config-dir", str(own)], "the package has checkpoints/paper.yaml already"),
    ):
        assert main(["plan", *arguments]) == ConfigError.exit_code
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
    (own / "checkpoints/paper.yaml").unlink()
    (own / "checkpoints/mine.yaml").write_text("source: hub\nidz: [a/b]\n")
    assert main(["plan", "--config-dir", str(own), "checkpoints=mine"]) == ConfigError.exit_code
    assert "idz" in capsys.readouterr().err


def test_the_readme_tells_how_many_checkpoints_each_has():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (plain.*) \|$", Path("docs/data.md").read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(CONDITIONS)
    for name, checkpoints, conditions in rows:
        said = re.search(r"\d{2,}", checkpoints)
        assert len(ids_of(load_config([f"experiment={name}"]))) == (int(said[0]) if said else 2)
        assert conditions.replace(" on the studies new to it", "").rstrip(",").split(", ") == CONDITIONS[name]
