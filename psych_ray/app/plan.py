"""What a sweep would do: prepared as for one, and simulated on the cluster's nodes with the sweep's own scheduler.

Starts nothing. Writes one file, the picture, where that is asked for. Computes with assumed rates, or with those that
the results root holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from psych_ray.app.assumed_transcripts import assumed_transcripts, is_assumable
from psych_ray.app.cluster import cluster_to_plan_for
from psych_ray.app.plan_unfit import unfit_lines
from psych_ray.app.prepare import Prepared, find_sweep, prepare, survey_of
from psych_ray.app.sweep import replica_specs, weights_facts
from psych_ray.checkpoints.find import Found, load_group
from psych_ray.checkpoints.listed import listed_sizes
from psych_ray.config import Config, TranscriptsConfig
from psych_ray.errors import UnreachableError
from psych_ray.results.schema import TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.sweep.cluster_shape import ranks_on
from psych_ray.sweep.cost import GPU
from psych_ray.sweep.plan import by_transcript, fewer_units
from psych_ray.sweep.simulator import Disturbances, simulate
from psych_ray.sweep.timeline import Doing, Timeline
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.record import Transcript

_SEED = 0
_SIMULATED_UNITS = 10_000
_SIMULATED_UNITS_PER_REPLICA = 1_000
"""Simulated at most, about; of more than that, some are taken for one, which changes the end by a thousandth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlan:
    """What is planned for one set of weights."""

    weights: str
    """Slug."""
    units: int
    seconds: float
    """Of one replica, without loading."""
    ranks: int
    replicas: int
    """At the same time, at most."""
    starts: int
    load_seconds: float
    """Of one start, assumed."""
    gpu_hours: float
    """Scoring and loading, on all ranks; 0 without GPUs, and of references."""
    is_measured: bool
    """Whether the rate of any of its checkpoints is a measured one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What a sweep would do."""

    prepared: Prepared
    found: Found
    weights: tuple[WeightsPlan, ...]
    timeline: Timeline | None
    """None where nothing is missing, or nothing fits."""
    gpu_hours_paid: float
    """Of all GPUs of the nodes for as long as the sweep runs; 0 without GPUs."""
    price: float | None
    """At `cluster.price_per_gpu_hour`; None without it."""

    @property
    def gpu_hours_busy(self) -> float:
        """Of those, spent on loading and scoring."""
        return sum(one.gpu_hours for one in self.weights)

    @property
    def lines(self) -> tuple[str, ...]:
        """A sentence for each of: time, GPU-hours and price, rates; then what does not fit, and why."""
        return (*_sentences(self), *unfit_lines(self.prepared))


def plan(config: Config, *, say: Callable[[str], None]) -> SweepPlan:
    """Plan and simulate a sweep. Checkpoints that fit nowhere are in `prepared.unfit`, the others are planned."""
    with cluster_to_plan_for(config.cluster) as cluster:
        found, store = find_sweep(config, say=say, assume=True), open_store(config.results.root)
        for line in _assumed(found):
            say(line)

        snapshot = Snapshot.read(store)
        prepared = prepare(
            config,
            found.checkpoints,
            snapshot,
            store,
            cluster,
            write=False,
            refuse=False,
            survey=partial(_survey, config.transcripts, is_away=found.hub_is_away, say=say),
        )
    weights_of = {slug: load_group(checkpoint) for slug, checkpoint in prepared.checkpoints.items()}
    units = [unit for unit in by_transcript(prepared.tasks) if weights_of[unit.checkpoint] in prepared.placements]
    timeline = _simulated(units, weights_of, prepared, config) if units else None
    gpus = sum(node.gpus for node in cluster.usable_nodes) if prepared.slots.gpus else 0
    hours = timeline.slot_seconds / 3600 * gpus / sum(_nodes(prepared).values()) if timeline and gpus else 0.0
    price = config.cluster.price_per_gpu_hour
    return SweepPlan(
        prepared=prepared,
        found=found,
        weights=_by_weights(units, weights_of, prepared, timeline),
        timeline=timeline,
        gpu_hours_paid=hours,
        price=None if price is None else hours * price,
    )


def _survey(
    config: TranscriptsConfig, transcripts: Iterable[Transcript], *, is_away: bool, say: Callable[[str], None]
) -> list[TranscriptRef]:
    """Read the transcripts; those of a hub that cannot be reached are assumed."""
    if is_away and is_assumable(config):
        return assumed_transcripts(config, say=say)  # at once: the client of data sets tries for half a minute
    try:
        return survey_of(transcripts)
    except UnreachableError:
        if not is_assumable(config):
            raise
        return assumed_transcripts(config, say=say)


def _assumed(found: Found) -> list[str]:
    """A line where sizes of checkpoints are assumed, as the hub could not be asked."""
    assumed = {one.card.id: one for one in found.checkpoints if one.assumed}
    if not assumed:
        return []
    sizes = [listed_sizes(name) for name in assumed]
    estimated = sum(one is None or one.is_estimated for one in sizes)
    return [
        f"sizes of {len(assumed)} checkpoints are assumed ({estimated} of them estimated), as the hub does not give "
        f"them: {next(iter(assumed.values())).assumed}"
    ]


def write_picture(planned: SweepPlan, path: Path, *, title: str) -> None:
    """Draw who runs when, as the ending of `path` says: .html with the tables, or .png, .pdf, .svg.

    ResultsError where it cannot be written.
    """
    from psych_ray.report.plan_page import write_plan_picture

    rows = [
        (
            one.weights,
            f"{one.units:,}",
            str(planned.prepared.placements[one.weights].engine),
            str(one.ranks),
            f"{one.replicas:,}",
            f"{one.starts:,}",
            f"{one.seconds / 3600:,.2f}",
            f"{one.gpu_hours:,.2f}",
            "measured" if one.is_measured else "assumed",
        )
        for one in planned.weights
    ]
    names = ("Weights", "Units", "Engine", "Ranks", "Replicas", "Starts", "Hours of one replica", "GPU-hours", "Rate")
    write_plan_picture(planned.timeline, path, title=title, lines=planned.lines, columns=names, rows=rows)


def _nodes(prepared: Prepared) -> dict[str, int]:
    """Ranks that each node holds."""
    held = (ranks_on(node, prepared.slots) for node in prepared.cluster.usable_nodes)
    return {f"node {number}": ranks for number, ranks in enumerate(held, 1) if ranks}


def _simulated(units: list[Unit], weights_of: Mapping[str, str], prepared: Prepared, config: Config) -> Timeline:
    every, nodes = config.plan.preempted_every_hours, _nodes(prepared)
    return simulate(
        fewer_units(units, max(_SIMULATED_UNITS, _SIMULATED_UNITS_PER_REPLICA * sum(nodes.values()))),
        nodes=nodes,
        facts=weights_facts(prepared, replica_specs(prepared, config)),
        weights_of=weights_of,
        attempts=config.cluster.attempts,
        disturbances=Disturbances(preempted_every_s=None if every is None else 3600 * every),
        across_nodes=config.cluster.across_nodes,
        replicas=config.cluster.replicas,
        fetch_seconds=None if config.checkpoints.disk is None else prepared.fetch_seconds,
        seed=_SEED,
    )


def _by_weights(
    units: list[Unit], weights_of: Mapping[str, str], prepared: Prepared, timeline: Timeline | None
) -> tuple[WeightsPlan, ...]:
    """In the order of the placements."""
    n_units, seconds = Counter[str](), defaultdict[str, float](float)
    for unit in units:
        n_units[weights_of[unit.checkpoint]] += 1
        seconds[weights_of[unit.checkpoint]] += unit.seconds
    rank_seconds = defaultdict[str, float](float)
    for span in timeline.spans if timeline else ():
        rank_seconds[span.weights] += span.ranks * (span.end - span.start)
    measured = {weights_of[slug] for slug, rate in prepared.rates.items() if rate.is_measured}
    return tuple(
        WeightsPlan(
            weights=weights,
            units=n_units[weights],
            seconds=seconds[weights],
            ranks=placement.ranks,
            replicas=timeline.most_at_a_time[weights] if timeline else 0,
            starts=timeline.starts[weights] if timeline else 0,
            load_seconds=prepared.load_seconds[weights],
            gpu_hours=rank_seconds[weights] / 3600 if GPU in prepared.devices[weights].name else 0.0,
            is_measured=weights in measured,
        )
        for weights, placement in prepared.placements.items()
    )


def _sentences(planned: SweepPlan) -> list[str]:
    timeline, prepared = planned.timeline, planned.prepared
    if timeline is None:
        return ["nothing is missing" if not prepared.unfit else "nothing that is missing fits"]
    lines = [
        f"about {duration(timeline.makespan)} on {prepared.cluster}, at least {duration(timeline.bound)} however it is "
        f"scheduled; {duration(sum(one.seconds for one in planned.weights))} if replicas ran one after the other, "
        "without loading"
    ]
    if planned.gpu_hours_paid:
        loading = timeline.seconds(Doing.loading) / 3600
        price = "" if planned.price is None else f", {planned.price:,.2f} at the given price per GPU-hour"
        lines.append(
            f"{planned.gpu_hours_paid:,.2f} GPU-hours{price}; {planned.gpu_hours_busy / planned.gpu_hours_paid:.0%} of "
            f"them busy, {loading:,.2f} GPU-hours of loading"
        )
    rates = [rate for slug, rate in prepared.rates.items() if prepared.checkpoints[slug].reference is None]
    measured = sum(rate.is_measured for rate in rates)
    of = f"measured for {measured:,} of {len(rates):,} checkpoints, assumed for the others"
    if measured in {0, len(rates)}:
        of = "measured" if measured else "assumed, not measured"
    lines.append(f"rates are {of}; times to load are assumed")
    return lines


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
