"""Names and meaning of what is kept of each response besides its NLL, for questions of calibration.

Is a checkpoint wrong, or only too sure? NLLs at other temperatures say what a temperature repairs (Guo et al. 2017),
the probability of the participant's options separates a wrong format from a wrong choice. Does not import torch.
"""

from __future__ import annotations

TEMPERATURES = (0.5, 0.7, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""By which the logits are divided; 1 is the NLL itself. Factors of a square root of 2, so that each is the half of
another: the exponentials at one are the squares of those at the double."""

NLL_AT = {temperature: f"nll_t{round(100 * temperature):03d}" for temperature in TEMPERATURES}
"""Name of the NLL at each temperature, nats, summed over the tokens of a response like the NLL."""

OPTIONS_NLL, OPTIONS_BRIER, OPTIONS_TOP, OPTIONS_HIT = "options_nll", "options_brier", "options_top", "options_hit"
OF_OPTIONS = (OPTIONS_NLL, OPTIONS_BRIER, OPTIONS_TOP, OPTIONS_HIT)
"""Of responses that are an option of the participant and one token.

`options_nll`: -log of the probability that the softmax over the vocabulary gives to all options together, nats. The
others are of the probabilities p_k renormalised over the options: `options_brier` is the sum over the options of
(p_k - [k chosen])², `options_top` the largest p_k, `options_hit` 1 where the chosen option has it, else 0. Of options
of equal probability, the one with the lowest token id counts as the largest.
"""

COLUMNS = (*NLL_AT.values(), *OF_OPTIONS)
"""Columns of an array of these numbers, float32; NaN where there is none."""
