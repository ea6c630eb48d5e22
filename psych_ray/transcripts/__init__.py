"""What is scored: sources of transcripts, the responses marked in them, and conditions. Text only."""

from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

__all__ = ["Status", "Transcript", "condition_named"]
