"""For arbitrary transcripts and every kind of fast tokenizer: a response is recovered, or has a status; and the
likelihoods of the responses plus the rest are the likelihood of the sequence.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from psych_ray.errors import MarkerError
from psych_ray.scoring.engines.base import Query, TokenScores
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

CORPUS = ["You press <<A>>, then <<B>>.\n", 'Say "<<non->>" or (<<word>>)? It costs $<<12>>: <<-3.5>>\n'] * 20


def trained(model, trainer, pre_tokenizer, normalizer=None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def small_tokenizer(kind: str):
    special = ["[UNK]"]
    if kind == "bytes":
        return byte_tokenizer("->>", "(<<", ">>\n", ">><<", " <<-", bos=True)
    if kind == "bytes, spaces trimmed":
        return byte_tokenizer("->>", "<<A", trim=True)
    if kind == "byte-level BPE":
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    if kind == "SentencePiece with a dummy prefix":
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="[UNK]")
        return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(prepend_scheme="first"))
    if kind == "SentencePiece BPE, bytes for the unknown":
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *alphabet])
        return trained(
            models.BPE(byte_fallback=True, unk_token="[UNK]"),
            trainer,
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        )
    if kind == "WordPiece":
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
        return trained(
            models.WordPiece(unk_token="[UNK]"),
            trainer,
            pre_tokenizers.BertPreTokenizer(),
            normalizers.BertNormalizer(lowercase=True),
        )
    raise ValueError(kind)


KINDS = [
    "bytes", "bytes, spaces trimmed", "byte-level BPE", "SentencePiece with a dummy prefix",
    "SentencePiece BPE, bytes for the unknown", "WordPiece",
]  # fmt: skip
REAL = ["qwen3", "olmo3"]


@pytest.fixture(params=[*KINDS, *REAL])
def tokenizer(request):
    if request.param in REAL:
        return AutoTokenizer.from_pretrained(request.getfixturevalue("shared") / "tokenizers" / request.param)
    return small_tokenizer(request.param)


PIECES = ["A", "non-", "-3.5", "two words", " ", "  ", "\n", "", "🙂", "👩‍👩‍👧", "é", "e\u0301", "ﬁ", "日本語"]
PIECES += ["שלום", "<A", "A>", "x", "0", "\t", "İ", "ß"]
BETWEEN = ["", " ", "(", '"', "$", ":", "\n", ",", ")", "?", ". ", "You press ", "\u200b", "🙂", "->", "<", ">", "日"]
BETWEEN += ["\r\n", " - "]
pieces, between = st.sampled_from(PIECES), st.sampled_from(BETWEEN)


@st.composite
def texts(draw) -> str:
    parts = [draw(between)]
    for _ in range(draw(st.integers(1, 6))):
        parts += ["<<", draw(pieces), ">>", draw(between), draw(between)]
    return "".join(parts)


class EveryToken:
    """An engine with a different likelihood for every index, so that a sum determines which tokens are in it."""

    name, batch_tokens = "by index", 1

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def score(self, batch):
        self.asked += batch
        return [TokenScores(nll_of(query.at_R), np.ones(len(query.at_R), bool)) for query in batch]


def nll_of(index):
    """The NLL of the token at an index."""
    return (2.0 ** (np.asarray(index) % 20)).astype(np.float32)


def gaps(offsets) -> set[int]:
    """Tokens after a gap in the offsets, whose characters belong to them by the rule."""
    return {t for t, (a, b) in enumerate(offsets) if a == b or a > max((end for _, end in offsets[:t]), default=0)}


def test_responses_are_recovered_and_the_sums_add_up(tokenizer):
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(texts())
    def check(text: str) -> None:
        transcript = Transcript(study="s", experiment="e", participant="p", text=text)
        try:
            responses = transcript.responses
        except MarkerError:
            return
        engine = EveryToken()
        (scored,) = LanguageModelScorer(engine, tokenizer, Truncation()).score([transcript], condition_named("plain"))
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        indices = [t for query in engine.asked for t in query.at_R.tolist()]
        assert len(indices) == len(set(indices)), "a token counted for two responses"
        assert scored.n_tokens_R.sum() == len(indices)
        assert np.nansum(scored.nll_R) == pytest.approx(nll_of(indices).sum())
        at = 0
        for response, n, status in zip(responses, scored.n_tokens_R, scored.status_R, strict=True):
            mine, before, at = indices[at : at + n], indices[:at], at + n
            covering = {t for t, (a, b) in enumerate(offsets) if a < response.end and b > response.start}
            if status == Status.scored.code:
                # every token that covers any of it is its own, but for one that the response before has taken
                assert n > 0
                assert covering - set(mine) <= set(before)
                assert {t for t in mine if offsets[t][0] >= response.start} - covering <= gaps(offsets)
            else:
                assert n == 0
                blank = not text[response.start : response.end].strip()
                assert blank or not covering or 0 in covering or covering <= set(before)
        assert at == len(indices)

    check()
