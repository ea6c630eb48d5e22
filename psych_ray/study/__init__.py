"""From tables to statistics, with polars.

How well each checkpoint of a sweep predicts people, and how that differs between a post-trained checkpoint and its
base. Takes a lazy frame of responses and the facts of the checkpoints; does not import torch or Ray, reads no paths and
does not round.
"""

from psych_ray.study.findings import Settings, findings
from psych_ray.study.tables import Findings

__all__ = ["Findings", "Settings", "findings"]
