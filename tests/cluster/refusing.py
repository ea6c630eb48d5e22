"""A condition that cannot take one of the demo's transcripts."""

from __future__ import annotations

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.conditions import Condition, Rendering, condition_named


class Refusing(Condition):
    name = "refusing"

    def render(self, transcript, template) -> Rendering:
        if transcript.participant == "3" and transcript.study == "demo_bandit":
            raise TranscriptError("this one is not for us")
        return condition_named("plain").render(transcript, template)
