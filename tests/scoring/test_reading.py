"""How far a scorer is with its transcripts, read by another thread while it scores."""

from __future__ import annotations

import torch
from torch import nn

from psych_ray.scoring.work import Reading, Work


class Layers(nn.Module):
    """Two stacks of layers, of which one runs: that of text."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(n_layers))
        self.vision = nn.ModuleList(nn.Identity() for _ in range(3))


def test_a_transcript_counts_by_the_layers_that_its_tokens_passed() -> None:
    model, work = Layers(4), Work()
    work.count_layers(model)
    work.begin_reading()
    assert work.reading == Reading()
    hidden_1TD = torch.zeros(1, 10, 8)
    with work.of_reading(characters=120, tokens=30):
        for layer in model.layers:
            layer(hidden_1TD)
        assert work.reading == Reading(40.0, 10.0)
        model.layers[0](hidden_1TD)
        model.layers[1](hidden_1TD)
        assert work.reading == Reading(60.0, 15.0)
        for _ in range(20):  # what was scored again, as it did not fit in memory
            model.layers[0](hidden_1TD)
        assert work.reading == Reading(120.0, 30.0)
    assert work.reading == Reading(120.0, 30.0)
    with work.of_reading(characters=80, tokens=20):  # from the cache: no layer runs
        assert work.reading == Reading(120.0, 30.0)
    assert work.reading == Reading(200.0, 50.0)
    work.begin_reading()
    assert work.reading == Reading()
    assert work.done == 26


def test_ranks_that_divide_a_pass_count_for_each_other() -> None:
    model, work = Layers(2), Work()
    work.count_layers(model, ranks=3)
    with work.of_reading(characters=120, tokens=30):
        for layer in model.layers:
            layer(torch.zeros(1, 5, 8))
        assert work.reading == Reading(60.0, 15.0)
