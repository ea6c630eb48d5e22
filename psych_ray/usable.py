"""What no setting can be, whatever it means: not a number, blank, not printable, longer than a file system allows.

Does not depend on which settings there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 3_500
"""Of file systems: of one name, and of a path to which names are added (4,096)."""


def require_usable(config: object) -> None:
    """Raise ValueError, with one line that names the setting, for a value of a configuration that no setting can have.

    `config`: a dataclass, of which fields may be dataclasses and lists.
    """
    for name, value in _settings(config):
        _require_usable(name, value)


def _require_usable(name: str, value: object) -> None:
    """Raise ValueError for what no setting can be, whatever it means."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: must be a number")
    if not isinstance(value, str):
        return
    if not value.strip():
        raise ValueError(f"{name}: is empty; name one, or omit it")
    if not value.isprintable():
        raise ValueError(f"{name}={value!r}: has a character that does not print; name another")
    if "://" not in value and any(len(part.encode()) > MAX_NAME_BYTES for part in value.split("/")):
        raise ValueError(f"{name}={value[:40]}…: a name in it has more than {MAX_NAME_BYTES} bytes; shorten it")
    if "://" not in value and len(value.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"{name}={value[:40]}…: has more than {MAX_PATH_BYTES:,} bytes; shorten it")
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{name}={value}: there is no such user; write the whole path") from error


def _settings(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every single value of a configuration with its name, for example `checkpoints.paths[0]`."""
    if is_dataclass(value):
        for one in fields(value):
            yield from _settings(getattr(value, one.name), f"{name}.{one.name}" if name else one.name)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _settings(one, f"{name}[{index}]")
    else:
        yield name, value
