"""`persona`: the participant's metadata as an interview, followed by the transcript.

Source: the study (arXiv 2605.07632) and its scripts (github.com/marcelbinz/Psych-201, `0_analyses/`, commit
c63dea18): fields, their order, the questions and the lines are theirs. Values are those of the source, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from psych_ray.transcripts.conditions.rendering import (
    ChatTemplate,
    Condition,
    Rendering,
    nothing_to_score,
    response_spans,
    scored_unless_empty,
)
from psych_ray.transcripts.record import Transcript

_SCORES = (
    *("STICSA-T somatic", "STICSA-T cognitive", "STAI-S", "STAI-T", "IUS", "RRQ", "AUDIT", "DAST", "PSWQ", "GAD-7"),
    *("SDS", "OCI", "PHQ-9", "PHQ-8", "BAS Drive", "BAS Fun Seeking", "BAS Reward Responsiveness", "BDI-II"),
    *("BIS-11", "BIS-10"),
)
_QUESTIONS = {
    "age": "What is your age?",
    "gender": "What is your gender?",
    "nationality": "What is your nationality?",
    "education": "What is your highest level of education?",
    "clinical diagnosis": "Do you have any clinical diagnoses?",
    **{score: f"What is your {score} score?" for score in _SCORES},
}
# Names of fields in contributed studies where they differ from the hub's columns.
_OTHER_NAMES = {"clinical diagnosis": "diagnosis"}


class Persona(Condition):
    """An interview before the transcript; not applicable where the participant has no metadata."""

    name = "persona"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the interview, then the source text unchanged."""
        added = interview(transcript.metadata)
        if not added:
            return nothing_to_score(transcript)
        starts, ends = response_spans(transcript)
        return Rendering(
            added + transcript.text, starts + len(added), ends + len(added), scored_unless_empty(starts, ends)
        )


def interview(metadata: Mapping[str, str]) -> str:
    """Question, answer and an empty line for each field of the metadata; empty without any."""
    lines = []
    for field, question in _QUESTIONS.items():
        answer = metadata.get(field, metadata.get(_OTHER_NAMES.get(field, field)))
        if answer is not None:
            lines.append(f"Interviewer: {question}\nInterviewee: {answer}\n\n")
    return "".join(lines)
