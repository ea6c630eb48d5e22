"""The YAML files that come with the package: where they are, and which choices they offer. Does not import Hydra."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def conf_directory() -> Path:
    """Directory of the YAML files: inside the package when installed, beside it in a checkout."""
    inside = Path(str(files("psych_ray"))) / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def choices() -> dict[str, dict[str, str]]:
    """What `NAME=CHOICE` selects: by name, then by choice, the comment at the head of its file."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(conf_directory().glob("*/*.yaml")):
        found.setdefault(file.parent.name, {})[file.stem] = _head(file)
    return found


def _head(file: Path) -> str:
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# @"):  # for Hydra
            continue
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)
