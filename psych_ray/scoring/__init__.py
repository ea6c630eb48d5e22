"""The core: text to token spans to likelihoods, with torch and transformers alone, so it is usable in a notebook.

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
    from psych_ray.scoring.checkpoints import Checkpoint as Checkpoint
    from psych_ray.scoring.checkpoints import find_checkpoints as find_checkpoints
    from psych_ray.scoring.loading import load_scorer as load_scorer
    from psych_ray.scoring.loading import load_scorers as load_scorers
    from psych_ray.scoring.scored import ScoredTranscript as ScoredTranscript
    from psych_ray.scoring.scored import Scorer as Scorer
    from psych_ray.scoring.scorer import LanguageModelScorer as LanguageModelScorer

_HOME = {
    "Checkpoint": "checkpoints",
    "LanguageModelScorer": "scorer",
    "ScoredTranscript": "scored",
    "Scorer": "scored",
    "find_checkpoints": "checkpoints",
    "load_scorer": "loading",
    "load_scorers": "loading",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import torch only when somebody asks for what needs it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
