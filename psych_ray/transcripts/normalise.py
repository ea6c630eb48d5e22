"""From the fields of a contributed record to those of the hub's row: names, casts, text repairs, experiment names.

The rules are data, `psych201.yaml`; this carries them out. Values of a wrong type pass through: `sources.fields` says
what is wrong with them. Does not read transcripts, and knows no layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

_MISSING = "N/A"


def is_excluded(study: str) -> bool:
    """Whether Psych-201 leaves a contributed study out."""
    return study in _rules()["excluded_studies"]


def as_contributed(fields: Mapping[str, object], study: str) -> dict[str, object]:
    """The fields of a contribution in the hub's form."""
    fields = with_experiment_name(fields, study)
    text, experiment = fields.get("text"), fields.get("experiment")
    found = {**_metadata(fields), "text": _repaired(text, experiment) if isinstance(text, str) else text}
    times = fields.get("RTs")
    if isinstance(times, list):
        found["RTs"] = [None if _is_negative(time) else time for time in times]
    return found


def with_experiment_name(fields: Mapping[str, object], study: str) -> dict[str, object]:
    """The fields with the hub's name of the experiment; a name that is the hub's already stays."""
    experiment, text = fields.get("experiment"), fields.get("text")
    for rule in _experiment_rules().get(study, ()):
        if (
            experiment == rule.get("name")
            or ("ends" in rule and isinstance(experiment, str) and experiment.endswith(rule["ends"]))
            or ("text" in rule and isinstance(text, str) and rule["text"] in text)
        ):
            return {**fields, "experiment": rule["hub"]}
    return dict(fields)


def _repaired(text: str, experiment: object) -> str:
    replacements = list(_rules()["text"]["every_study"])
    if isinstance(experiment, str):
        replacements += _replacements().get(experiment, [])
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def _metadata(fields: Mapping[str, object]) -> dict[str, object]:
    """All fields, those of the participant renamed and cast; a field that has the hub's name already goes first."""
    rename = _rules()["rename"]
    found = {name: value for name, value in fields.items() if name not in rename}
    for name, value in fields.items():
        if name in rename and found.get(rename[name]) in (None, "", _MISSING):
            found[rename[name]] = value
    return {name: _cast(name, value) for name, value in found.items()}


def _cast(name: str, value: object) -> object:
    """The value of one field as the hub writes it."""
    if name == "age":
        age = _number(value)
        return str(age) if age is not None and 0 <= age <= 100 else _MISSING
    if name in _rules()["integers"]:
        score = _number(value)
        return _MISSING if score is None else str(int(score))
    if not isinstance(value, str):
        return value
    if name == "nationality":
        for removed in _rules()["nationality"]["removed"]:
            value = value.replace(removed, "")
        value = value.replace("_", " ").strip()
    return _values().get(name, {}).get(_key(name, value), value)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_negative(time: object) -> bool:
    number = _number(time)
    return number is not None and number < 0


def _key(name: str, value: str) -> str:
    return value.casefold() if name in _rules()["any_case"] else value


@cache
def _rules() -> dict[str, Any]:
    content = resources.files("psych_ray.transcripts").joinpath("psych201.yaml").read_text("utf-8")
    rules: dict[str, Any] = yaml.safe_load(content)
    return rules


@cache
def _values() -> dict[str, dict[str, str]]:
    """What the hub writes, by field and contributed value."""
    rules = _rules()
    countries = {hub: names for hub, names in rules["nationality"].items() if hub != "removed"}
    return {
        field: {_key(field, name): hub for hub, names in hubs.items() for name in names}
        for field, hubs in {**rules["values"], "nationality": countries}.items()
    }


@cache
def _replacements() -> dict[str, list[list[str]]]:
    """What is replaced in a text, by experiment."""
    rules = _rules()["text"]["by_experiment"]
    return {experiment: rule["replace"] for rule in rules for experiment in rule["experiments"]}


@cache
def _experiment_rules() -> dict[str, list[dict[str, str]]]:
    by_study: dict[str, list[dict[str, str]]] = {}
    for rule in _rules()["experiment_names"]:
        by_study.setdefault(rule["study"], []).append(rule)
    return by_study
