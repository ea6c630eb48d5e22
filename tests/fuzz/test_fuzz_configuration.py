"""Random overrides, plans and names: refused in one line, or taken as they are.

Parts and `sources/` of a results root belong here too.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support_fuzz import accepted, changed_bytes, changed_json, fuzz

from psych_ray.app.status import status_of
from psych_ray.cli.compose import load_config
from psych_ray.config import Config
from psych_ray.results.catalogue import catalogue
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.transcripts.record import Transcript


def _names(value: Any, prefix: str = "") -> list[str]:
    if not is_dataclass(value):
        return [prefix]
    return [
        name for one in fields(value) for name in _names(getattr(value, one.name), f"{prefix}.{one.name}".strip("."))
    ]


_VALUES = [
    *("", "''", "' '", "null", "true", "0", "-1", "1", "nan", "inf", "-inf", "1e999", "0.5", "99999999999999999999"),
    *("[]", "[a]", "['']", "[[]]", "{}", "{a: 1}", "x", "'a b'", "a=b", "${x}", "${oc.env:HOME}", "???", "~", "/", "é"),
    *("demo", "local", "hub", "plain", "chat", "files", "[plain,plain]", "'\\\\x00'", "'a\tb'", "[{id: 1}]", "[{}]"),
]
_OVERRIDES = st.builds(
    lambda sign, name, value: f"{sign}{name}={value}",
    st.sampled_from(["", "", "", "+", "++"]),
    st.sampled_from(
        [*_names(Config()), "checkpoints", "transcripts", "cluster", "tracking", "nonsense", "hydra.run.dir"]
    ),
    st.sampled_from(_VALUES) | st.text(max_size=8),
)


@fuzz(1)
@given(overrides=st.lists(_OVERRIDES | st.text(max_size=12), min_size=1, max_size=2))
@example(overrides=["~checkpoints"])
def test_overrides(overrides: list[str]) -> None:
    config = accepted("overrides", lambda: load_config(overrides))
    if config is not None:
        assert config.results.root.strip()
        assert 0 < config.scoring.unit_seconds < float("inf")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ResultsStore:
    made = open_store(str(tmp_path_factory.mktemp("fuzz")))
    catalogue(made, [Transcript(study="s", experiment="e", participant="1", text="<<A>>", true_nll_nats=(0.5,))])
    return made


_PLAN = [{"checkpoint": "a", "condition": "plain"}, {"checkpoint": "b", "condition": "chat"}]


@fuzz(3)
@given(content=changed_bytes(json.dumps(_PLAN).encode()) | changed_json(_PLAN).map(lambda x: json.dumps(x).encode()))
def test_a_plan(store: ResultsStore, content: bytes) -> None:
    store.write("plan.json", content)
    status = accepted("plan.json", lambda: status_of(store))
    if status is not None:
        tasks = [(task["checkpoint"], task["condition"]) for task in json.loads(content)]
        assert [(task.checkpoint, task.condition) for task in status.tasks] == list(dict.fromkeys(tasks))


def test_nothing_is_left_in_the_working_directory() -> None:
    assert not [path for path in Path().iterdir() if path.name.startswith(("multirun", "hydra"))]
