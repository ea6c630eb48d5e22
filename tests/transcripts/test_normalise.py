"""Contributions become the hub's rows: names, casts, text repairs, names of experiments, studies that are left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from psych_ray.config import Normalise, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.conditions import AsAuthors, Plain
from psych_ray.transcripts.conditions.persona import interview
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import LeftOut, read_transcripts

RECORD = {"text": "You press <<A>>.", "experiment": "e", "participant": "1"}


def read(path: Path, told: list[LeftOut] | None = None, **settings: Any) -> list[Transcript]:
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(path), **settings)
    return list(read_transcripts(config, on_left_out=None if told is None else told.append))


def contribution(root: Path, study: str, *records: dict[str, Any]) -> Path:
    path = root / study / "prompts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(RECORD | record) + "\n" for record in records))
    return path


def one(root: Path, study: str = "s", **fields: Any) -> Transcript:
    (found,) = read(contribution(root, study, fields))
    return found


@pytest.mark.parametrize(
    ("contributed", "hub"),
    [
        ({"age": 12}, {"age": "12.0"}),
        ({"age": "31"}, {"age": "31.0"}),
        *(({"age": age}, {}) for age in (-1, 101, "old", "nan", float("nan"), True, "1e999", None)),
        ({"age": 0}, {"age": "0.0"}),
        ({"age": 100}, {"age": "100.0"}),
        ({"sex": "F"}, {"gender": "female"}),
        ({"gender": "Man"}, {"gender": "male"}),
        ({"gender": "NB"}, {"gender": "other"}),
        ({"gender": "Prefer not to say"}, {}),
        ({"gender": "female", "sex": "M"}, {"gender": "female"}),
        ({"gender": "N/A", "sex": "M"}, {"gender": "male"}),
        ({"diagnosis": "Healthy"}, {}),
        ({"diagnosis": "non-PFC-lesion"}, {"clinical diagnosis": "brain-lesion"}),
        ({"diagnosis": "OCD"}, {"clinical diagnosis": "OCD"}),
        ({"education": "PhD"}, {"education": "Master's Degree or Higher"}),
        ({"education": "Some College"}, {"education": "College"}),
        ({"education": "rather not say"}, {}),
        ({"location": "USA"}, {"nationality": "United States"}),
        ({"nationality": "England"}, {"nationality": "United Kingdom"}),
        ({"nationality": "Berlin"}, {"nationality": "Germany"}),
        ({"nationality": "Other New_Zealand (please specify)"}, {"nationality": "New Zealand"}),
        ({"nationality": "African"}, {}),
        ({"STAI": 40.0}, {"STAI-S": "40.0"}),
        ({"stai": "40.0"}, {"STAI-T": "40"}),
        ({"BIS": 61.0, "bis_total": 70}, {"BIS-11": "61", "BIS-10": "70"}),
        ({"phq8": "none"}, {}),
        ({"bas_drive": 3, "GAD-7": 3.5}, {"BAS Drive": "3", "GAD-7": "3.5"}),
        ({"condition": "A"}, {"condition": "A"}),
    ],
)
def test_metadata(tmp_path: Path, contributed: dict[str, Any], hub: dict[str, str]) -> None:
    assert one(tmp_path, **contributed).metadata == hub


def test_metadata_of_a_contribution_is_what_persona_asks_for(tmp_path: Path) -> None:
    found = one(tmp_path, diagnosis="Depression", sex="F", age=30, STICSAsoma=9)
    assert interview(found.metadata).count("Interviewee") == 4
    (raw,) = read(tmp_path, normalise=Normalise.none)
    assert raw.metadata == {"diagnosis": "Depression", "sex": "F", "age": "30", "STICSAsoma": "9"}


@pytest.mark.parametrize(
    ("experiment", "contributed", "hub"),
    [
        ("e", "a <<skip>> b <<-3>> c <<think>>", "a <<skip>>. b << -3>> c << think>>"),
        ("e", "More Details >> <<A>>", "More Details -> <<A>>"),
        ("e", "<<A>>\n$<<3>>, t", "<<A>>\n$<<3>>, t"),
        ("Ying2023NIPE", "<<A>>\n<<skip>>\n", "<<A>>.\n<<skip>>.\n"),
        ("pirrone_2018_dots/data_Pirrone2018_dots_Psych-201.csv", "<<A>>, the <<B>>, and", "<<A>>. The <<B>> and"),
        ("heffner2022economicgames/prd_data.csv", "give $<<3>> now", "give <<3>> dollars now"),
        ("holton2024goalcommitment", "collect<<A>>", "collect <<A>>"),
    ],
)
def test_text(tmp_path: Path, experiment: str, contributed: str, hub: str) -> None:
    assert one(tmp_path, text=contributed, experiment=experiment).text == hub
    (raw,) = read(tmp_path, normalise=Normalise.none)
    assert raw.text == contributed


def test_parity_repeats_the_repair_on_the_repaired_text(tmp_path: Path) -> None:
    found = one(tmp_path, text="a <<skip>> b <<-3>>")
    rendering = AsAuthors(Plain()).render(found, None)
    assert rendering.text == "a <<skip>>.. b << -3>>"
    spans = zip(rendering.starts, rendering.ends, strict=True)
    assert [rendering.text[start:end] for start, end in spans] == ["skip", " -3"]


@pytest.mark.parametrize(
    ("study", "experiment", "hub"),
    [
        ("cheung2025omissionyesnobias", "exp2", "cheung2025omissionyesnobias/exp2"),
        ("mine", "exp2", "exp2"),
        ("frey2017dfe", "Decisions From Experience", "frey2017dfe/"),
        ("dezfouli2019", "d//Users/x/dezfouli2019/choices_diagno.csv", "dezfouli2019/choices_diagno.csv"),
        ("dezfouli2019", "dezfouli2019/choices_diagno.csv", "dezfouli2019/choices_diagno.csv"),
    ],
)
def test_names_of_experiments(tmp_path: Path, study: str, experiment: str, hub: str) -> None:
    assert one(tmp_path, study, experiment=experiment).experiment == hub


def test_an_experiment_that_is_known_by_its_text(tmp_path: Path) -> None:
    study, text = "alsobay2025publicGoodsGame", "You play an online public goods game. <<3>>"
    assert one(tmp_path, study, text=text, experiment="x7").experiment == f"{study}/"
    assert one(tmp_path, study, experiment="x7").experiment == "x7"


def test_text_repairs_go_by_the_hubs_name_of_the_experiment(tmp_path: Path) -> None:
    found = one(tmp_path, "vantiel2021probabilisticpragmatics", text="<<A>>\n", experiment="exp4.csv")
    assert found.text == "<<A>>.\n"


def test_rows_of_the_hub_are_not_repaired_again(tmp_path: Path) -> None:
    row = {"text": "a <<skip>>. <<-3>>", "is_psych101": True, "age": "12", "participant": "3"}
    found = one(tmp_path, **row)
    assert (found.text, found.metadata, found.is_psych101) == (row["text"], {"age": "12"}, True)


def test_studies_that_psych201_does_not_hold_are_left_out_and_told(tmp_path: Path) -> None:
    contribution(tmp_path, "xu2021novelty", {}, {})
    contribution(tmp_path, "s", {}, {"study": "feher2020humans"}, {"study": "feher2020humans", "participant": "2"})
    told: list[LeftOut] = []
    assert [t.study for t in read(tmp_path, told)] == ["s"]
    reason = "Psych-201 does not hold it; transcripts.normalise=none reads it"
    assert [str(one) for one in told] == [
        f"feher2020humans: transcripts of 2 participants left out: {reason}",
        f"xu2021novelty: all of it is left out: {reason}",
    ]
    assert len(read(tmp_path, normalise=Normalise.none)) == 5
    with pytest.raises(TranscriptError, match=r"^xu2021novelty: all of it is left out: Psych-201 does not hold it"):
        read(tmp_path, studies=["xu*"])
