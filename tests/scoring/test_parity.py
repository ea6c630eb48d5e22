"""The authors' rules against a slow re-statement of them, from the study's description and not from our code.

The re-statement works on whole strings and lists, finds markers by comparing slices of token ids, and gives a span to
a response by counting the markers in the decoded text before it. With real tokenizers on real transcripts, and on
made-up ones that have everything that goes wrong.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_tokenizers import LLAMA_LIKE, small_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.errors import ConditionError, MarkerError
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.scoring.tokens.parity import align_as_authors
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.transcripts.status import Status

CONDITIONS = ["plain", "persona", "discrete", "chat"]
TOKENIZERS = ["qwen3", "olmo3"]
STUDIES = [
    "alsobay2025publicGoodsGame",
    "busch2024_stroop",
    "dezfouli2019",
    "franke2024bayesian",
    "guenther2023associations_individual",
    "guenther2024substitutions",
    "little2024functionestimation",
    "spektor2024lossaversion",
    "thoma2025riskychoice",
    "zhu2024games",
]
INTERVIEW = [
    ("age", "What is your age?"),
    ("gender", "What is your gender?"),
    ("nationality", "What is your nationality?"),
    ("education", "What is your highest level of education?"),
    ("clinical diagnosis", "Do you have any clinical diagnoses?"),
]
SCORES = (
    "STICSA-T somatic, STICSA-T cognitive, STAI-S, STAI-T, IUS, RRQ, AUDIT, DAST, PSWQ, GAD-7, SDS, OCI, PHQ-9, PHQ-8, "
    "BAS Drive, BAS Fun Seeking, BAS Reward Responsiveness, BDI-II, BIS-11, BIS-10"
)
INTERVIEW += [(score, f"What is your {score} score?") for score in SCORES.split(", ")]


def cut_and_repair(text: str) -> str:
    text = text[:32768]
    text = "<<skip>>.".join(text.split("<<skip>>"))
    text = "<< -".join(text.split("<<-"))
    text = "<< think>>".join(text.split("<<think>>"))
    text = "More Details ->".join(text.split("More Details >>"))
    if len(re.findall("<<", text)) > len(re.findall(">>", text)):
        text = text[: text.rindex("<<")]
    return re.sub(r"\s+>>", ">>", text)


def as_read(transcript: Transcript, condition: str) -> str | None:
    """Text before it is cut; None where the condition does not apply."""
    text = transcript.text
    if condition == "persona":
        known = dict(transcript.metadata)
        known.setdefault("clinical diagnosis", known.get("diagnosis", ""))
        lines = [f"Interviewer: {q}\nInterviewee: {known[field]}\n\n" for field, q in INTERVIEW if known.get(field)]
        text = "".join(lines) + text if lines else None
    if condition == "discrete":
        text = re.sub(
            r"<<(.*?)>>", lambda m: m[0] if len(m[1]) == 1 and m[1] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" else m[1], text,
            flags=re.DOTALL,
        )  # fmt: skip
    return text


def conversation(text: str) -> list[dict[str, str]]:
    turns, role = [], "user"
    for piece in re.split("(<<|>>)", text + "."):
        if piece in {"<<", ">>"}:
            role = "assistant" if piece == "<<" else "user"
        elif piece:
            turns.append({"role": role, "content": piece})
    return turns


def between(ids: list[int], left: list[int], right: list[int]) -> list[tuple[int, int]]:
    spans, t = [], 0
    while t < len(ids):
        if ids[t : t + len(left)] != left:
            t += 1
            continue
        first = last = t + len(left)
        while last < len(ids) and ids[last : last + len(right)] != right:
            last += 1
        if last > first:
            spans.append((first, last))
        t = last + len(right)
    return spans


def restated(
    transcript: Transcript, condition: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], dict[int, tuple[int, int]], list[str]]:
    """Token ids, the span of each response that has one, and what became of every response."""
    answers = re.findall(r"<<(.*?)>>", transcript.text, flags=re.DOTALL)
    whole = as_read(transcript, condition)
    if whole is None:
        return [], {}, ["not_applicable"] * len(answers)
    text = cut_and_repair(whole)
    numbers = list(range(len(answers)))
    if condition == "discrete":
        numbers = [number for number in numbers if re.fullmatch("[A-Z]", answers[number])]
    kept = numbers[: text.count("<<")]
    filled = [n for n, answer in zip(kept, re.findall(r"<<(.*?)>>", text, flags=re.DOTALL), strict=False) if answer]

    def ids_of(text: str, **how: bool) -> list[int]:
        return tokenizer(text, **how)["input_ids"]

    if condition == "chat":
        turns = conversation(text)
        text = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False)
        header, numbers = "<|im_start|>assistant\n", filled
        left = ids_of(header, add_special_tokens=False)
        right = ids_of("<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)
    else:
        header = "<<"
        left, right = ids_of(" <<", add_special_tokens=False), ids_of(">>", add_special_tokens=False)
    ids = ids_of(text)
    spans = between(ids, left, right)
    found = {numbers[tokenizer.decode(ids[:first]).count(header) - 1]: (first, last) for first, last in spans}
    assert len(found) == len(spans)
    became = ["not_applicable" if n in filled else "empty" if n in kept else "cut" for n in range(len(answers))]
    for number in range(len(answers)):
        if condition == "discrete" and number not in numbers:
            became[number] = "not_applicable"
        if number in found:
            became[number] = "scored"
    return ids, found, became


def compare(transcript: Transcript, condition: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Hold the authors' rules as we have them to the re-statement; what became of the responses."""
    rendering = condition_named(condition, parity=True).render(transcript, template_of(tokenizer))
    alignment = align_as_authors(rendering, tokenizer, None)
    ids, found, became = restated(transcript, condition, tokenizer)
    assert alignment.token_ids_T.tolist() == ids
    assert [list(Status)[code].value for code in alignment.status_R] == became
    spans = zip(alignment.first_R.tolist(), alignment.last_R.tolist(), strict=True)
    assert {number: span for number, span in enumerate(spans) if span[1] > span[0]} == found
    return became


@cache
def tokenizer_at(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory)


def read(shared: Path, study: str, limit: int | None = None, source: str = "psych-201") -> list[Transcript]:
    path = str(shared / "data" / source)
    return list(
        read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=path, studies=[study], limit=limit))
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("study", STUDIES)
def test_real_transcripts_are_read_and_scored_as_the_authors_do(shared, study, name):
    tokenizer = tokenizer_at(shared / "tokenizers" / name)
    (transcript,) = read(shared, study, 1)
    became = {condition: compare(transcript, condition, tokenizer) for condition in CONDITIONS}
    assert became["plain"].count("scored") > 3
    assert became["chat"].count("scored") >= became["plain"].count("scored")
    assert ("cut" in became["plain"]) == (study in {"dezfouli2019", "spektor2024lossaversion"})


@pytest.mark.parametrize("name", TOKENIZERS)
def test_responses_whose_closing_marker_is_fused_run_on_and_swallow_the_next(shared, name):
    tokenizer = tokenizer_at(shared / "tokenizers" / name)
    fused = [transcript for transcript in read(shared, "guenther2024substitutions") if "->>" in transcript.text]
    assert fused
    lost = 0
    for transcript in fused:
        lost += compare(transcript, "plain", tokenizer).count("not_applicable")
        assert set(compare(transcript, "chat", tokenizer)) == {"scored"}
    assert lost >= 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_metadata_of_the_hub_moves_the_cut(shared, name):
    tokenizer = tokenizer_at(shared / "tokenizers" / name)
    people = {t.study: t for t in read(shared, "*", source="psych-201-test-sample.parquet") if t.metadata}
    assert len(people) >= 3
    for transcript in people.values():
        plain, persona = (compare(transcript, condition, tokenizer) for condition in ("plain", "persona"))
        assert plain.count("cut") <= persona.count("cut")
    assert compare(people["dezfouli2019"], "persona", tokenizer).count("cut") > compare(
        people["dezfouli2019"], "plain", tokenizer
    ).count("cut")


BEFORE = [" ", " x ", "(", '"', "$", ": ", "\n", "", ". You say ", "More Details >> ", "…"]
ANSWERS = [
    "A",
    "B",
    "c",
    "AB",
    "",
    " ",
    "skip",
    "think",
    "-1",
    "-",
    "non-",
    "ok?",
    "(a)",
    "é",
    "🙂",
    " A",
    "A \n",
    "<A",
]
AFTER = ["", " ", ".", ",\n", "\n", "\n\n", ")", '"', "?", " -"]


@st.composite
def transcripts(draw) -> Transcript:
    pieces = ["Choose."]
    for _ in range(draw(st.integers(0, 7))):
        pieces.append(draw(st.sampled_from(BEFORE)))
        pieces += ["<<", draw(st.sampled_from(ANSWERS)), ">>", draw(st.sampled_from(AFTER))]
    metadata = draw(st.dictionaries(st.sampled_from(["age", "diagnosis", "BIS-10", "hair"]), st.just("3.0")))
    made = Transcript(study="s", experiment="e", participant="p", text="".join(pieces), metadata=metadata)
    try:
        assume(len(made.responses) >= 0)
    except MarkerError:
        assume(False)
    return made


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=transcripts(), condition=st.sampled_from(CONDITIONS))
def test_made_up_transcripts_go_wrong_as_they_do_with_the_authors(shared, name, made, condition):
    long = replace(made, text=made.text.replace("…", " word" * 6540))
    compare(long, condition, tokenizer_at(shared / "tokenizers" / name))


@pytest.mark.parametrize(
    ("text", "became"),
    [
        ("x <<A>> y <<B>>.", ["scored", "scored"]),
        ("x <<A>>, y <<B>>.", ["scored", "not_applicable"]),
        ("x (<<A>> y <<B>>.", ["not_applicable", "scored"]),
        ("x <<A>>\ny <<B>>. z", ["scored", "not_applicable"]),
        ("x <<>> y << >> z", ["empty", "empty"]),
        ("x <<>>\n y <<A>> z", ["scored", "not_applicable"]),
        ("x <<skip>> y <<think>> z <<-1>> More Details >> <<A>>", ["scored"] * 4),
        ("word " * 6553 + "<<A>>", ["cut"]),
        ("word " * 6552 + "abc <<A>>", ["cut"]),
        ("word " * 6552 + "ab <<A>> c", ["scored"]),
    ],
)
def test_what_becomes_of_a_response(shared, text, became):
    tokenizer = tokenizer_at(shared / "tokenizers/qwen3")
    transcript = Transcript(study="s", experiment="e", participant="p", text=text)
    assert compare(transcript, "plain", tokenizer) == became


def test_a_limit_cuts_what_reaches_beyond_it(shared):
    tokenizer = tokenizer_at(shared / "tokenizers/qwen3")
    (transcript,) = read(shared, "thoma2025riskychoice", 1)
    rendering = condition_named("plain", parity=True).render(transcript, None)
    whole = align_as_authors(rendering, tokenizer, None)
    limit = int(whole.last_R[4])
    cut = align_as_authors(rendering, tokenizer, limit)
    assert cut.token_ids_T.tolist() == whole.token_ids_T[:limit].tolist()
    assert [list(Status)[code].value for code in cut.status_R] == ["scored"] * 5 + ["cut"] * 4
    assert (cut.last_R[5:] == cut.first_R[5:]).all()
    assert np.array_equal(cut.last_R[:5], whole.last_R[:5])
    assert whole.straddling_edges == 0


def test_begin_of_text_stands_twice_where_template_and_tokenizer_write_it():
    tokenizer = small_tokenizer(LLAMA_LIKE)
    transcript = Transcript(study="s", experiment="e", participant="p", text="Choose << -1>>. Again <<B>>")
    rendering = condition_named("chat", parity=True).render(transcript, template_of(tokenizer))
    alignment = align_as_authors(rendering, tokenizer, None)
    assert alignment.token_ids_T[:2].tolist() == [tokenizer.bos_token_id] * 2
    read = [
        tokenizer.decode(alignment.token_ids_T[first:last])
        for first, last in zip(alignment.first_R, alignment.last_R, strict=True)
    ]
    assert read == ["-1", "B"]


def test_a_template_that_rewrites_its_start_stops_parity_as_it_stops_the_authors():
    source = "{{ messages | length }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer = small_tokenizer(source)
    transcript = Transcript(study="s", experiment="e", participant="p", text="Choose <<A>>.")
    rendering = condition_named("chat", parity=True).render(transcript, template_of(tokenizer))
    with pytest.raises(ConditionError, match="where the authors' scripts stop"):
        align_as_authors(rendering, tokenizer, None)
