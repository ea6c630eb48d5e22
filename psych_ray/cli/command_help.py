"""What `psych-ray COMMAND --help` prints: the settings that the command uses, and examples. Does not import Hydra."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psych_ray.cli.settings import Setting, settings_by_group
from psych_ray.cli.shipped import choices

_WIDTH = 100
_LOCAL = "checkpoints=local checkpoints.paths=[models/A,models/B] transcripts=files transcripts.path=psych-201"


@dataclass(frozen=True, kw_only=True)
class CommandHelp:
    """What is particular to one command."""

    uses: tuple[str, ...]
    """Groups of settings, and single ones by name."""
    examples: tuple[str, ...]


HELP: Mapping[str, CommandHelp] = {
    "sweep": CommandHelp(
        uses=(
            *("experiment", "checkpoints", "transcripts", "conditions", "scoring", "cluster", "results", "tracking"),
            *("study", "report"),
        ),
        examples=(
            "psych-ray sweep",
            f"psych-ray sweep {_LOCAL} results.root=results",
            "psych-ray sweep experiment=persona checkpoints.only=[Qwen/Qwen3-0.6B*]",
            "psych-ray sweep conditions=[plain,chat] tracking=console",
        ),
    ),
    "plan": CommandHelp(
        uses=("experiment", "checkpoints", "transcripts", "conditions", "scoring", "cluster", "results", "plan"),
        examples=(
            "psych-ray plan",
            "psych-ray plan experiment=paper",
            f"psych-ray plan {_LOCAL} cluster.nodes=4 cluster.gpus=8 cluster.gpu_memory_gb=80 plan.picture=plan.html",
        ),
    ),
    "status": CommandHelp(uses=("results.root",), examples=("psych-ray status results.root=results",)),
    "report": CommandHelp(
        uses=("results.root", "study", "report", "tracking.name"),
        examples=(
            "psych-ray report results.root=results",
            "psych-ray report results.root=results report.figures=[domains,forest] report.transcripts=0",
        ),
    ),
    "check": CommandHelp(
        uses=("experiment", "checkpoints", "transcripts", "conditions", "scoring", "cluster", "results"),
        examples=(f"psych-ray check {_LOCAL}",),
    ),
    "verify": CommandHelp(
        uses=("results.root", "results.lease_seconds", "repair"),
        examples=("psych-ray verify results.root=results", "psych-ray verify results.root=results repair=true"),
    ),
    "compact": CommandHelp(
        uses=("results.root", "results.lease_seconds"), examples=("psych-ray compact results.root=results",)
    ),
    "track": CommandHelp(
        uses=("results.root", "tracking", "study", "report"),
        examples=(
            "psych-ray track results.root=results",
            "psych-ray track results.root=results tracking.mode=online tracking.project=humans",
        ),
    ),
}


def command_help(command: str, what: str) -> str:
    """The help of one command; `what`: what it does."""
    lines = [
        f"psych-ray {command}: {what}",
        "",
        f"usage: psych-ray {command} [NAME=VALUE ...] [--cfg] [--config-dir DIR]",
        "",
        "--cfg prints the configuration that results, and does nothing else; with --config-dir DIR,",
        "DIR/checkpoints/mine.yaml is checkpoints=mine.",
        "",
        "settings",
        *_settings(HELP[command].uses),
        "",
        "examples",
        *(f"  {line}" for line in HELP[command].examples),
    ]
    return "\n".join(lines) + "\n"


def _settings(uses: tuple[str, ...]) -> Iterator[str]:
    groups, shipped = settings_by_group(), choices()
    single = {one.name: one for own in groups.values() for one in own}
    for name in uses:
        if name in shipped:
            yield f"  {name}={'|'.join(shipped[name])}"
        own = [single[name]] if name in single else groups.get(name, [])
        for one in own:
            yield from _setting(one)


def _setting(one: Setting) -> Iterator[str]:
    default = f" (default {one.default})" if one.default else ""
    yield f"  {one.name}={one.values}{default}"
    yield from textwrap.wrap(one.meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
