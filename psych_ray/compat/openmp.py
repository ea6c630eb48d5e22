"""How long threads of OpenMP spin while they wait (libgomp, which PyTorch's wheels for Linux contain).

Depends on no library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_SPINS = "1000"
_CHOSEN_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def openmp_spins_briefly() -> Mapping[str, str]:
    """Environment of processes whose threads spin for microseconds only, and then sleep; empty where the user chose.

    By default they spin for milliseconds. Where another process needs a core, as another replica does, a thread then
    waits for one that has none: on two cores, with one of them in use, a pass of 2,048 tokens takes 1.4 times as long
    as with these, of a small model over twice as long. On free cores these cost 3 %, of a small model 10 %; not to
    spin at all (`OMP_WAIT_POLICY=passive`) costs 10 and 65 %.
    """
    return {} if any(name in os.environ for name in _CHOSEN_BY) else {"GOMP_SPINCOUNT": _SPINS}
