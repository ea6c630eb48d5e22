"""The table's log in a bucket: no commit is lost, doubled or taken for another's, whatever happens to its request."""

from __future__ import annotations

import pytest
import s3_server
from support_table import commit, responses

from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results.log import ResponsesLog, TakenOverError
from psych_ray.results.object_store import Limits, ObjectStore
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

LOG = "_delta_log"


def footer(unit: str) -> Footer:
    return Footer(
        unit=unit,
        condition="plain",
        checkpoint=CheckpointFacts(slug="a", id="a", fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="simulator",
    )


def part(unit: str) -> Part:
    return Part(PartName("a", "plain", unit, f"{len(unit):032}"), 10, footer(unit))


@pytest.fixture
def store(server) -> ObjectStore:
    return ObjectStore("s3://bucket/root", limits=Limits(connect_s=1, request_s=0.3, retry_s=1))


@pytest.fixture
def log(store) -> ResponsesLog:
    log = ResponsesLog(store)
    log.take_over()
    return log


def listed(store: ObjectStore) -> list[str]:
    return [part.name.unit for part in ResponsesLog(store).parts()]


def test_rows_are_read_back_as_they_were_scored(store):
    people = [
        Transcript(study="s", experiment="e", participant=str(k), text="<<A>> <<B>>", true_nll_nats=(0.5, float(k)))
        for k in range(2)
    ]
    scored = list(SimulatorScorer().score(people, condition_named("plain")))
    commit(store, (scored, footer("u")))
    assert responses(store).sort("participant", "response")["nll"].to_list() == [0.5, 0.0, 0.5, 1.0]


def test_files_that_left_the_table_are_told(log, store):
    log.commit([part("u")])
    store.write(str(part("u").name), b"rows")
    log.commit([part("v1")], removed=ResponsesLog(store).parts())
    assert log.replaced() == {str(part("u").name)}


@pytest.mark.parametrize(
    "fault",
    [
        s3_server.lose_answer,
        s3_server.carry_out_and_fail,
        s3_server.reset,
        s3_server.cut_request,
        s3_server.flip_a_bit,
        s3_server.status(503, "SlowDown"),
    ],
)
def test_a_commit_is_there_once_whatever_happens_to_its_request(fault, log, store, s3):
    log.commit([part("u")])
    s3.fail(fault, "PUT", LOG)
    log.commit([part("v1")])
    log.commit([part("v22")], removed=[ResponsesLog(store).parts()[0]])
    assert listed(store) == ["v1", "v22"]


@pytest.mark.parametrize("fault", [s3_server.lose_answer, s3_server.carry_out_and_fail, s3_server.reset])
@pytest.mark.parametrize("times", [1, 2])
def test_a_table_is_made_and_taken_over_whatever_happens_to_the_requests(fault, times, store, s3):
    s3.fail(fault, "PUT", LOG, times=times)
    log = ResponsesLog(store)
    log.take_over()
    log.commit([part("u")])
    assert listed(store) == ["u"]


def test_a_commit_whose_request_stands_still_is_sent_again(log, store, s3):
    s3.fail(s3.stall, "PUT", LOG)
    log.commit([part("u")])
    assert listed(store) == ["u"]


def test_a_driver_that_was_overtaken_while_its_commit_got_no_answer_commits_nothing(log, store, s3):
    other = ResponsesLog(store)

    def overtake(_: s3_server.Request) -> None:
        other.take_over()

    s3.fail(overtake, "PUT", LOG)
    with pytest.raises(TakenOverError):
        log.commit([part("u")])
    with pytest.raises(TakenOverError):
        log.commit([part("u")])
    other.commit([part("v1")])
    assert listed(store) == ["v1"]


def test_a_log_that_cannot_be_reached_or_read_is_told_as_the_store_tells_it(log, store, s3):
    s3.fail(s3_server.status(503, "SlowDown"), times=1000)
    with pytest.raises(UnreachableError, match=rf"responses/{LOG}: cannot be read or written: the store limits"):
        ResponsesLog(store).parts()
    with pytest.raises(UnreachableError, match="the store limits requests"):
        log.commit([part("u")])
    s3.clear()
    s3.fail(s3_server.status(403, "AccessDenied"), times=1000)
    with pytest.raises(ResultsError, match=r"access denied \(403 AccessDenied\)"):
        ResponsesLog(store).parts()
