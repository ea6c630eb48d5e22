"""Tiny language models of simulated participants: six checkpoints with known differences.

Bases are trained on simulated people, and instruct and reasoning stages then on normatively right answers, so that a
sweep over them reproduces the findings of the study. Does not import torch; only training the checkpoints does.
"""

from psych_ray.demo.cache import demo_checkpoints

__all__ = ["demo_checkpoints"]
