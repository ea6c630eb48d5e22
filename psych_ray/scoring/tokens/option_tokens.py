"""The tokens of a participant's options: those that the responses have anyway, so that nothing else is tokenized.

Does not import torch or a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psych_ray.scoring.tokens.alignment import Alignment

_NONE: NDArray[np.int64] = np.empty(0, np.int64)


def option_tokens(option_R: NDArray[np.int16], alignments: Sequence[Alignment]) -> NDArray[np.int64]:
    """Ids of the tokens of the options of a transcript, ascending, from all of its renderings together.

    `option_R`: as `option_index` of the transcript. Empty where there are no two options, or one of them is never a
    token of its own, or it is several: then probabilities would not be those of the options.
    """
    n_options = int(option_R.max(initial=-1)) + 1
    pairs: set[tuple[int, int]] = set()
    for alignment in alignments:
        is_token_R = (option_R >= 0) & (alignment.only_token_R >= 0)
        pairs |= set(zip(option_R[is_token_R].tolist(), alignment.only_token_R[is_token_R].tolist(), strict=True))
    options, tokens = {option for option, _ in pairs}, {token for _, token in pairs}
    if n_options < 2 or not len(pairs) == len(options) == len(tokens) == n_options:
        return _NONE
    return np.array(sorted(tokens), np.int64)
