"""What a shell may complete of `psych-ray COMMAND NAME=VALUE ...`: commands, names, then values.

Hydra completes too, but knows neither zsh nor commands in front of its overrides, offers the present value instead of
all members of an enumeration, and composes the configuration each time. Does not import Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psych_ray.cli.command_help import HELP
from psych_ray.cli.completion_scripts import SCRIPTS
from psych_ray.cli.settings import Setting, settings_by_group
from psych_ray.cli.shipped import choices
from psych_ray.config import FINDINGS

_OF_A_PATH = {
    *("path", "paths", "root", "cache", "disk", "nvme", "picture", "domains"),
    "trust_remote_code",  # directories, or ids of the hub
}
"""Last parts of the names of settings whose values are paths."""
_NOT_OFFERED = {"INTEGER", "NUMBER", "TEXT", "{...}", "null"}
_CONFIG_DIR = "--config-dir"
_OPTIONS = ("--cfg", _CONFIG_DIR, "--help")
_NEEDS_NO_QUOTES = re.compile(r"[\w./+@%-]+", re.ASCII)


def candidates(words: Sequence[str], commands: Iterable[str]) -> list[str]:
    """What the last of `words` may become; the words before it follow the program's name.

    Each is the whole word, with a space after it unless it is to be continued.
    """
    *before, word = words or [""]
    if not before:
        found: Iterable[str] = (*commands, "completion", "--help", "--version")
    elif before[0] == "completion":
        found = SCRIPTS if len(before) == 1 else ()
    elif before[0] not in HELP:
        found = ()
    elif before[-1] == _CONFIG_DIR:
        found = _paths(word, only_directories=True)
    elif word.startswith("-"):
        name, equals, path = word.partition("=")
        found = _OPTIONS
        if equals:
            found = (f"{name}={one}" for one in _paths(path, only_directories=True)) if name == _CONFIG_DIR else ()
    elif "=" in word:
        found = _overrides(word, _directory(before))
    else:
        found = _names(word, HELP[before[0]].uses, {one.partition("=")[0] for one in before})
    return [f"{one} " if _is_whole(one) else one for one in found if one.startswith(word)]


def _is_whole(word: str) -> bool:
    is_open_list = "=[" in word and not word.endswith("]")
    return not is_open_list and not word.endswith(("=", ".", "/"))


def _names(word: str, uses: Sequence[str], given: set[str]) -> Iterator[str]:
    """Names of settings with their =; of a group with several, first the group."""
    groups, offered = settings_by_group(), choices()
    single = {one.name: [one] for own in groups.values() for one in own}
    for use in uses:
        if use in offered:
            yield f"{use}="
        names = [f"{one.name}=" for one in single.get(use) or groups.get(use, []) if one.name not in given]
        shows_all = len(names) == 1 or word.startswith(f"{use}.")
        yield from names if shows_all else [f"{use}."] if names else []


def _overrides(word: str, directory: str | None) -> Iterator[str]:
    """`word` with the values that it may get."""
    name, _, value = word.partition("=")
    files = Path(directory).expanduser().glob(f"{name}/*.yaml") if directory else ()
    own = (file.stem for file in files if _NEEDS_NO_QUOTES.fullmatch(file.stem))
    for choice in (*choices().get(name, ()), *own):
        yield f"{name}={choice}"
    setting = next((one for every in settings_by_group().values() for one in every if one.name == name), None)
    if setting is not None:
        values = _items(setting, value) if setting.values.startswith("[") else _values(setting, value)
        yield from (f"{name}={one}" for one in values)


def _items(setting: Setting, value: str) -> Iterator[str]:
    """A list that goes on: with another item, or, where its last item is one, with what follows an item."""
    at = max(value.rfind(","), value.rfind("[")) + 1
    listed, item = value[:at] or "[", value[at:]
    if value.endswith("]"):
        return
    taken = listed.strip("[,").split(",")
    for one in _values(setting, item):
        if one == item and not one.endswith("/"):
            yield from (f"{listed}{one}]", f"{listed}{one},")
        elif one.removesuffix("/") not in taken:
            yield f"{listed}{one}"


def _values(setting: Setting, value: str) -> Iterable[str]:
    """What a setting, or an item of it, may be; `value`: what there is of it."""
    if setting.name == "conditions":
        from psych_ray.transcripts.conditions.named import condition_names

        return condition_names()
    if setting.name == "report.figures":
        return FINDINGS
    if setting.name in {"checkpoints.ids", "checkpoints.listed", "checkpoints.only"}:
        from psych_ray.checkpoints.listed import listed_ids

        return listed_ids(["*"])
    if setting.name.rpartition(".")[2] in _OF_A_PATH:
        return _paths(value)
    return [one for one in setting.values.removeprefix("[").removesuffix(",...]").split("|") if one not in _NOT_OFFERED]


def _paths(value: str, *, only_directories: bool = False) -> list[str]:
    """Files and directories; not those whose names the shell or Hydra would need quotes for, nor hidden ones."""
    folder, name = os.path.split(value)
    found = []
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            is_wanted = entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith("."))
            if is_wanted and _NEEDS_NO_QUOTES.fullmatch(entry.name) and (entry.is_dir() or not only_directories):
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - keeps ./
                found.append(f"{path}/" if entry.is_dir() else path)
    return sorted(found)


def _directory(before: Sequence[str]) -> str | None:
    """The user's own directory of choices."""
    for one, following in zip(before, (*before[1:], ""), strict=True):
        if one == _CONFIG_DIR:
            return following
        if one.startswith(f"{_CONFIG_DIR}="):
            return one.partition("=")[2]
    return None
