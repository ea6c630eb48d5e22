"""The columns of calibration of one token, slowly, by their definitions, in float64."""

from __future__ import annotations

import numpy as np

from psych_ray.scoring.calibration import NLL_AT, OF_OPTIONS, TEMPERATURES


def slow_columns(logits_V: np.ndarray, target: int, options: list[int]) -> dict[str, float]:
    """One token, by the definitions."""
    logits_V = logits_V.astype(np.float64)
    found = {
        NLL_AT[temperature]: log_sum_exp(logits_V / temperature) - logits_V[target] / temperature
        for temperature in TEMPERATURES
    }
    if len(options) < 2:
        return found | dict.fromkeys(OF_OPTIONS, np.nan)
    of_options = logits_V[options]
    probabilities = dict(zip(options, np.exp(of_options - log_sum_exp(of_options)), strict=True))
    largest = max(probabilities.values())
    return found | {
        "options_nll": log_sum_exp(logits_V) - log_sum_exp(of_options),
        "options_brier": sum((p - (option == target)) ** 2 for option, p in probabilities.items()),
        "options_top": largest,
        "options_hit": float(target == min(option for option, p in probabilities.items() if p == largest)),
    }


def log_sum_exp(values: np.ndarray) -> float:
    return values.max() + np.log(np.exp(values - values.max()).sum())
