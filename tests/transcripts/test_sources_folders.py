"""Which files are read: folders, names, zips good and bad, the studies and participants that are chosen."""

import io
import json
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from psych_ray.config import OnError, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import Skipped, archive, json_lines, read_transcripts


def read(path: Path | str, **settings: Any) -> list[Transcript]:
    return list(read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=str(path), **settings)))


def refusal(path: Path | str, **settings: Any) -> str:
    """What is said where the file itself is at fault, which no setting skips."""
    messages = []
    for on_error in OnError:
        with pytest.raises(TranscriptError) as raised:
            read(path, on_error=on_error, **settings)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert len(messages[0].splitlines()) == 1
    return messages[0]


def lines(n: int = 1, *, start: int = 0, **fields: Any) -> bytes:
    record = {"text": "You press <<A>>.", "experiment": "e"}
    return b"".join(json.dumps(record | {"participant": start + i} | fields).encode() + b"\n" for i in range(n))


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path


def plain(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Three studies, and beside them what stands in a real checkout."""
    root = tmp_path / "studies"
    plain(root / "b2020" / "prompts.jsonl", lines(3))
    zipped(root / "a2019" / "prompts.jsonl.zip", {"prompts.jsonl": lines(2), "__MACOSX/._prompts.jsonl": b"\0"})
    zipped(root / "B2021" / "prompts.jsonl.zip", {"x/prompts.jsonl": lines(4)})
    plain(root / "LICENSE", b"words")
    plain(root / "notes" / "README.md", b"words")
    plain(root / ".hidden" / "prompts.jsonl", b"x")
    plain(root / "__MACOSX" / "prompts.jsonl", b"x")
    return root


def test_a_folder_is_read_study_by_study(studies: Path) -> None:
    assert [t.study for t in read(studies)] == ["B2021"] * 4 + ["a2019"] * 2 + ["b2020"] * 3


def test_a_folder_is_read_lazily(studies: Path) -> None:
    plain(studies / "c" / "prompts.jsonl.zip", b"no zip")
    stream = read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=str(studies)))
    assert [next(stream).study for _ in range(9)][-1] == "b2020"
    with pytest.raises(TranscriptError, match="is a zip that cannot be read"):
        next(stream)


def test_a_study_with_both_files_is_read_once(tmp_path: Path) -> None:
    zipped(tmp_path / "s" / "prompts.jsonl.zip", {"prompts.jsonl": lines(5)})
    plain(tmp_path / "s" / "prompts.jsonl", lines(2))
    assert len(read(tmp_path)) == len(read(tmp_path / "s")) == 2


@pytest.mark.parametrize(
    ("name", "study"),
    [
        ("prompts.jsonl", "folder"),
        ("prompts.jsonl.zip", "folder"),
        ("mine.jsonl", "mine"),
        ("mine.jsonl.zip", "mine"),
        ("mine.zip", "mine"),
        ("MINE.JSONL.ZIP", "MINE"),
        ("v1.2.jsonl", "v1.2"),
    ],
)
def test_the_study_of_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, study: str) -> None:
    path = tmp_path / "folder" / name
    if path.suffix.lower() == ".zip":
        zipped(path, {"anything.jsonl": lines()})
    else:
        plain(path, lines())
    assert [t.study for t in read(path)] == [study]
    monkeypatch.chdir(path.parent)
    assert [t.study for t in read(name)] == [study]


def test_the_folder_of_one_study(studies: Path) -> None:
    assert [t.study for t in read(studies / "a2019")] == ["a2019"] * 2


def test_a_study_named_in_the_line_wins(studies: Path) -> None:
    path = plain(studies / "d" / "prompts.jsonl", lines(study="other") + lines())
    assert [t.study for t in read(path)] == ["other", "d"]
    assert [t.study for t in read(studies, studies=["d"])] == ["other", "d"]
    assert [t.study for t in read(path, studies=["other"])] == ["other"]


def test_studies_are_chosen_by_glob_in_their_case(studies: Path) -> None:
    assert {t.study for t in read(studies, studies=["b*", "a20??"])} == {"a2019", "b2020"}
    assert {t.study for t in read(studies / "a2019", studies=["a*"])} == {"a2019"}
    assert refusal(studies, studies=["z*", "A2019"]) == (
        "transcripts.studies=[z*,A2019] matches no study; there are B2021, a2019, b2020"
    )
    assert "there are a2019" in refusal(studies / "a2019", studies=["b*"])


def test_only_some_studies_are_listed(tmp_path: Path) -> None:
    for i in range(20):
        plain(tmp_path / f"s{i:02}" / "prompts.jsonl", b"x")
    assert refusal(tmp_path, studies=["t"]).endswith("there are s00, s01, s02, s03, s04, s05, s06, s07 and 12 more")


def test_studies_that_are_not_wanted_are_not_opened(studies: Path) -> None:
    plain(studies / "broken" / "prompts.jsonl.zip", b"no zip")
    plain(studies / "b2020" / "prompts.jsonl", b"x")
    assert len(read(studies, studies=["[aB]2*"])) == 6


def test_limit_is_a_study_and_looks_no_further(studies: Path) -> None:
    assert [t.study for t in read(studies, limit=3)] == ["B2021"] * 3 + ["a2019"] * 2 + ["b2020"] * 3
    path = plain(studies / "d.jsonl", lines(2) + b"no JSON\n" + lines())
    assert len(read(path, limit=2)) == 2
    with pytest.raises(TranscriptError, match="line 3"):
        read(path, limit=3)


def test_rejected_records_do_not_count_for_the_limit(tmp_path: Path) -> None:
    path = plain(tmp_path / "s.jsonl", lines() + b"x\n" + lines() + b"y\n")
    skipped: list[Skipped] = []
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(path), limit=2, on_error=OnError.skip)
    assert len(list(read_transcripts(config, on_skipped=skipped.append))) == 2
    assert [r.where for r in skipped] == [f"{path} line 2"]


def test_limit_in_a_file_of_several_studies(tmp_path: Path) -> None:
    path = plain(tmp_path / "all.jsonl", lines(3, study="x") + lines(1, study="y") + lines(3, study="x", text=""))
    assert [t.study for t in read(path, limit=2)] == ["x", "x", "y"]
    assert [t.study for t in read(path, limit=1, studies=["y"])] == ["y"]


def test_litter_in_a_zip_is_passed_over(tmp_path: Path) -> None:
    litter = {
        ".DS_Store": b"\0",
        "s/": b"",
        "s/._prompts.jsonl": b"\0",
        "__MACOSX/s/prompts.jsonl": b"\0",
        "a.txt": b"",
    }
    path = zipped(tmp_path / "s.zip", litter | {"s/prompts.jsonl": lines(2)})
    assert len(read(path)) == 2


def test_a_stored_member_is_read(tmp_path: Path) -> None:
    assert len(read(zipped(tmp_path / "s.zip", {"prompts.jsonl": lines(2)}, zipfile.ZIP_STORED))) == 2


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: does not exist; check transcripts.path"
    assert "holds no study" in refusal(tmp_path)
    assert "is none of .jsonl, .jsonl.zip, .zip, .parquet or a folder" in refusal(plain(tmp_path / "a.csv", b"a"))
    plain(tmp_path / "s" / "prompts.jsonl", lines())
    plain(tmp_path / "prompts.jsonl", lines())
    assert "more than one layout" in refusal(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    path = plain(tmp_path / "s.jsonl", lines())
    monkeypatch.setattr(Path, "open", denied)
    assert (
        refusal(path)
        == f"{path}: cannot be read (Permission denied); check that it is complete and that you may read it"
    )


@pytest.mark.parametrize(
    "name", ["/etc/prompts.jsonl", "../prompts.jsonl", "a/../../b.jsonl", "..\\a.jsonl", "\\a.jsonl", "C:\\a.jsonl"]
)
def test_names_that_lead_out_of_the_zip_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "s.zip", {"prompts.jsonl": lines(), name: b"x"})
    assert "has a name outside of its folder" in refusal(path)


def test_several_prompt_files_in_a_zip_are_one_study(tmp_path: Path) -> None:
    members = {"b/prompts.jsonl": lines(2, start=5), "a/prompts.jsonl": lines(2), "a/codebook.jsonl": b"x"}
    path = zipped(tmp_path / "s" / "prompts.jsonl.zip", members)
    assert [(t.study, t.participant) for t in read(path)] == [("s", k) for k in "0156"]
    assert [t.participant for t in read(path, limit=3)] == ["0", "1", "5"]
    zipped(path, {"exp2.jsonl": lines(1) + b"x\n", "exp1.jsonl": lines(2, start=5)})
    assert [t.participant for t in read(path, on_error=OnError.skip)] == ["5", "6", "0"]
    with pytest.raises(TranscriptError, match=r"prompts.jsonl.zip 'exp2.jsonl' line 2: not JSON"):
        read(path)


def test_a_bad_archive_of_a_folder_is_skipped_as_a_whole_where_that_is_asked_for(studies: Path) -> None:
    broken = studies / "c" / "prompts.jsonl.zip"
    late = zipped(studies / "d" / "prompts.jsonl.zip", {"prompts.jsonl": lines(50_000)})
    content = bytearray(late.read_bytes())
    content[content.index(b"PK\1\2") + 16] ^= 0xFF  # its checksum, which reading compares at the end
    late.write_bytes(content)
    plain(broken, b"no zip")
    skipped: list[Skipped] = []
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(studies), on_error=OnError.skip)
    found = list(read_transcripts(config, on_skipped=skipped.append))
    assert {t.study for t in found} == {"B2021", "a2019", "b2020"}
    assert [(s.where, s.study, s.is_file) for s in skipped] == [(str(broken), "c", True), (str(late), "d", True)]
    assert skipped[0].reason.startswith("is a zip that cannot be read (File is not a zip file)")
    assert "Bad CRC-32" in skipped[1].reason
    with pytest.raises(TranscriptError) as raised:
        read(studies)
    assert str(raised.value).endswith("fetch or create it again; transcripts.on_error=skip skips it")
    with pytest.raises(TranscriptError, match=r"skip skipped 2 files, and no response is left: .*/c/prompts"):
        read(studies, studies=["[cd]"], on_error=OnError.skip)


def test_no_json_lines_file_in_a_zip(tmp_path: Path) -> None:
    none = zipped(tmp_path / "none.zip", {"prompts.json": b"", "._prompts.jsonl": b""})
    assert refusal(none) == f"{none}: holds no .jsonl file; a study's zip holds its prompts.jsonl"


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "s.zip", {"prompts.jsonl": lines() + b" " * 100_000})
    assert len(read(path)) == 1
    monkeypatch.setattr(archive, "MAX_RATIO", 100)
    assert len(read(path)) == 1
    monkeypatch.setattr(archive, "RATIO_COUNTS_FROM_BYTES", 50_000)
    assert "can be a zip bomb" in refusal(path)
    monkeypatch.setattr(archive, "MAX_RATIO", 1000)
    assert len(read(path)) == 1
    monkeypatch.setattr(archive, "MAX_BYTES", 100_000)
    assert "can be a zip bomb" in refusal(path)


def test_a_zip_of_new_lines_is_refused_at_once_and_blank_lines_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("prompts.jsonl", "w") as member:
        for _ in range(17):
            member.write(b"\n" * 2**20)
    assert path.stat().st_size < 20_000
    assert "can be a zip bomb" in refusal(path)
    monkeypatch.setattr(archive, "MAX_RATIO", 2000)
    began = time.monotonic()
    assert "has more than 1,000,000 blank lines" in refusal(path)
    assert time.monotonic() - began < 20
    monkeypatch.setattr(json_lines, "MAX_BLANK_LINES", 3)
    assert "has more than 3 blank lines" in refusal(plain(tmp_path / "s.jsonl", lines() + b"\n \n\r\n\t\n"))
    assert len(read(plain(tmp_path / "s.jsonl", b"\n\n" + lines() + b"\n"))) == 1


def patched(path: Path, change: Callable[[bytearray, int, int], None]) -> Path:
    """Change the zip at `path` in place, given where its local header and its central directory begin."""
    content = bytearray(path.read_bytes())
    change(content, content.index(b"PK\3\4"), content.index(b"PK\1\2"))
    path.write_bytes(content)
    return path


def test_a_member_longer_than_declared_is_not_read_on(tmp_path: Path) -> None:
    declared = len(lines())

    def understate(content: bytearray, local: int, central: int) -> None:
        content[local + 22 : local + 26] = declared.to_bytes(4, "little")
        content[central + 24 : central + 28] = declared.to_bytes(4, "little")

    path = patched(zipped(tmp_path / "s.zip", {"prompts.jsonl": lines(1) + lines(5000)}), understate)
    assert "is a zip that cannot be read (Bad CRC-32" in refusal(path)


def test_broken_zips(tmp_path: Path) -> None:
    def bad_sum(content: bytearray, _: int, central: int) -> None:
        content[central + 16] ^= 0xFF

    def bad_data(content: bytearray, local: int, central: int) -> None:
        middle = (local + central) // 2
        content[middle : middle + 40] = b"\xff" * 40

    def encrypted(content: bytearray, local: int, central: int) -> None:
        content[local + 6] |= 1
        content[central + 8] |= 1

    def strongly_encrypted(content: bytearray, local: int, central: int) -> None:
        content[local + 6] |= 0x40
        content[central + 8] |= 0x40

    def other_name(content: bytearray, local: int, _: int) -> None:
        content[local + 30] ^= 0x01

    def name_that_is_no_utf8(content: bytearray, local: int, _: int) -> None:
        content[local + 7] |= 0x08
        content[local + 30] = 0xFF

    def fresh() -> Path:
        return zipped(tmp_path / "s.zip", {"prompts.jsonl": lines(3000)})

    assert "Bad CRC-32" in refusal(patched(fresh(), bad_sum))
    assert "is a zip that cannot be read" in refusal(patched(fresh(), bad_data))
    assert "is encrypted" in refusal(patched(fresh(), encrypted))
    assert "is a zip that cannot be read" in refusal(patched(fresh(), strongly_encrypted))
    assert "is a zip that cannot be read" in refusal(patched(fresh(), other_name))
    assert "is a zip that cannot be read" in refusal(patched(fresh(), name_that_is_no_utf8))
    path = fresh()
    path.write_bytes(path.read_bytes()[:-30])
    assert "is a zip that cannot be read" in refusal(path)
    assert "File is not a zip file" in refusal(plain(tmp_path / "s.jsonl.zip", lines()))
    assert "File is not a zip file" in refusal(plain(tmp_path / "s.jsonl.zip", b""))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_bounds_are_refused(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "s.zip", {"prompts.jsonl": lines()}, method)
    assert refusal(path) == f"{path}: is compressed by method {method}; zip it with plain deflate"


def test_simulated_transcripts_are_chosen_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, int]] = []

    def simulated_transcripts(**settings: int) -> Iterator[Transcript]:
        asked.append(settings)
        for study in "xy":
            for i in (0, 1, 2, 2):
                yield Transcript(study=study, experiment="e", participant=str(i), text="<<a>>")

    module = types.ModuleType("psych_ray.transcripts.simulated")
    module.simulated_transcripts = simulated_transcripts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert [t.copy for t in read_transcripts(TranscriptsConfig(participants=4, seed=9))] == [0, 0, 0, 1] * 2
    assert asked == [{"participants": 4, "seed": 9}]
    chosen = list(read_transcripts(TranscriptsConfig(studies=["y"], limit=2)))
    assert [(t.study, t.participant) for t in chosen] == [("y", "0"), ("y", "1")]
    with pytest.raises(TranscriptError, match=r"matches no study; there are x, y$"):
        list(read_transcripts(TranscriptsConfig(studies=["z"])))
