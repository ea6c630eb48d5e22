"""Progress of a sweep in the terminal and in Weights & Biases.

`open_tracker` makes the tracker, `events` has what it receives. Decides nothing about the sweep, and no failure in
this package reaches it. Importing it loads neither rich nor wandb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from psych_ray.config import TrackingConfig
    from psych_ray.results.store import ResultsStore
    from psych_ray.tracking.group import TrackerGroup


def open_tracker(
    config: TrackingConfig, directory: Path, *, console: Console | None = None, store: ResultsStore | None = None
) -> TrackerGroup:
    """The terminal (`console`, by default stderr) and, for tracking.kind=wandb, Weights & Biases,
    whose files go to `directory`. `store`: where `psych-ray status` reads how far the sweep is.

    The result is an `events.Tracker`: it neither raises nor delays its caller.
    """
    from psych_ray.tracking.group import open_group

    return open_group(config, directory, console=console, store=store)


def wandb_run_id(results_root: str, slug: str, condition: str) -> str:
    """Id of the W&B run of a checkpoint and condition: the same for every sweep over the same results root."""
    from psych_ray.tracking import wandb_runs

    return wandb_runs.wandb_run_id(results_root, slug, condition)
