"""The model inside a scorer, whatever its engine is wrapped in."""

from __future__ import annotations

from typing import Any


def model_of(scorer: Any) -> Any:
    engine = scorer.engine
    while hasattr(engine, "engine"):
        engine = engine.engine
    return engine.model
