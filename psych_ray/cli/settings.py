"""Every setting with its values, default and meaning, read from the dataclasses of `config.py` and their source.

So that help and reference say what the code does. Does not import Hydra, and resolves no configuration.
"""

from __future__ import annotations

import ast
import re
import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from psych_ray import config

_SET_BY_CHOICE = ("source", "kind")
"""Fields that checkpoints=demo, cluster=existing and the like set."""
_PLAIN_TYPES = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of the configuration."""

    name: str
    """As in an override, for example `cluster.nodes`."""
    values: str
    """What it may be, for example `float32|bfloat16`."""
    default: str
    """Of the dataclass; a choice such as checkpoints=demo may set another."""
    meaning: str


def settings_by_group() -> dict[str, list[Setting]]:
    """Settings by the group that they belong to, in the order of `Config`; those of no group are under ''.

    Without those that only choices set.
    """
    found: dict[str, list[Setting]] = {}
    hints = get_type_hints(config.Config)
    for one in fields(config.Config):
        if is_dataclass(hints[one.name]):
            own = settings_of(hints[one.name], f"{one.name}.")
            found[one.name] = [each for each in own if each.name.partition(".")[2] not in _SET_BY_CHOICE]
        else:
            found.setdefault("", []).append(_setting(config.Config, one, ""))
    return found


def settings_of(schema: type, prefix: str = "") -> list[Setting]:
    """The settings of one dataclass, their names after `prefix`."""
    return [_setting(schema, one, prefix) for one in fields(schema)]


def summary_of(group: str) -> str:
    """The first paragraph of what a group is about."""
    return _first_paragraph(get_type_hints(config.Config)[group])


def _setting(schema: type, one: Field[Any], prefix: str) -> Setting:
    hint = get_type_hints(schema)[one.name]
    meaning = _documented()[schema.__name__].get(one.name, "")
    enum = next(
        (each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, StrEnum)), None
    )
    if enum is not None:
        meaning = " ".join([meaning or _first_paragraph(enum), *_members(enum)])
    meaning = re.sub(r"\bNone:", "null:", meaning)  # as in an override
    return Setting(name=f"{prefix}{one.name}", values=_values(hint), default=_default(one), meaning=meaning)


def _values(hint: Any) -> str:
    if get_origin(hint) in {Union, types.UnionType}:
        return "|".join(_values(each) for each in get_args(hint) if each is not type(None)) + "|null"
    if get_origin(hint) is list:
        return f"[{_values(get_args(hint)[0])},...]"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "|".join(hint)
    return _PLAIN_TYPES.get(hint, "{...}")


def _default(one: Field[Any]) -> str:
    if one.default is MISSING and one.default_factory is MISSING:
        return ""
    value = one.default if one.default_factory is MISSING else one.default_factory()
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _members(enum: type[StrEnum]) -> list[str]:
    """The members that are explained, each with its explanation."""
    documented = _documented()[enum.__name__]
    return [f"{each}: {documented[each.name]}" for each in enum if each.name in documented]


def _first_paragraph(schema: type) -> str:
    return " ".join((schema.__doc__ or "").split("\n\n")[0].split())


@cache
def _documented() -> dict[str, dict[str, str]]:
    """The lines under the fields and members of each class, which are in the source only."""
    source = ast.parse(Path(config.__file__).read_text("utf-8"))
    found: dict[str, dict[str, str]] = {}
    for schema in source.body:
        if not isinstance(schema, ast.ClassDef):
            continue
        own = found.setdefault(schema.name, {})
        for field, below in zip(schema.body, schema.body[1:], strict=False):
            target = field.target if isinstance(field, ast.AnnAssign) else None
            if isinstance(field, ast.Assign):
                target = field.targets[0] if isinstance(field.targets[0], ast.Name) else None
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(target, ast.Name) and isinstance(text, str):
                own[target.id] = " ".join(text.split())
    return found
