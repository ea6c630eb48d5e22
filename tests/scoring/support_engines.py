"""What is inside a scorer."""

from __future__ import annotations

from typing import Any


def model_of(scorer: Any) -> Any:
    """Return the transformers model of a scorer, through engines that wrap another one."""
    engine = scorer.engine
    while hasattr(engine, "engine"):
        engine = engine.engine
    return engine.model
