"""What a run of Weights & Biases gets of the report of a sweep: its tables, its figures, and references to the parts.

Tables of aggregates only: one with a row for a participant or a transcript is left out. The artifact holds addresses of
parts, not their content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psych_ray.compat.wandb import wandb_reference
from psych_ray.tracking.events import Reported

if TYPE_CHECKING:
    import polars as pl
    import wandb

MAX_ROWS = 10_000
"""Of a table; it is cut there."""
MAX_PARTS = 10_000
"""More are not referred to one by one, but by the folder of their task."""
_OF_PERSONS = frozenset({"participant", "transcript"})


def log_report(run: wandb.Run, event: Reported, *, at: int) -> None:
    """Log all of it as one point at step `at`."""
    import wandb

    point: dict[str, object] = {
        f"tables/{name}": _table(frame) for name, frame in event.tables.items() if frame.height and is_aggregate(frame)
    }
    point |= {f"figures/{path.stem}": wandb.Image(str(path), caption=path.stem) for path in event.figures}
    run.log(point, step=at, commit=True)
    run.summary.update({"headlines": list(event.headlines), "rows": event.rows, "parts": len(event.parts)})
    artifact = wandb.Artifact(
        f"responses-{run.id}",
        type="responses",
        description="References to the Parquet files of the responses; the table is what their Delta log lists",
        metadata={"results_root": event.location, "rows": event.rows, "parts": len(event.parts)},
    )
    for address in _addresses(event):
        wandb_reference(artifact, *address)
    run.log_artifact(artifact)


def is_aggregate(frame: pl.DataFrame) -> bool:
    """Whether no row of a table is of one participant or transcript."""
    return not _OF_PERSONS & set(frame.columns)


def _table(frame: pl.DataFrame) -> wandb.Table:
    import wandb

    return wandb.Table(
        columns=list[str | int](frame.columns), data=[list(row) for row in frame.head(MAX_ROWS).iter_rows()]
    )


def _addresses(event: Reported) -> list[tuple[str, str, str, int | None]]:
    """Name in the artifact, address, what changes with the content, and bytes where they are known."""
    if len(event.parts) <= MAX_PARTS:
        return [(name, f"{event.uri}/{name}", name, size) for name, size in event.parts]
    folders: dict[str, int] = {}
    for name, _ in event.parts:
        folder = name.rpartition("/")[0]
        folders[folder] = folders.get(folder, 0) + 1
    return [(folder, f"{event.uri}/{folder}", f"{folder} {n} parts", None) for folder, n in folders.items()]
