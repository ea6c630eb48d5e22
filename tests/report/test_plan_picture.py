"""The picture of a plan: every span is drawn once, on slots of its own, and the page is safe to open from disk."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from matplotlib.collections import PolyCollection

from psych_ray.report.plan_page import draw, write_plan_picture
from psych_ray.report.timeline_figure import MAX_ROWS, who_runs_when
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.simulator import Disturbances, simulate
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.timeline import Doing, Timeline
from psych_ray.sweep.unit import Unit

SCRIPT = "<script>alert(1)</script>"


def timeline(seed: int, *, nodes: int = 3, preempted_every_s: float | None = None) -> Timeline:
    rng = random.Random(seed)
    names = ["small", "gang", SCRIPT]
    units = [
        Unit(name, "plain", (TranscriptRef(f"{name}{k}", "s", "f", k, 100, 5),), rng.uniform(10, 60))
        for name in names
        for k in range(12)
    ]
    facts = {name: WeightsFacts(ranks, ranks > 1, 20.0) for name, ranks in zip(names, (1, 2, 1), strict=True)}
    disturbances = Disturbances(preempted_every_s=preempted_every_s)
    slots = {f"node {k}": rng.choice([2, 4]) for k in range(nodes)}
    return simulate(units, nodes=slots, facts=facts, disturbances=disturbances, seed=seed)


def boxes(figure) -> list[list[tuple[float, float, float, float]]]:
    """Start, end, low, high of the boxes of lifetimes, of scoring and of loading."""
    nodes = figure.axes[1]
    found = []
    for collection in nodes.collections:
        assert isinstance(collection, PolyCollection)
        of_path = [path.vertices for path in collection.get_paths()]
        found.append([(*(f(v[:, 0]) for f in (min, max)), *(f(v[:, 1]) for f in (min, max))) for v in of_path])
    return found


@pytest.mark.parametrize(("seed", "preempted_every_s"), [(0, None), (1, None), (2, 200.0), (3, 120.0)])
def test_every_span_is_drawn_on_slots_that_are_free(seed, preempted_every_s):
    simulated = timeline(seed, preempted_every_s=preempted_every_s)
    lifetimes, scoring, loading = boxes(who_runs_when(simulated))
    assert len(lifetimes) == len(simulated.lifetimes)
    assert (len(lifetimes) > 3) == (preempted_every_s is not None)
    assert max(high for _, _, _, high in lifetimes) <= 3, "a node that takes the place of another is in its row"
    for doing, drawn in ((Doing.scoring, scoring), (Doing.loading, loading)):
        assert len(drawn) >= sum(span.doing == doing for span in simulated.spans)
    for one, other in combinations([*scoring, *loading], 2):
        overlap = min(one[1], other[1]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[2], other[2])
        assert min(overlap) <= 1e-6, "two replicas on one slot"
    most = max(end for _, end, _, _ in lifetimes)
    for start, end, low, high in [*scoring, *loading]:
        assert 0 <= start <= end <= most + 1e-6
        assert int(low) == int(high - 1e-9), "within one row"


def test_the_area_that_is_drawn_is_the_time_that_is_simulated():
    simulated = timeline(5, nodes=1)
    (slots,) = simulated.slots.values()
    _, scoring, loading = boxes(who_runs_when(simulated))
    unit = max(end for _, end, _, _ in [*scoring, *loading]) / max(span.end for span in simulated.spans)
    for doing, drawn in ((Doing.scoring, scoring), (Doing.loading, loading)):
        area = sum((end - start) * (high - low) for start, end, low, high in drawn)
        assert area / unit * slots / 0.88 == pytest.approx(simulated.seconds(doing))


def test_many_nodes_share_rows():
    figure = who_runs_when(timeline(1, nodes=MAX_ROWS + 1))
    assert figure.axes[1].get_ylim()[0] <= MAX_ROWS
    assert figure.axes[1].get_yticklabels()[0].get_text() == "node 0 to node 1"


def test_the_page_needs_no_network_and_escapes_names(tmp_path):
    path = tmp_path / "plan.html"
    write_plan_picture(
        timeline(0), path, title=SCRIPT, lines=[SCRIPT], columns=["Weights", "Units"], rows=[[SCRIPT, "12"]]
    )
    page = path.read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4
    assert not re.search(r"""(?:src|href)="(?!data:|#)""", page)
    assert "default-src 'none'" in page


def test_a_plan_without_anything_to_run_has_a_picture_too():
    assert draw(None, "png").startswith(b"\x89PNG")
    assert b"<svg" in draw(timeline(0), "svg")
