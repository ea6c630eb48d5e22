"""docs/reference.md, every setting in tables: python -m psych_ray.cli.reference > docs/reference.md.

Made from `settings` and from the YAML files; a test compares the committed file. Does not import Hydra.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from psych_ray.cli.settings import Setting, settings_by_group, settings_of, summary_of
from psych_ray.cli.shipped import choices
from psych_ray.config import CheckpointCard

_HEAD = """# Reference

Every setting, as `psych-ray COMMAND NAME=VALUE ...` in
[Hydra's grammar](https://hydra.cc/docs/advanced/override_grammar/basic/). `psych-ray COMMAND --help` shows those that a
command uses; with `--cfg` it prints the configuration that results, and does nothing else. A value with special
characters is written in quotes: `results.root='a[b]'`.

This file is made from `psych_ray/config.py` and `conf/` by `python -m psych_ray.cli.reference > docs/reference.md`.
"""


def reference() -> str:
    """The whole file."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## Choices\n"
    yield "A choice is a file of `conf/`, which sets what belongs together.\n"
    yield from _table(
        ("setting", "what it chooses"),
        [(f"`{name}={choice}`", text) for name, own in choices().items() for choice, text in own.items()],
    )
    groups = settings_by_group()
    yield "## Without a group\n"
    yield from _settings(groups.pop(""))
    for name, own in groups.items():
        yield f"## {name}\n"
        yield f"{summary_of(name)}\n"
        yield from _settings(own)
    yield "## A card of checkpoints.cards\n"
    yield "Also the fields of `psych_ray.json` in a checkpoint's directory.\n"
    yield from _settings(settings_of(CheckpointCard))


def _settings(own: Sequence[Setting]) -> Iterator[str]:
    rows = [(f"`{one.name}`", f"`{one.values}`", f"`{one.default}`" if one.default else "", one.meaning) for one in own]
    yield from _table(("setting", "values", "default", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        cells = (cell if cell == "---" else f" {cell.replace('|', chr(92) + '|')} " for cell in row)
        yield f"|{'|'.join(cells)}|"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(reference())
