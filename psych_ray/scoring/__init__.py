"""From text to token spans to likelihoods, with torch and transformers alone: usable in a notebook.

from psych_ray.scoring import load_scorer
from psych_ray.transcripts import Transcript, condition_named

scorer = load_scorer("models/A")
one = Transcript(study="boxes", experiment="1", participant="me", text="Left or right? You choose <<left>>.")
for scored in scorer.score([one], condition_named("plain")):
    print(scored.nll_R)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psych_ray.checkpoints.find import Checkpoint as Checkpoint
    from psych_ray.checkpoints.find import find_checkpoints as find_checkpoints
    from psych_ray.scoring.loading import load_scorer as load_scorer
    from psych_ray.scoring.loading import load_scorers as load_scorers
    from psych_ray.scoring.scored import ScoredTranscript as ScoredTranscript
    from psych_ray.scoring.scored import Scorer as Scorer
    from psych_ray.scoring.scorer import LanguageModelScorer as LanguageModelScorer

_MODULE_OF = {
    "Checkpoint": "psych_ray.checkpoints.find",
    "LanguageModelScorer": "psych_ray.scoring.scorer",
    "ScoredTranscript": "psych_ray.scoring.scored",
    "Scorer": "psych_ray.scoring.scored",
    "find_checkpoints": "psych_ray.checkpoints.find",
    "load_scorer": "psych_ray.scoring.loading",
    "load_scorers": "psych_ray.scoring.loading",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import the module of a name on first use, as some of them import torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
