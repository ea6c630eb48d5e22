"""What a plan assumes of the hub's Psych-201 and Psych-101 where the hub cannot be reached: counts, not texts.

Published are the studies of each data set, the size of the test set (at most 100 participants of a study) and of all of
it; not published is how long each study's transcripts are. Those are taken to be as long as the measured ones.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from psych_ray.config import Collection, DataSet, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN
from psych_ray.transcripts.normalise import is_excluded
from psych_ray.transcripts.simulated import TASKS
from psych_ray.transcripts.sources.selection import Selection

_TEST_PARTICIPANTS = 100
_ALL_PARTICIPANTS = 208_021
"""Of Psych-201."""
_TOKENS_AND_RESPONSES = (
    *((5_253, 29), (3_700, 88), (20_361, 1_309), (575, 4), (5_184, 520), (754, 15), (993, 53), (16_058, 353)),
    *((13_732, 450), (16_668, 260), (614, 9), (10_128, 171), (3_285, 20)),
)
"""Means of a participant in 13 studies of Psych-201, with Qwen3's tokenizer."""
_LONGEST_TOKENS = 41_004
"""Of them all."""


def is_assumable(config: TranscriptsConfig) -> bool:
    """Whether the transcripts are a data set of the hub of which enough is published."""
    is_known = config.source == TranscriptSource.psych201 or (
        config.source == TranscriptSource.psych101 and config.dataset != DataSet.full
    )
    return is_known and config.path is None


def assumed_transcripts(config: TranscriptsConfig, *, say: Callable[[str], None]) -> list[TranscriptRef]:
    """Transcripts as many as a data set of the hub has, as `is_assumable` says.

    `say` gets a line with what was assumed. TranscriptError where `transcripts.studies` matches none.
    """
    studies = _studies(config)
    if not studies:
        raise TranscriptError(f"transcripts.studies={config.studies}: matches no study of transcripts={config.source}")
    participants = _participants(config)
    say(
        f"transcripts={config.source} are assumed, as the hub cannot be reached: {len(studies)} studies of "
        f"{participants:,} participants, with the lengths of {len(_TOKENS_AND_RESPONSES)} measured studies; "
        "transcripts.path=PATH plans with a local copy"
    )
    lengths = cycle(_TOKENS_AND_RESPONSES)
    refs = [
        TranscriptRef(f"{study} {number}", study, "", 0, int(tokens * CHARACTERS_PER_TOKEN), responses)
        for study, (tokens, responses) in zip(studies, lengths, strict=False)
        for number in range(participants)
    ]
    longest = TranscriptRef(refs[0].id, studies[0], "", 0, int(_LONGEST_TOKENS * CHARACTERS_PER_TOKEN), 100)
    return [longest, *refs[1:]]


def _studies(config: TranscriptsConfig) -> list[str]:
    from psych_ray.study.domains import load_domains  # imports SciPy, which no other command needs before a report

    domains, selection = load_domains(), Selection(config.studies, None)
    only = Collection.psych101 if config.source == TranscriptSource.psych101 else config.collection
    return [
        study
        for study in _all_studies()
        if selection.includes(study) and (only is None or (study in domains.psych101) == (only == Collection.psych101))
    ]


def _all_studies() -> list[str]:
    from psych_ray.study.domains import load_domains

    return sorted(study for study in load_domains().of_study if study not in TASKS and not is_excluded(study))


def _participants(config: TranscriptsConfig) -> int:
    """Of each study."""
    is_full = config.dataset == DataSet.full
    participants = _ALL_PARTICIPANTS // len(_all_studies()) if is_full else _TEST_PARTICIPANTS
    if config.sample_fraction is not None:
        participants = max(1, int(participants * config.sample_fraction))
    return min(n for n in (participants, config.sample, config.limit) if n is not None)
