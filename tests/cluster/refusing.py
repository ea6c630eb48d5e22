"""A condition that cannot take one of the demo's transcripts, and leaves rank 1 without memory once."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.conditions import Condition, Rendering, condition_named


class Refusing(Condition):
    name = "refusing"

    def render(self, transcript, template) -> Rendering:
        once = Path(os.environ["TMPDIR"]) / "greedy"
        if os.environ["RANK"] == "1" and transcript.study == "demo_recall" and not once.exists():
            once.touch()
            raise torch.OutOfMemoryError("CUDA out of memory")
        if transcript.participant == "3" and transcript.study == "demo_bandit":
            raise TranscriptError("this one is not for us")
        return condition_named("plain").render(transcript, template)
