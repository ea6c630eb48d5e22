"""Who is told how a sweep goes: the terminal and Weights & Biases.

`open_tracker` is the door; what a tracker is told stands in `base`. Nothing here decides anything about the sweep,
and no failure in here reaches it. Importing this package loads neither rich nor wandb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from psych_ray.config import Config
    from psych_ray.tracking.group import TrackerGroup


def open_tracker(config: Config, *, console: Console | None = None) -> TrackerGroup:
    """The terminal (`console`, by default stderr) and, for tracking.kind=wandb, Weights & Biases.

    The result keeps the contract of `base.Tracker`: it neither raises nor stalls its caller.
    """
    from psych_ray.tracking.group import open_group

    return open_group(config, console=console)


def wandb_run_id(results_root: str, slug: str, condition: str) -> str:
    """Id of the W&B run of a checkpoint and condition: the same for every sweep over the same results root."""
    from psych_ray.tracking import wandb_runs

    return wandb_runs.wandb_run_id(results_root, slug, condition)
