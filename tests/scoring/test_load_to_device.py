"""Weights go from their file straight to a device. The device `meta` stands for a GPU: the host holds none of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.models import load

PARAMETERS, MB = 33_825_280, 2**20  # 129 MB as float32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Stored in two bytes a parameter, so that four bytes need memory beside the mapped file."""
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    directory = tmp_path_factory.mktemp("checkpoint")
    model.to_empty(device="cpu").to(torch.bfloat16).save_pretrained(directory)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    return directory


def load_to(device: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    monkeypatch.setattr(load, "device_of", lambda wanted: torch.device(device))
    model, _ = load.load_model(CheckpointCard(id="a"), checkpoint, ScoringConfig(), allow_pickle=False, **more)
    return model


def host_memory() -> int:
    """Bytes of this process that are not pages of a file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def most_host_memory(device: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> int:
    before, seen, end = host_memory(), [0], threading.Event()

    def watch() -> None:
        while not end.wait(0.0005):
            seen.append(host_memory() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        model = load_to(device, checkpoint, monkeypatch, **more)
    finally:
        end.set()
        thread.join()
    assert {p.device.type for p in model.parameters()} | {b.device.type for b in model.buffers()} == {device}
    return max(seen)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_the_host_holds_no_copy_of_weights_that_go_to_another_device(checkpoint, monkeypatch):
    assert most_host_memory("meta", checkpoint, monkeypatch) < 20 * MB
    # Some of it may be memory that an earlier test has freed, which the process still has.
    assert most_host_memory("cpu", checkpoint, monkeypatch) > 40 * MB


@pytest.mark.parametrize(
    ("device", "partitioned", "expected"),
    [("cpu", False, None), ("meta", False, {"": torch.device("meta")}), ("meta", True, None)],
)
def test_transformers_is_told_the_device_but_not_of_weights_that_are_partitioned(
    checkpoint, monkeypatch, device, partitioned, expected
):
    told = {}

    def from_pretrained(*_: Any, **options: Any) -> None:
        told.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(CheckpointError, match="enough"):
        load_to(device, checkpoint, monkeypatch, partitioned=partitioned)
    assert told.get("device_map") == expected
