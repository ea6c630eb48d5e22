"""Tiny language models of simulated participants: six checkpoints whose differences are known because we planted them.

Bases learn from simulated people, instruct and reasoning stages go on learning from normatively right answers, so a
sweep over them must find what the study finds. Importing this room is cheap; only making the checkpoints needs torch.
"""

from psych_ray.demo.cache import demo_checkpoints

__all__ = ["demo_checkpoints"]
