"""How fast transcripts are prepared, and how long an engine waits between and within units; part of `make bench`.

    python -m tests.benchmarks.preparing [--limit 8] [--idle-limit 40] [--rate 200000] [--out FILE]

The engine is simulated: it sleeps for as long as a device takes at `--rate` tokens a second, and needs no processor.
A replica reads units from a root and writes their parts. "Before" is one thread, 16 transcripts ahead, whole windows;
both ways take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from psych_ray.config import EngineName
from psych_ray.results.catalogue import catalogue
from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, TranscriptRef
from psych_ray.results.store import open_store
from psych_ray.scoring.calibration import COLUMNS
from psych_ray.scoring.engines.base import Query, TokenScores
from psych_ray.scoring.engines.packs import PASS_TOKENS
from psych_ray.scoring.prefetch import IdleTime, Prefetcher, windows
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation, preparation_threads
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import Condition, condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.replica import Replica
from psych_ray.worker.spec import ReplicaSpec
from tests.benchmarks.shapes import SHARED, real_transcripts

CONDITIONS = ("plain", "discrete", "persona", "history_only", "chat", "zero_shot")
UNIT_CHARACTERS = 6_000_000
"""Of a unit here: some 10 s of the simulated engine, where a unit mostly is a minute."""


class SimulatedEngine:
    """Takes as long as a device that reads `rate` tokens a second; scores are zero."""

    name, batch_tokens = "simulated", PASS_TOKENS

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.busy_s = 0.0
        self.calls: list[float] = []
        """When each call of `score` began."""

    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Sleep, and return zeros."""
        self.calls.append(time.perf_counter())
        seconds = sum(query.length for query in batch) / self._rate
        time.sleep(seconds)
        self.busy_s += seconds
        return [_zeros(len(query.at_R)) for query in batch]


class Before(LanguageModelScorer):
    """Prepares as at first."""

    def score(
        self, transcripts: Iterable[Transcript], condition: Condition, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[ScoredTranscript]:
        """Score transcripts, in their order."""
        prepare = partial(self.align, condition=condition)
        with Prefetcher(transcripts, prepare, size=lambda _: 1, budget=16, threads=1, idle=IdleTime()) as stream:
            for window in windows(stream, lambda aligned: aligned.n_tokens, 8 * self.engine.batch_tokens):
                yield from self._score_window(window)


WAYS = {"before": Before, "now": LanguageModelScorer}


def main() -> None:
    """Measure, print two tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=8, help="participants of each experiment")
    parser.add_argument("--idle-limit", type=int, default=40, help="the same for idle time, which takes whole units")
    parser.add_argument("--rate", type=float, default=200_000, help="tokens a second of the simulated engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/preparing.json"))
    given = parser.parse_args()
    result = preparing(given.limit, given.idle_limit, given.rate, given.rounds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(f"tokens prepared per second by {result['threads']} threads on {os.cpu_count()} cores, medians")
    print(f"{'tokenizer':10}{'condition':14}{'tokens':>10}{'before':>11}{'now':>11}{'ratio':>7}")
    for row in result["prepared"]:
        names = f"{row['tokenizer']:10}{row['condition']:14}{row['tokens']:>10,}"
        print(f"{names}{row['before']:>11,}{row['now']:>11,}{row['ratio']:>7.2f}")
    print(f"\nshare of the time in which an engine of {given.rate:,.0f} tokens/s does nothing, several units in turn")
    print(f"{'tokenizer':10}{'condition':14}{'units':>6}{'before':>9}{'now':>9}   seconds to the first call")
    for row in result["idle"]:
        shares = f"{row['before']:>9.1%}{row['now']:>9.1%}"
        firsts = f"{row['before_first_s']:.3f}, now {row['now_first_s']:.3f}"
        print(f"{row['tokenizer']:10}{row['condition']:14}{row['units']:>6}{shares}   {firsts}")


def preparing(limit: int = 4, idle_limit: int = 40, rate: float = 200_000, rounds: int = 3) -> dict[str, Any]:
    """Measure the rate for each tokenizer and condition, and the share of idle time."""
    transcripts, of_units = real_transcripts(limit), real_transcripts(idle_limit)
    prepared, idle = [], []
    for path in sorted(path for path in (SHARED / "tokenizers").iterdir() if path.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(path)
        for condition in CONDITIONS:
            suited = [one for one in transcripts if condition != "zero_shot" or len(one.responses) <= 100]
            prepared.append({"tokenizer": path.name, **_rates(tokenizer, suited, condition, rounds)})
        shares = [_idle(tokenizer, of_units, condition, rate) for condition in ("plain", "chat")]
        idle += [{"tokenizer": path.name, **of_condition} for of_condition in shares]
    return {"threads": preparation_threads(), "prepared": prepared, "idle": idle}


def _rates(tokenizer: PreTrainedTokenizerBase, transcripts: Sequence[Transcript], name: str, n: int) -> dict[str, Any]:
    """Tokens per second with an engine that takes no time."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    tokens = 0
    for _ in range(n):
        for way in WAYS:
            scorer = _scorer(way, tokenizer, SimulatedEngine(float("inf")))
            unread = [replace(transcript) for transcript in transcripts]
            began = time.perf_counter()
            tokens = sum(scored.tokens_read for scored in scorer.score(unread, condition_named(name)))
            seconds[way].append(time.perf_counter() - began)
    ratio = median(before / now for before, now in zip(seconds["before"], seconds["now"], strict=True))
    rates = {way: round(tokens / median(of_way)) for way, of_way in seconds.items()}
    return {"condition": name, "tokens": tokens, **rates, "ratio": round(ratio, 3)}


def _idle(tokenizer: PreTrainedTokenizerBase, transcripts: Sequence[Transcript], name: str, rate: float) -> dict:
    """Share of the time in which the engine does nothing while a replica scores several units."""
    with tempfile.TemporaryDirectory() as root:
        refs = catalogue(open_store(root), transcripts)
        n_units = max(2, sum(ref.n_characters for ref in refs) // UNIT_CHARACTERS)
        found: dict[str, Any] = {"condition": name, "units": n_units}
        for way in WAYS:
            engine = SimulatedEngine(rate)
            replica = _replica(root, _scorer(way, tokenizer, engine))
            began, firsts = time.perf_counter(), []
            for unit in range(n_units):
                unit_began, n_calls = time.perf_counter(), len(engine.calls)
                replica.score(Unit("simulated", name, tuple[TranscriptRef, ...](refs[unit::n_units])))
                firsts.append(engine.calls[n_calls] - unit_began)
            found[way] = round(1 - engine.busy_s / (time.perf_counter() - began), 4)
            found[f"{way}_first_s"] = round(median(firsts), 4)
    return found


def _scorer(way: str, tokenizer: PreTrainedTokenizerBase, engine: SimulatedEngine) -> LanguageModelScorer:
    return WAYS[way](engine, tokenizer, Truncation(), template=template_of(tokenizer), calibration=True)


def _replica(root: str, scorer: LanguageModelScorer) -> Replica:
    """Make a replica that has loaded this scorer."""
    facts = CheckpointFacts(slug="simulated", id="simulated", fingerprint="")
    identity = ScoringIdentity(dtype="bfloat16", cut="tokens", cut_at=None, parity=False)
    replica = Replica(
        ReplicaSpec(
            checkpoints=(), facts={"simulated": facts}, identity=identity,
            engine=EngineName.transformers, results_root=root,
        )
    )  # fmt: skip
    replica._scorers["simulated"] = scorer
    return replica


def _zeros(n: int) -> TokenScores:
    return TokenScores(np.zeros(n, np.float32), np.zeros(n, np.bool_), np.zeros((n, len(COLUMNS)), np.float32))


if __name__ == "__main__":
    main()
