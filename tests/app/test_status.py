"""Status of a results store: planned tasks without parts are listed, and rows are never read."""

from __future__ import annotations

import pytest
from support_table import commit

from psych_ray.app.status import TaskStatus, status_of, write_plan
from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue, read_catalogued
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity
from psych_ray.results.store import open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript


def test_it_counts_what_is_committed_and_what_is_missing_by_task(tmp_path):
    store = open_store(str(tmp_path))
    with pytest.raises(ResultsError, match="no sweep there yet"):
        status_of(store)
    transcripts = [
        Transcript(study="s", experiment="e", participant=str(k), text="<<A>> <<>>", true_nll_nats=(0.5, 0.0))
        for k in range(3)
    ]
    without_responses = Transcript(study="s", experiment="e", participant="3", text="nothing")
    refs = catalogue(store, [*transcripts, without_responses])
    write_plan(store, [("b", "plain"), ("a", "plain")])
    scored = SimulatorScorer().score(read_catalogued(store, refs[:2]), condition_named("plain"))
    footer = Footer(
        unit="u",
        condition="plain",
        checkpoint=CheckpointFacts(slug="a", id="a", fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="simulator",
    )
    (part,) = commit(store, (list(scored), footer))
    (tmp_path / str(part.name)).unlink()  # status opens no part
    status = status_of(store)
    assert status.n_transcripts == 3
    assert status.tasks == (
        TaskStatus("b", "plain", transcripts_missing=3),
        TaskStatus("a", "plain", transcripts=2, transcripts_missing=1, rows=4, rows_not_scored=2, parts=1),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'[{"checkpoint": "a", "condi',
        b"\xff\xfe\x00",
        b"7",
        b"null",
        b'"text"',
        b'{"checkpoint": "a"}',
        b"[1]",
        b'[{"checkpoint": "a"}]',
        b'[{"checkpoint": 1, "condition": "plain"}]',
        b'[{"checkpoint": "a", "condition": ["plain"]}]',
        b'[{"checkpoint": "a", "condition": ""}]',
        b"[" * 100_000,
    ],
)
def test_a_damaged_plan_is_one_line(tmp_path, content):
    store = open_store(str(tmp_path))
    catalogue(store, [Transcript(study="s", experiment="e", participant="1", text="<<A>>", true_nll_nats=(0.5,))])
    store.write("plan.json", content)
    with pytest.raises(ResultsError, match=r"plan\.json: damaged \(.*; the sweep's command writes it again") as caught:
        status_of(store)
    assert "\n" not in str(caught.value)
