"""Real chat templates, and small ones with the habits of those that are not here: what checkpoints read as `chat`."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tokenizers import LLAMA_LIKE, small_tokenizer
from transformers import AutoTokenizer

from psych_ray.config import Normalise, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.scoring.tokens.alignment import align
from psych_ray.scoring.tokens.chat_templates import TokenizerTemplate, template_of
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.transcripts.status import Status

STRICT = """\
{%- for message in messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Roles must alternate!") }}
    {%- endif %}
    {{- "<|head|>" + message["role"] + "<|body|>" + message["content"] + "<|eot|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|head|>assistant<|body|>" }}{% endif %}
"""


def transcript(text: str) -> Transcript:
    return Transcript(study="s", experiment="e", participant="p", text=text)


def contents(made: Transcript) -> list[tuple[str, str]]:
    pairs, read = [], 0
    for response in made.responses:
        pairs.append((made.text[read : response.start - 2], made.response_text(response)))
        read = response.end + 2
    return pairs


def read(shared: Path, study: str, limit: int = 1, normalise: Normalise = Normalise.none) -> list[Transcript]:
    path = str(shared / "data/psych-201")
    config = TranscriptsConfig(
        source=TranscriptSource.files, path=path, studies=[study], limit=limit, normalise=normalise
    )
    return list(read_transcripts(config))


STUDIES = ["franke2024bayesian", "guenther2024substitutions", "little2024functionestimation", "thoma2025riskychoice"]


@pytest.mark.parametrize("study", STUDIES)
def test_qwen3_is_scored_after_an_empty_think_block_everywhere(shared, study):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/qwen3")
    (made,) = read(shared, study)
    rendering = condition_named("chat").render(made, template_of(tokenizer))
    expected, starts = "", []
    for asked, answered in contents(made):
        expected += f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        starts.append(len(expected))
        expected += f"{answered}<|im_end|>\n"
    assert rendering.text == expected + "<|im_start|>user\n"
    assert rendering.starts.tolist() == starts
    assert (rendering.status == Status.scored.code).all()
    first = [{"role": "user", "content": contents(made)[0][0]}]
    assert rendering.text[: starts[0]] == tokenizer.apply_chat_template(
        first, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    alignment = align(rendering, tokenizer, None)
    for (_, answered), first, last in zip(contents(made), alignment.first_R, alignment.last_R, strict=True):
        assert tokenizer.decode(alignment.token_ids_T[first:last]) == answered
        assert tokenizer.decode(alignment.token_ids_T[first - 4 : first]) == "<think>\n\n</think>\n\n"


def test_olmo_reads_what_its_template_writes_for_every_prefix(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/olmo3")
    for study in STUDIES[:2] + STUDIES[3:]:
        (made,) = read(shared, study)
        rendering = condition_named("chat").render(made, template_of(tokenizer))
        turns: list[dict[str, str]] = []
        for (asked, answered), start in zip(contents(made), rendering.starts, strict=True):
            turns.append({"role": "user", "content": asked})
            assert rendering.text[:start] == tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            turns.append({"role": "assistant", "content": answered})


def test_what_a_template_like_llamas_does_is_seen_and_told():
    tokenizer = small_tokenizer(LLAMA_LIKE)
    made = transcript("Choose. <<A>> Good.\n<< -1>>, <<>> <<b c>>")
    rendering = condition_named("chat").render(made, template_of(tokenizer))
    assert rendering.text == (
        "<|bos|><|head|>system<|body|>\n\nToday Date: 26 Jul 2024<|eot|>"
        "<|head|>user<|body|>\n\nChoose.<|eot|><|head|>assistant<|body|>\n\nA<|eot|>"
        "<|head|>user<|body|>\n\nGood.<|eot|><|head|>assistant<|body|>\n\n-1<|eot|>"
        "<|head|>user<|body|>\n\n,<|eot|><|head|>assistant<|body|>\n\n<|eot|>"
        "<|head|>user<|body|>\n\n<|eot|><|head|>assistant<|body|>\n\nb c<|eot|>"
        "<|head|>user<|body|>\n\n"
    )
    assert [list(Status)[code].value for code in rendering.status] == ["scored", "altered", "empty", "scored"]
    alignment = align(rendering, tokenizer, None)
    assert alignment.token_ids_T.tolist().count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(alignment.token_ids_T[alignment.first_R[3] : alignment.last_R[3]]) == "b c"
    assert alignment.first_R[1] == alignment.last_R[1]


def test_a_template_that_strips_changes_negative_numbers_only_after_the_authors_repair(shared):
    (made,) = read(shared, "little2024functionestimation")
    template = template_of(small_tokenizer(LLAMA_LIKE))
    assert (condition_named("chat").render(made, template).status == Status.scored.code).all()
    plain = condition_named("plain", parity=True).render(made, None)
    published = condition_named("chat", parity=True).render(made, template)
    spaced = sum(plain.text[start] == " " for start in plain.starts)
    assert spaced > 100
    assert spaced == ((plain.ends - plain.starts) - (published.ends - published.starts)).sum()
    (normalised,) = read(shared, "little2024functionestimation", normalise=Normalise.psych201)
    status = condition_named("chat").render(normalised, template).status
    assert (status == Status.altered.code).sum() == spaced  # the hub's texts have that space already


@pytest.mark.parametrize(("bos", "expected"), [(True, 1), (False, 0)])
def test_a_template_that_forgets_begin_of_text_gets_the_tokenizers(bos, expected):
    tokenizer = small_tokenizer(STRICT, bos=bos)
    template = template_of(tokenizer)
    assert template.begin_of_text == "<|bos|>" * expected
    alignment = align(condition_named("chat").render(transcript("a <<A>>"), template), tokenizer, None)
    assert alignment.token_ids_T.tolist().count(tokenizer.bos_token_id) == expected
    assert tokenizer.decode(alignment.token_ids_T[alignment.first_R[0] :][:1]) == "A"


def test_a_template_that_wants_alternation_gets_it_in_chat_and_refuses_what_the_authors_do():
    template = template_of(small_tokenizer(STRICT))
    made = transcript("<<A>><<B>> then <<>> end")
    rendering = condition_named("chat").render(made, template)
    assert rendering.text.count("<|head|>") == 7
    with pytest.raises(TranscriptError, match="Roles must alternate!"):
        condition_named("chat", parity=True).render(made, template)


@pytest.mark.parametrize(
    ("code", "date"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %B %d, %Y", "Friday, July 26, 2024"),
        ("%H:%M", "12:00"),
    ],
)
def test_the_date_is_fixed_in_every_format(code, date):
    template = TokenizerTemplate(small_tokenizer("  {{ strftime_now('" + code + "') }}|{{ messages[0].content }}"))
    assert template.render([{"role": "user", "content": "x"}], generation_prompt=False) == f"  {date}|x"


@pytest.mark.parametrize(
    "start", ["", "\n", " \n", "  {%- if true %}x{% endif %}", "  {% if true %}\n x{% endif %}\n", "{#- c #}\n y"]
)
def test_the_fixed_clock_leaves_a_template_as_it_is(start):
    tokenizer = small_tokenizer(start + "{{ messages[0].content }} {% if add_generation_prompt %}g{% endif %}\n")
    turns = [{"role": "user", "content": "x"}]
    for asks in (False, True):
        alone = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
        assert TokenizerTemplate(tokenizer).render(turns, generation_prompt=asks) == alone


def test_a_refusal_is_a_value_error_in_the_templates_words():
    for source, says in (
        ("{{ raise_exception('Not me.\nNever.') }}", "Not me."),
        ("{{ messages[0].content.nothing.more }}", "nothing"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].content + 1 }}", "str"),
    ):
        with pytest.raises(ValueError, match=says) as raised:
            TokenizerTemplate(small_tokenizer(source)).render(
                [{"role": "user", "content": "x"}], generation_prompt=True
            )
        assert "\n" not in str(raised.value)


def test_without_a_template_there_is_none():
    assert template_of(small_tokenizer(None)) is None
