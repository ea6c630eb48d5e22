"""The weight files of a directory, and the tensors in their headers. Does not import torch and reads no tensor.

Missing shards and truncated files are errors here, in milliseconds, not after minutes of loading. Pickled weights have
no header that could be read without running code; they are returned only where that is allowed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.quantization import packed_bits
from psych_ray.errors import CheckpointError

MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
_PICKLED = {MODEL: "pytorch_model.bin", ADAPTER: "adapter_model.bin"}
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_MAX_NAME_CHARACTERS = 120
_BITS = {"U8": 8, "I8": 8, "I32": 32}
# Scales and other metadata of quantized tensors; not parameters.
_COMPANION = re.compile(
    r"\.weight\.(absmax|quant_map|nested_.*|quant_state.*)$"
    r"|\.(qzeros|scales|g_idx|SCB|weight_format|weight_scale\w*|weight_zero_point|weight_shape|input_scale)$"
)


def weight_files(directory: Path, *, name: str = MODEL, allow_pickle: bool = False) -> list[Path]:
    """All files that hold the weights, sorted by name; safetensors where there are also pickled weights.

    CheckpointError where there are none, or where one that the index names is missing or truncated.
    """
    files = _listed(directory, name)
    if files:
        for file in files:
            safetensors_header(file)
        return files
    pickled = _listed(directory, _PICKLED[name])
    if pickled and allow_pickle:
        return pickled
    if pickled:
        raise CheckpointError(
            f"{directory}: no *.safetensors there, only pickled weights ({pickled[0].name}), and unpickling runs code "
            "that comes with them; convert them, or allow it with checkpoints.allow_pickle=true"
        )
    others = sorted(directory.glob("*.safetensors"))
    found = f"only {', '.join(file.name for file in others[:3])}" if others else "no *.safetensors there"
    raise CheckpointError(
        f"{directory}: {found}; weights must be {name} or the shards that {name}.index.json names "
        "(checkpoints.allow_pickle=true also takes *.bin)"
    )


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Shape, dtype and offsets of each tensor, by name. CheckpointError where the file is not complete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
    try:
        tensors: dict[str, dict[str, Any]] = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max(map(_end_of, tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged; fetch it again") from error
    if size != 8 + length + end:
        raise CheckpointError(f"{path}: has {size:,} bytes, its header gives {8 + length + end:,}; fetch it again")
    return tensors


def _end_of(tensor: Mapping[str, Any]) -> int:
    """Where the bytes of a tensor end. ValueError where its description is not that of a tensor."""
    start, end = tensor["data_offsets"]
    numbers = [start, end, *tensor["shape"]]
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(tensor["dtype"], str):
        raise ValueError("a tensor has no size")
    return int(end)


def count_parameters(files: Sequence[Path], quantization: Mapping[str, Any] | None = None) -> int:
    """Number of parameters in safetensors files; values that quantization packs into one integer are counted singly."""
    quantization = quantization or {}
    bits = packed_bits(quantization)
    total = 0
    for file in files:
        for name, tensor in safetensors_header(file).items():
            if quantization and _COMPANION.search(name):
                continue
            stored = _BITS.get(tensor["dtype"])
            packed = stored // bits if stored and bits else 1
            total += math.prod(tensor["shape"]) * packed
    return total


def _file_name(shard: str) -> str:
    """The name of a shard. ValueError for a path, which could lead out of the directory."""
    if "/" in shard or not shard.isprintable() or not 0 < len(shard) <= _MAX_NAME_CHARACTERS:
        raise ValueError("a shard is no name of a file")
    return shard


def _listed(directory: Path, name: str) -> list[Path]:
    if (directory / name).is_file():
        return [directory / name]
    index = directory / f"{name}.index.json"
    if not index.is_file():
        return []
    try:
        shards = sorted(set(map(_file_name, json.loads(index.read_text("utf-8"))["weight_map"].values())))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards; fetch it again") from error
    missing = [shard for shard in shards if not (directory / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(shards)} shards are missing "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); fetch them again"
        )
    return [directory / shard for shard in shards]
