"""All statistics of a study as tables, from one pass over the responses and a few small steps.

The formulas are in the modules that this one calls. No paths, figures or rounding: numbers are float64, missing ones
null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from psych_ray.results.schema import CheckpointFacts
from psych_ray.study import comparison, lineage, summaries
from psych_ray.study.tally import TALLY_KEYS, tally


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The statistics of a study. Checkpoints are named by their slug; NLL is in nats per response.

    Rows are ordered by condition (plain first), then by family, generation (by the numbers in its name), stage, size.
    """

    coverage: pl.DataFrame
    """checkpoint, condition, studies, transcripts, responses, and of those a column for each status."""
    by_study: pl.DataFrame
    """checkpoint, condition, study, n_responses (scored), nll (mean), sd (sample), accuracy (all scored responses).

    In a report also the study's domain, by `study.domains`."""
    by_checkpoint: pl.DataFrame
    """checkpoint, id, family, generation, size_b, stage, base, condition, nll, accuracy, n_studies, n_responses.

    nll and accuracy: mean over a study's scored responses, then over studies.
    """
    misalignment_by_study: pl.DataFrame
    """post, base, condition, study, d, nll and sd of both, n_responses (scored in both), only_post, only_base.

    Cohen's d, post minus base, over the responses that are scored in both; only_post and only_base count the others.
    """
    misalignment: pl.DataFrame
    """post, base, condition, post's family, generation, size_b and stage, d (mean over studies), se, n_studies."""
    by_stage: pl.DataFrame
    """condition, stage, d (mean over pairs), se, n_pairs, n_studies.

    se, here and in the next two: the standard error over studies of the pairs' mean d in each study.
    """
    by_generation: pl.DataFrame
    """condition, family, generation, d (mean over pairs), se, n_pairs, n_studies."""
    by_stage_and_generation: pl.DataFrame
    """condition, family, generation, stage, d (mean over pairs), se, n_pairs, n_studies."""
    skipped: pl.DataFrame
    """checkpoint, condition, study, reason; a null condition or study means all of them."""

    @property
    def conditions(self) -> list[str]:
        """Conditions that have responses, plain first."""
        return self.coverage["condition"].unique(maintain_order=True).to_list()

    @property
    def main_condition(self) -> str | None:
        """The condition of the figures: plain, otherwise the first; None where there are no responses."""
        return next(iter(self.conditions), None)

    def in_main_condition(self, table: pl.DataFrame) -> pl.DataFrame:
        """The rows of one of these tables in the main condition."""
        return table.filter(pl.col("condition") == pl.lit(self.main_condition, pl.String))


def findings(responses: pl.LazyFrame, checkpoints: Sequence[CheckpointFacts]) -> Findings:
    """Statistics of the scored responses of `checkpoints`; rows of other checkpoints are not read.

    `responses` has the columns of `results.schema.RESPONSES` and those of its partitions, checkpoint and condition.
    It is read in one streaming pass, and again only where different responses are scored in a checkpoint and its base.
    ValueError where two of `checkpoints` have the same slug.
    """
    facts = lineage.facts_table(checkpoints)
    responses = responses.filter(pl.col("checkpoint").is_in(facts["checkpoint"].to_list()))
    tallied = tally(responses)
    pairs, unpaired = lineage.pairs_table(checkpoints)
    compared, not_compared = comparison.compare(responses, tallied, pairs)
    tallied = lineage.ordered(tallied, facts)
    compared = lineage.ordered(compared, facts, checkpoint="post")
    by_pair = summaries.misalignment(compared, facts)
    skipped = pl.concat([summaries.incomplete(tallied, facts), unpaired, not_compared])
    return Findings(
        coverage=summaries.coverage(tallied),
        by_study=tallied.filter(pl.col("scored") > 0).select(
            *TALLY_KEYS, pl.col("scored").alias("n_responses"), "nll", "sd", "accuracy"
        ),
        by_checkpoint=summaries.by_checkpoint(tallied, facts),
        misalignment_by_study=compared,
        misalignment=by_pair,
        by_stage=lineage.stages_ordered(summaries.mean_over_pairs(by_pair, compared, ["stage"])),
        by_generation=summaries.mean_over_pairs(by_pair, compared, ["family", "generation"]),
        by_stage_and_generation=summaries.mean_over_pairs(by_pair, compared, ["family", "generation", "stage"]),
        skipped=skipped,
    )
