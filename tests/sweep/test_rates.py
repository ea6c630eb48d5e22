"""Rates that a root measured replace assumed ones; what a footer cannot have measured is ignored."""

from __future__ import annotations

import math

import pytest

from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.results.schema import Measured
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, device_named, fetch_seconds, load_seconds, replica_device
from psych_ray.sweep.rates import Rates

GPU = replica_device(ranks=1, cpus=4, gpus=1)
TWO_GPUS = replica_device(ranks=2, cpus=4, gpus=1)
CORES = replica_device(ranks=1, cpus=8, gpus=0)
B8, B70 = 8 * 10**9, 70 * 10**9


def rates(measured: dict, sizes: dict | None = None, characters: dict | None = None) -> Rates:
    return Rates.of(measured, sizes or {"a": B8, "b": B70}, characters or {})


def test_the_names_of_devices_can_be_read_back():
    for device in (GPU, TWO_GPUS, CORES, replica_device(ranks=1, cpus=1, gpus=0)):
        assert device_named(device.name) == device
    for name in (None, "", "A100", "0 GPUs", "GPU core", "2 TPUs", "-1 GPUs", "9999999 GPUs"):
        assert device_named(name) is None


def test_a_checkpoint_that_was_measured_takes_as_long_as_it_took():
    found = rates({("a", "plain"): [Measured("GPU", 500_000, 100.0), Measured("GPU", 500_000, 300.0)]})
    rate = found.of_task("a", "plain", B8, GPU)
    assert rate.is_measured
    assert rate.tokens_per_s == pytest.approx(2_500)
    assert rate.characters_per_s == pytest.approx(2_500 * CHARACTERS_PER_TOKEN)
    assert found.of_checkpoint("a", B8, TWO_GPUS).tokens_per_s == pytest.approx(
        2_500 * TWO_GPUS.tokens_per_s(B8) / GPU.tokens_per_s(B8)
    )


def test_others_on_the_same_kind_of_device_are_as_much_slower_than_assumed():
    measured = {
        ("a", "plain"): [Measured("2 GPUs", int(100 * TWO_GPUS.tokens_per_s(B8)), 300.0)],
        ("b", "plain"): [Measured("GPU", int(100 * GPU.tokens_per_s(B70)), 500.0)],
    }
    other = rates(measured).of_checkpoint("c", 10**9, GPU)
    assert other.is_measured
    assert other.tokens_per_s == pytest.approx(GPU.tokens_per_s(10**9) / 4, rel=1e-3)
    on_cores = rates(measured).of_checkpoint("c", 10**9, CORES)
    assert (on_cores.is_measured, on_cores.tokens_per_s) == (False, CORES.tokens_per_s(10**9))


def test_conditions_have_their_own_rates_and_characters_per_token():
    measured = {
        ("a", "plain"): [Measured("GPU", 10**6, 100.0)],
        ("a", "zero_shot"): [Measured("GPU", 3 * 10**6, 600.0)],
    }
    characters = {("a", "plain"): (4 * 10**6, 10**6), ("a", "zero_shot"): (4 * 10**6, 3 * 10**6)}
    found = rates(measured, characters=characters)
    assert found.of_task("a", "plain", B8, GPU).characters_per_s == pytest.approx(40_000)
    assert found.of_task("a", "zero_shot", B8, GPU).characters_per_s == pytest.approx(4 * 10**6 / 600)
    assert found.of_checkpoint("a", B8, GPU).tokens_per_s == pytest.approx(4 * 10**6 / 700)
    assert found.of_task("a", "chat", B8, GPU) == found.of_checkpoint("a", B8, GPU)


def test_parts_that_do_not_say_what_they_ran_on_count_for_their_checkpoint_alone():
    found = rates({("a", "plain"): [Measured(None, 10**6, 1000.0)]})
    assert found.of_task("a", "plain", B8, GPU).tokens_per_s == pytest.approx(1_000)
    assert not found.of_checkpoint("b", B70, GPU).is_measured


@pytest.mark.parametrize(
    "wrong", [(10**6, 0.0), (0, 100.0), (10**6, 1e-300), (1, 1e300), (-5, 10.0), (10**6, -1.0), (10**6, math.nan)]
)
def test_what_cannot_have_been_measured_is_ignored(wrong):
    found = rates(
        {
            ("a", "plain"): [Measured("GPU", *wrong), Measured(None, *wrong)],
            ("z", "plain"): [Measured("GPU", 10**6, 9.0)],
        }
    )
    rate = found.of_task("a", "plain", B8, GPU)
    assert (rate.is_measured, rate.tokens_per_s) == (False, GPU.tokens_per_s(B8))
    right = rates({("a", "plain"): [Measured("GPU", *wrong), Measured("GPU", 10**6, 100.0)]})
    assert right.of_task("a", "plain", B8, GPU).tokens_per_s == pytest.approx(10_000)


def test_characters_per_token_that_no_text_has_are_ignored():
    for wrong in [(10**9, 10), (0, 10**6), (10**6, 0)]:
        found = rates({("a", "plain"): [Measured("GPU", 10**6, 100.0)]}, characters={("a", "plain"): wrong})
        assert found.of_task("a", "plain", B8, GPU).characters_per_token == CHARACTERS_PER_TOKEN


def test_loading_takes_longer_the_more_bytes_there_are():
    small, large, quantized = (
        load_seconds(CheckpointShape(n_parameters=n, bits=bits)) for n, bits in [(B8, None), (B70, None), (B70, 4)]
    )
    assert small < quantized < large
    assert large - small == pytest.approx(2 * (B70 - B8) / 1e9)
    assert load_seconds(CheckpointShape(n_parameters=0)) < 5
    assert fetch_seconds(CheckpointShape(n_parameters=B8)) == pytest.approx(2 * B8 / 3e8)
    assert fetch_seconds(CheckpointShape(n_parameters=0)) == 0
