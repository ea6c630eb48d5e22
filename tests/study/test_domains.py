"""Domains of studies: the package's own, a file of the user's, files that are none."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml

from psych_ray.errors import ConfigError
from psych_ray.study.domains import load_domains, with_domain
from psych_ray.transcripts.simulated import TASKS


def test_the_domains_of_the_study() -> None:
    found = load_domains()
    assert found.of_study["guenther2020LDT"] == "Psycholinguistics"
    assert found.of_study["wu2023chunking"] == "Uncategorised"
    assert found.not_in_heat_map <= set(found.of_study.values())
    assert len(found.not_in_heat_map) == 4
    assert found.developmental <= found.of_study.keys()
    assert "giron2023developmentalExploration" in found.developmental
    assert set(TASKS) <= found.of_study.keys()


def test_they_are_the_facts_that_were_checked(shared: Path) -> None:
    path = shared / "facts" / "domains.yaml"
    if not path.is_file():
        pytest.skip(f"no facts at {path}")
    facts = {
        study: domain
        for domain, collections in yaml.safe_load(path.read_text()).items()
        for studies in collections.values()
        for study in studies
    }
    assert {study: domain for study, domain in load_domains().of_study.items() if study not in TASKS} == facts


def test_a_file_of_the_user_adds_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("domains: {Attention: [mine, guenther2020LDT], Memory: {Lab: [other]}}\ndevelopmental: [mine]\n")
    own, found = load_domains(), load_domains(path)
    changed = {"mine": "Attention", "guenther2020LDT": "Attention", "other": "Memory"}
    assert found.of_study == {**own.of_study, **changed}
    assert found.developmental == own.developmental | {"mine"}
    assert found.not_in_heat_map == own.not_in_heat_map


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has not the keys domains, developmental, not_in_heat_map, of which one at least"),
        ("Memory: [a]", "has not the keys"),
        ("[a]", "has not the keys"),
        ("domains: [a]", "`domains` is no mapping of domains to studies"),
        ("domains: {A: a}", "`A` is no list of names"),
        ("domains: {A: [1]}", "`A` is no list of names"),
        ("domains: {A: {b: c}}", "`A` is no list of names"),
        ("domains: {1: [a]}", "a domain is called 1"),
        ("domains: {A: [a], B: [a]}", "a is in two domains, A and B"),
        ("developmental: a", "`developmental` is no list of names"),
        ("domains: {A: [a", "while parsing a flow"),
        ("!!python/object:os.system {}", "could not determine a constructor"),
        ("a: \x00", "unacceptable character"),
        ("[" * 5_000, "maximum recursion depth"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_domains(path)
    message = str(raised.value)
    assert message.startswith(f"study.domains={path}: {reason}")
    assert message.endswith("; it has the form of psych_ray/study/domains.yaml")
    assert len(message.splitlines()) == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r"study\.domains=.*: cannot be read \("):
            load_domains(path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"domains: {\xe9: [a]}")
    with pytest.raises(ConfigError, match="codec can't decode"):
        load_domains(path)


def test_the_column_stands_after_the_study_and_is_null_where_the_domain_is_not_known() -> None:
    table = pl.DataFrame({"checkpoint": ["a", "a"], "study": ["guenther2020LDT", "mine"], "nll": [1.0, 2.0]})
    assert with_domain(table, load_domains()).rows() == [
        ("a", "guenther2020LDT", "Psycholinguistics", 1.0),
        ("a", "mine", None, 2.0),
    ]
    assert with_domain(table.clear(), load_domains()).columns == ["checkpoint", "study", "domain", "nll"]
