"""What the name of a checkpoint says: family, generation, size and stage, by the habits of those who publish them.

Pure: asks neither the hub nor the disk. What a name does not say is None; nothing is guessed from a part of a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from psych_ray.config import Stage

# What distilled and merged checkpoints are named after comes last: DeepSeek-R1-Distill-Qwen-7B is a Qwen.
_FAMILIES = (
    *("qwen", "llama", "olmoe", "olmo", "gemma", "mistral", "mixtral", "ministral", "phi", "falcon", "pythia"),
    *("smollm", "granite", "internlm", "yi", "glm", "bloom", "apertus", "gpt", "nemotron", "deepseek"),
)
_JOINED = frozenset({"qwen", "smollm", "internlm"})
"""Families whose version follows their name without a hyphen: qwen2.5, but llama-3.1."""
_STAGES: dict[Stage, frozenset[str]] = {
    Stage.base: frozenset({"base", "pt", "pretrained", "pretrain"}),
    Stage.behavioural: frozenset({"centaur", "minitaur"}),
    Stage.vision: frozenset({"vl", "vision", "vlm"}),
    Stage.code: frozenset({"code", "coder"}),
    Stage.math: frozenset({"math"}),
    Stage.reasoning: frozenset({"thinking", "think", "reasoning", "reasoner", "r1", "qwq"}),
    Stage.instruct: frozenset({"instruct", "instruction", "chat", "it", "sft", "dpo", "rlhf"}),
}
"""Words of a name, by what they say; the first stage of which there is a word is the checkpoint's."""
_HYBRID = re.compile(r"qwen3(\.\d+)?")
"""Generations whose checkpoints without any word think and answer; the study counts them as reasoning."""
_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])")
_VERSION = re.compile(r"v?(\d{1,2}(?:\.\d+)?)")
_SAYS_NOTHING = re.compile(r"meta|hf|\d{4}|a\d+(\.\d+)?b")
"""Of a stage: publishers, dates, and parameters that are active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFacts:
    """What a name says."""

    family: str | None = None
    generation: str | None = None
    size_b: float | None = None
    stage: Stage | None = None
    """By a word of the name."""
    is_plain: bool = False
    """It has family, version, size and date only, as the names of most bases."""


@cache
def facts_of_name(checkpoint_id: str) -> NameFacts:
    """Read the name of a hub id, or of a directory."""
    words = re.split(r"[-_ ]+", checkpoint_id.rpartition("/")[2].lower())
    family, generation, of_family = _family(words)
    sizes = [match for word in words if (match := _SIZE.fullmatch(word))]
    rest = [
        word
        for number, word in enumerate(words)
        if number not in of_family and not _SIZE.fullmatch(word) and not _SAYS_NOTHING.fullmatch(word)
    ]
    stage = _stage({*rest, *(prefix for word in words if family and (prefix := word.partition(family)[0]) != word)})
    if stage is None and not rest and generation and _HYBRID.fullmatch(generation):
        stage = Stage.reasoning
    return NameFacts(
        family=family,
        generation=generation,
        size_b=_billions(sizes[0]) if sizes else None,
        stage=stage,
        is_plain=family is not None and not rest,
    )


def base_by_name(checkpoint_id: str, known: Iterable[str]) -> str | None:
    """The one among known ids that names a base of the same family, generation and size; None where there is none.

    Of several, the one of the same owner.
    """
    of_this = facts_of_name(checkpoint_id)
    if of_this.generation is None or of_this.size_b is None:
        return None
    found = [one for one in known if one != checkpoint_id and _is_base_of(facts_of_name(one), of_this)]
    owner = checkpoint_id.rpartition("/")[0]
    found = [one for one in found if one.rpartition("/")[0] == owner] or found
    return found[0] if len(found) == 1 else None


def _is_base_of(base: NameFacts, other: NameFacts) -> bool:
    is_base = base.stage == Stage.base or (base.stage is None and base.is_plain)
    return is_base and (base.family, base.generation, base.size_b) == (other.family, other.generation, other.size_b)


def _family(words: list[str]) -> tuple[str | None, str | None, set[int]]:
    """Family, generation, and which of the words say them."""
    for family in _FAMILIES:
        for number, word in enumerate(words):
            match = re.fullmatch(rf"(?:code)?{family}v?(\d+(?:\.\d+)?)?", word)
            if match is None:
                continue
            following = words[number + 1] if number + 1 < len(words) else ""
            version, used = match[1], {number}
            if version is None and (separate := _VERSION.fullmatch(following)):
                version, used = separate[1], {number, number + 1}
            joint = "" if family in _JOINED else "-"
            return family, f"{family}{joint}{version}" if version else None, used
    return None, None, set()


def _stage(words: set[str]) -> Stage | None:
    found = [stage for stage, its_own in _STAGES.items() if words & its_own]
    if not found:
        return None
    if found[0] == Stage.vision and Stage.reasoning in found:
        return Stage.vision_reasoning
    return found[0]


def _billions(size: re.Match[str]) -> float:
    experts, number, unit = size.groups()
    return int(experts or 1) * float(number) / (1.0 if unit == "b" else 1000.0)
