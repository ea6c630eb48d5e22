"""The hub's schema: Parquet files, and the hub itself behind a stand-in for its library."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psych_ray.config import Collection, DataSet, OnError, TranscriptsConfig, TranscriptSource
from psych_ray.errors import PsychRayError, TranscriptError, UnreachableError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import Skipped, layout, read_transcripts

NAN = float("nan")
ROW = {
    "text": "You press <<A>> and <<B>>.",
    "study": "s",
    "experiment": "s/1",
    "participant": "1",
    "is_psych101": False,
    "RTs": [3.0, NAN],
    "age": "37.0",
    "gender": "N/A",
    "participant_reindexed": "0",
    "in_eval": True,
}


def read(path: Path, source: TranscriptSource = TranscriptSource.files, **settings: Any) -> list[Transcript]:
    return list(read_transcripts(TranscriptsConfig(source=source, path=str(path), **settings)))


def refusal(config: TranscriptsConfig, kind: type[PsychRayError] = TranscriptError) -> str:
    with pytest.raises(kind) as raised:
        list(read_transcripts(config))
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def table(path: Path, rows: list[dict[str, Any]], drop: tuple[str, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{name: value for name, value in row.items() if name not in drop} for row in rows]
    pq.write_table(pa.Table.from_pylist(kept), path)
    return path


def rows(n: int, **fields: Any) -> list[dict[str, Any]]:
    return [ROW | {"participant": str(i)} | fields for i in range(n)]


def hub(monkeypatch: pytest.MonkeyPatch, served: Any, split: str = "train") -> list[tuple[Any, ...]]:
    """Stand in for `datasets.load_dataset`, with one split; what it was asked is noted."""
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, *, streaming: bool) -> Any:
        asked.append((name, streaming))
        if isinstance(served, Exception):
            raise served
        return {split: served}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_row_becomes_a_transcript(tmp_path: Path) -> None:
    (transcript,) = read(table(tmp_path / "t.parquet", [ROW]))
    assert transcript == Transcript(
        study="s",
        experiment="s/1",
        participant="1",
        text="You press <<A>> and <<B>>.",
        metadata={"age": "37.0"},
        reaction_times_ms=(3.0, None),
        is_psych101=False,
    )


def test_reaction_times_that_are_all_unknown(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [ROW | {"RTs": times} for times in ([NAN, NAN], None, [None, None])])
    assert [t.reaction_times_ms for t in read(path)] == [None] * 3


def test_other_types_of_columns(tmp_path: Path) -> None:
    row = ROW | {"participant": 5, "age": 37, "lists": [1], "pair": {"a": 1}, "true_nll_nats": [0.5, 0.25]}
    (transcript,) = read(table(tmp_path / "t.parquet", [row]))
    assert transcript.participant == "5"
    assert transcript.metadata == {"age": "37"}
    assert transcript.true_nll_nats == (0.5, 0.25)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "a\n<<b"}, "`text`, character 2: `<<` opens a response that is never closed"),
        ({"text": None}, "`text` is missing"),
        ({"study": None}, "`study` is missing"),
        ({"experiment": ""}, "`experiment` is empty"),
        ({"participant": None}, "`participant` is missing"),
    ],
)
def test_bad_rows(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    path = table(tmp_path / "t.parquet", [*rows(40), ROW | fields, ROW | {"participant": "z"}])
    message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
    assert message == f"{path} row 41: {reason}; transcripts.on_error=skip skips it"
    skipped: list[Skipped] = []
    config = TranscriptsConfig(source=TranscriptSource.psych201, path=str(path), on_error=OnError.skip)
    assert len(list(read_transcripts(config, on_skipped=skipped.append))) == 41
    assert skipped == [Skipped(f"{path} row 41", reason, (ROW | fields)["study"])]


def test_a_bad_table_among_others_is_skipped_where_that_is_asked_for(tmp_path: Path) -> None:
    table(tmp_path / "t-0.parquet", rows(2))
    (tmp_path / "t-1.parquet").write_bytes(b"words")
    table(tmp_path / "t-2.parquet", rows(1), drop=("text",))
    skipped: list[Skipped] = []
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(tmp_path), on_error=OnError.skip)
    assert len(list(read_transcripts(config, on_skipped=skipped.append))) == 2
    assert [(s.where, s.is_file) for s in skipped] == [(str(tmp_path / f"t-{k}.parquet"), True) for k in (1, 2)]


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    broken = pa.array([b"<<a>>", b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    names = pa.array(["s", "s"])
    columns = {"text": broken, "study": names, "experiment": names, "participant": names}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    assert len(read(path, on_error=OnError.skip)) == 1
    with pytest.raises(TranscriptError, match=r"row 2: not UTF-8 at byte 0; transcripts.on_error=skip skips it"):
        read(path)


def test_columns_that_are_needed(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [ROW], drop=("text", "participant"))
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(path), on_error=OnError.skip)
    assert refusal(config) == (
        f"{path}: has no column text, participant; needed are text, study, experiment, participant"
    )


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for content in (b"", b"words", b"PAR1" + b"\0" * 40 + b"PAR1"):
        path.write_bytes(content)
        message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
        assert message.startswith(f"{path}: is not a Parquet file that can be read (")
    whole = table(path, rows(300)).read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 296 + whole[300:])
    message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
    assert message.startswith(f"{path}: is not a Parquet file that can be read (")


def test_limit_counts_in_each_study_over_all_files(tmp_path: Path) -> None:
    table(tmp_path / "t-0.parquet", rows(3, study="x") + rows(1, study="y"))
    table(tmp_path / "t-1.parquet", [ROW | {"study": "x", "text": "<<"}, *rows(3, study="y"), *rows(2, study="z")])
    (tmp_path / "._t-2.parquet").write_bytes(b"\0")
    assert [t.study for t in read(tmp_path, limit=2)] == ["x", "x", "y", "y", "z", "z"]
    assert [t.study for t in read(tmp_path, limit=1, studies=["[yz]"])] == ["y", "z"]
    with pytest.raises(TranscriptError, match=r"t-1.parquet row 1"):
        read(tmp_path, limit=4)
    with pytest.raises(TranscriptError, match=r"\[a\] matches no study; there are x, y, z$"):
        read(tmp_path, studies=["a"])


def test_rejected_rows_do_not_count_for_the_limit(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [ROW | {"text": "<<"}, *rows(3)])
    assert [t.participant for t in read(path, limit=2, on_error=OnError.skip)] == ["0", "1"]


def test_a_copy_of_a_hub_repository_has_its_files_in_data(tmp_path: Path) -> None:
    table(tmp_path / "data" / "test-0.parquet", rows(2))
    assert len(read(tmp_path, TranscriptSource.psych201)) == 2


def test_psych101_has_the_study_in_the_experiment(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [ROW | {"experiment": "a2020/exp1.csv"}, ROW], drop=("study",))
    assert [t.study for t in read(path, TranscriptSource.psych101)] == ["a2020", "s"]
    assert [t.study for t in read(path, TranscriptSource.psych101, studies=["a*"])] == ["a2020"]
    for source in (TranscriptSource.files, TranscriptSource.psych201):
        message = refusal(TranscriptsConfig(source=source, path=str(path)))
        assert message.endswith("has no column study; transcripts=psych101 takes the study from experiment")
    path = table(tmp_path / "t.parquet", [ROW | {"experiment": "/x"}], drop=("study",))
    with pytest.raises(TranscriptError, match=r"row 1: `experiment` '/x' names no study before its first slash"):
        read(path, TranscriptSource.psych101)


def test_psych101_as_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(f'{{"text": "<<a>>", "experiment": "{e}/x", "participant": {i}}}\n' for i, e in enumerate("aab"))
    )
    assert [t.study for t in read(path, TranscriptSource.psych101, limit=1)] == ["a", "b"]


def test_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def serve() -> Iterator[dict[str, Any]]:
        for row in rows(100):
            fetched.append(row)
            yield row

    asked = hub(monkeypatch, serve())
    stream = read_transcripts(TranscriptsConfig(source=TranscriptSource.psych201))
    first = next(stream)
    assert (first.study, first.metadata, first.reaction_times_ms) == ("s", {"age": "37.0"}, (3.0, None))
    assert len(fetched) == 1
    assert asked == [("marcelbinz/Psych-201-test", True)]
    assert len(list(stream)) == 99


def test_psych101_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    served = [{"text": "<<a>>", "experiment": f"{study}/x", "participant": "1"} for study in "ab"]
    asked = hub(monkeypatch, served, split="test")
    assert [t.study for t in read_transcripts(TranscriptsConfig(source=TranscriptSource.psych101))] == ["a", "b"]
    assert asked == [("marcelbinz/Psych-101-test", True)]
    message = refusal(TranscriptsConfig(source=TranscriptSource.psych201))
    assert message.startswith("marcelbinz/Psych-201-test: has no column study")


@pytest.mark.parametrize(
    ("source", "dataset", "name"),
    [
        ("psych201", "test", "Psych-201-test"),
        ("psych201", "discrete_test", "Psych-201-discrete-test"),
        ("psych201", "full", "Psych-201"),
        ("psych101", "test", "Psych-101-test"),
        ("psych101", "full", "Psych-101"),
    ],
)
def test_the_data_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch, source: str, dataset: str, name: str) -> None:
    asked = hub(monkeypatch, rows(2))
    config = TranscriptsConfig(source=TranscriptSource(source), dataset=DataSet(dataset))
    assert len(list(read_transcripts(config))) == 2
    assert asked == [(f"marcelbinz/{name}", True)]


def test_the_library_itself_finds_the_only_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "one"
    table(place / "data" / "train-00000-of-00001.parquet", rows(3))
    hub_names = {(TranscriptSource.psych201, DataSet.test): str(place)}
    monkeypatch.setattr(layout, "_HUB", hub_names)
    found = list(read_transcripts(TranscriptsConfig(source=TranscriptSource.psych201)))
    assert [(t.participant, t.is_psych101, t.reaction_times_ms) for t in found] == [
        (str(i), False, (3.0, None)) for i in range(3)
    ]
    table(place / "data" / "test-00000-of-00001.parquet", rows(1))
    assert refusal(TranscriptsConfig(source=TranscriptSource.psych201)) == (
        f"{place}: has not one split ('train', 'test'); save the one to score, and name it with transcripts.path"
    )


def test_is_psych101_is_kept_and_chooses_the_collection(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [*rows(1), *rows(2, study="old", is_psych101=True)])
    assert [t.is_psych101 for t in read(path)] == [False, True, True]
    assert [t.study for t in read(path, collection=Collection.psych101)] == ["old", "old"]
    assert [t.study for t in read(path, collection=Collection.psych201)] == ["s"]
    config = TranscriptsConfig(
        source=TranscriptSource.files, path=str(path), studies=["s"], collection=Collection.psych101
    )
    assert refusal(config) == "transcripts.collection=psych101: the source has no study that came with it"
    without = table(tmp_path / "u.parquet", [ROW], drop=("is_psych101",))
    assert [t.is_psych101 for t in read(without)] == [None]
    assert [t.is_psych101 for t in read(without, TranscriptSource.psych101)] == [True]
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(without), collection=Collection.psych201)
    assert refusal(config).startswith(f"{without} row 1: has no is_psych101, which transcripts.collection=psych201")


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": DataSet.full},
        {"source": TranscriptSource.psych201, "path": "p", "dataset": DataSet.discrete_test},
        {"source": TranscriptSource.psych101, "dataset": DataSet.discrete_test},
        {"collection": Collection.psych101},
    ],
)
def test_data_sets_and_collections_that_a_source_has_not(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^transcripts\.(dataset|collection)="):
        TranscriptsConfig(**settings)


def test_a_bad_row_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [ROW, ROW | {"text": "<<"}])
    message = refusal(TranscriptsConfig(source=TranscriptSource.psych201))
    assert message.startswith("marcelbinz/Psych-201-test row 2: `text`, character 0")


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_off() -> Iterator[dict[str, Any]]:
        yield ROW
        raise TimeoutError

    config = TranscriptsConfig(source=TranscriptSource.psych201)
    hub(monkeypatch, ConnectionError("Couldn't reach it\non the hub"))
    assert refusal(config, UnreachableError) == (
        "marcelbinz/Psych-201-test: the hub cannot be reached (Couldn't reach it); try again later, or name a copy "
        "with transcripts.path=PATH"
    )
    hub(monkeypatch, breaks_off())
    assert "the hub cannot be reached (TimeoutError)" in refusal(config, UnreachableError)
    caused = RuntimeError("streaming")
    caused.__cause__ = httpx.ConnectError("no route")
    hub(monkeypatch, caused)
    assert "cannot be reached (streaming)" in refusal(config, UnreachableError)
    for status, kind in ((429, UnreachableError), (503, UnreachableError), (404, TranscriptError)):
        failed = RuntimeError(f"status {status}")
        failed.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        hub(monkeypatch, failed)
        assert f"(status {status})" in refusal(config, kind)


def test_a_name_of_a_column_that_is_not_utf_8(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [ROW | {"zzzz": 1}])
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"z\xd3zz"))
    message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
    assert message.startswith(f"{path}: is not a Parquet file that can be read ('utf-8' codec can't decode byte 0xd3")


def test_a_table_with_two_columns_of_one_name(tmp_path: Path) -> None:
    one = pa.Table.from_pylist([ROW])
    path = tmp_path / "t.parquet"
    for name in ("text", "age"):
        pq.write_table(one.append_column(name, pa.array(["x"])), path)
        message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
        assert message == f"{path}: has more than one column {name}; keep one"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**31 - 1, 0], pa.int32()).view(pa.date32()),
        pa.array([2**60, 0], pa.int64()).view(pa.date64()),
        pa.array([2**62, 0], pa.int64()).view(pa.timestamp("us")),
        pa.array([2**62, 0], pa.int64()).view(pa.duration("s")),
        pa.array([0, None], pa.timestamp("s", "Nowhere/No")),
    ],
    ids=lambda column: str(column.type),
)
def test_a_date_that_python_has_not_is_a_bad_record(tmp_path: Path, column: Any) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows(2)).append_column("born", column), path)
    message = refusal(TranscriptsConfig(source=TranscriptSource.files, path=str(path)))
    assert message.startswith(f"{path} row 1: `born` has a value that cannot be read: ")
    assert [t.participant for t in read(path, on_error=OnError.skip)] == ["1"]
