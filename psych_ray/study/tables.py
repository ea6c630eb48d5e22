"""The tables of a study, all together.

No formulas: those are in the modules that fill the tables. Independent of where responses come from and of how a table
is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial

import polars as pl

from psych_ray.study.schemas import empty


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The statistics of a study; the columns of each table are in `SCHEMAS`. Checkpoints are named by their slug.

    NLL and its differences are in nats per response. Rows are ordered by condition (plain first), then by family,
    generation (by the numbers in its name), stage, size. A table for which there is no data has no rows.
    """

    coverage: pl.DataFrame = field(default_factory=partial(empty, "coverage"))
    """Responses of each checkpoint and condition by status."""
    by_study: pl.DataFrame = field(default_factory=partial(empty, "by_study"))
    """Mean NLL of the scored responses of a study, `se` clustered by participant, `sd` (sample) over responses.

    accuracy: share of the `n_letters` responses that are a single capital letter at which the checkpoint's most
    probable token is that letter; top1: the same over all scored responses. chance: NLL of the checkpoint `chance`, and
    pseudo_r2: 1 - NLL / chance (McFadden 1974), both over the responses that it and the checkpoint have scored."""
    by_checkpoint: pl.DataFrame = field(default_factory=partial(empty, "by_checkpoint"))
    """nll and accuracy: means over studies of those of `by_study`, with bootstrap intervals; pseudo_r2: mean over the
    studies that have it."""
    misalignment_by_study: pl.DataFrame = field(default_factory=partial(empty, "misalignment_by_study"))
    """Post minus base over the responses scored in both; `only_post` and `only_base` count the others.

    d: Cohen's d, (mean post - mean base) / sqrt((sd_post² + sd_base²) / 2), se: its standard error clustered by
    participant (CR1, linearised), low and high: its 95 % interval (t, participants - 1 degrees of freedom). difference:
    mean of the paired differences, d_z: that / their sd; difference_se is clustered by participant (CR1),
    difference_se_naive takes responses as independent."""
    misalignment: pl.DataFrame = field(default_factory=partial(empty, "misalignment"))
    """Each pair over studies, in the columns of `EFFECT`."""
    by_stage: pl.DataFrame = field(default_factory=partial(empty, "by_stage"))
    """Means over pairs; the stage vision includes vision_reasoning, as the study has it."""
    by_generation: pl.DataFrame = field(default_factory=partial(empty, "by_generation"))
    """Means over the pairs of one stage: instruct where the generation has such pairs, otherwise reasoning, otherwise
    the stage that it has. change: from the first generation of the family, with its interval."""
    by_stage_and_generation: pl.DataFrame = field(default_factory=partial(empty, "by_stage_and_generation"))
    """Means over the pairs of each stage and generation."""
    by_domain: pl.DataFrame = field(default_factory=partial(empty, "by_domain"))
    """Means over pairs in the studies of a domain; d with the population sd. p: random-effects test that the mean is
    zero (of one study: clustered by participant), q: adjusted over domains (Benjamini-Hochberg). published: whether the
    study has the domain in its heat map."""
    by_pair_and_domain: pl.DataFrame = field(default_factory=partial(empty, "by_pair_and_domain"))
    """The cells of the heat map, as `by_domain`; q is adjusted over all cells of a condition."""
    accuracy: pl.DataFrame = field(default_factory=partial(empty, "accuracy"))
    """Accuracy on single capital letters that both have scored, post minus base, mean over studies."""
    contrasts_by_study: pl.DataFrame = field(default_factory=partial(empty, "contrasts_by_study"))
    """A condition minus the condition `reference` for one checkpoint, over the responses scored under both."""
    contrasts: pl.DataFrame = field(default_factory=partial(empty, "contrasts"))
    """Those over studies; `studies` says over which: all, developmental, or published (the study's selection)."""
    contrast_summary: pl.DataFrame = field(default_factory=partial(empty, "contrast_summary"))
    """Means of `contrasts` over the checkpoints of a stage; a null stage: over all checkpoints."""
    behavioural: pl.DataFrame = field(default_factory=partial(empty, "behavioural"))
    """Checkpoints trained on behaviour against their base, base minus post: above zero the post-trained one is better.

    `studies`: all, or psych201, those that were not collected for Psych-101."""
    calibration: pl.DataFrame = field(default_factory=partial(empty, "calibration"))
    """Means over studies of `calibration_by_study`; temperature: the geometric mean. ece: expected calibration error of
    the most probable option over `n_choices` choices, confidence its mean probability, accuracy how often it was
    chosen."""
    calibration_by_study: pl.DataFrame = field(default_factory=partial(empty, "calibration_by_study"))
    """nll_tempered: NLL at a temperature that was chosen on the other half of the participants (two folds; Guo et al.
    2017), temperature: the geometric mean of both. Over choices among single letters: leak, -log of the probability of
    all options together; nll_within, NLL of the choice among the options; brier, over the options."""
    calibration_curve: pl.DataFrame = field(default_factory=partial(empty, "calibration_curve"))
    """Choices by the probability of the most probable option, in ten bins of equal width from 0 to 1."""
    overconfidence: pl.DataFrame = field(default_factory=partial(empty, "overconfidence"))
    """Post minus base in nats per response, mean over studies: misalignment = repaired + remaining, where remaining is
    the difference when both are at their own temperature. leak and within split the misalignment over choices."""
    by_decile: pl.DataFrame = field(default_factory=partial(empty, "by_decile"))
    """NLL by tenth of a transcript's responses, 1 to 10, mean over studies that have responses in all ten.

    change, in the last row: from the first tenth to the last, with its interval."""
    by_length: pl.DataFrame = field(default_factory=partial(empty, "by_length"))
    """NLL by the number of responses in the transcript; mean over responses, se clustered by participant."""
    by_experiment: pl.DataFrame = field(default_factory=partial(empty, "by_experiment"))
    """NLL of each experiment of the studies that have several; se clustered by participant."""
    by_group: pl.DataFrame = field(default_factory=partial(empty, "by_group"))
    """Participants by age, gender and diagnosis: nll, mean over studies of the mean over responses; difference, against
    the other participants of the same studies that have the field, mean over the n_compared studies with such others,
    se over these studies."""
    reaction_times: pl.DataFrame = field(default_factory=partial(empty, "reaction_times"))
    """Correlation of NLL and log reaction time within participants (pooled within-participant covariances)."""
    influence: pl.DataFrame = field(default_factory=partial(empty, "influence"))
    """d of a stage without one study."""
    mixed_model: pl.DataFrame = field(default_factory=partial(empty, "mixed_model"))
    """Coefficients of the optional mixed model; empty where it did not converge or is not asked for."""
    transcript_differences: pl.DataFrame = field(default_factory=partial(empty, "transcript_differences"))
    """Mean of post minus base per response of each transcript, over all pairs; largest absolute differences first."""
    published: pl.DataFrame = field(default_factory=partial(empty, "published"))
    """Published values beside those of this run, by the authors' definitions."""
    skipped: pl.DataFrame = field(default_factory=partial(empty, "skipped"))
    """A null condition or study means all of them."""

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

    def tables(self) -> dict[str, pl.DataFrame]:
        """All tables by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}
