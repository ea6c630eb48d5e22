"""From tables to statistics, with polars.

What the responses of a sweep say about its checkpoints: how well each predicts people, and what post-training did to
that. This room knows the columns of the tables and the facts of the checkpoints, not where either lies, and nothing of
how a number will be shown.
"""

from psych_ray.study.findings import Findings, findings

__all__ = ["Findings", "findings"]
