"""What does not fit on the cluster of a plan, in few lines: checkpoints that are refused for one reason together.

Pure: from what was prepared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from psych_ray.app.prepare import Prepared
from psych_ray.checkpoints.find import load_group
from psych_ray.sweep.placement import Unfit


def unfit_lines(prepared: Prepared) -> Iterator[str]:
    """A line for each reason; where it concerns several checkpoints, one for each size of their weights below it."""
    by_reason: dict[str, dict[str, Unfit]] = defaultdict(dict)
    for weights, unfit in prepared.unfit.items():
        by_reason[unfit.reason][weights] = unfit
    for reason, own in by_reason.items():
        yield from _of_one_reason(reason, own, prepared)


def _of_one_reason(reason: str, own: dict[str, Unfit], prepared: Prepared) -> Iterator[str]:
    names: dict[tuple[int, str], list[str]] = defaultdict(list)
    for slug, checkpoint in prepared.checkpoints.items():
        unfit = own.get(load_group(checkpoint))
        if unfit is not None:
            would_do = f"{unfit.size} of weights, {unfit.smallest} would do" if unfit.size else ""
            names[round((unfit.weights_bytes or 0.0) / 1e8), would_do].append(checkpoint.card.id or slug)
    ((_, would_do), first), *more = sorted(names.items())
    one = next(iter(own.values()))
    if not more and len(first) == 1:
        enough = f"; {one.smallest} would do" if one.smallest else ""
        yield f"does not fit: {first[0]}: {one}{enough}"
        return
    subject = "the weights " if one.size else ""
    yield f"does not fit: {sum(map(len, names.values()))} checkpoints: {subject}{reason}"
    for (_, would_do), ids in sorted(names.items()):
        yield f"  {would_do}{': ' if would_do else ''}{', '.join(ids)}"
