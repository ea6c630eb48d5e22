"""Every family on every engine, in real Ray gangs, over real transcripts: differences to one process, and memory.

    python -m tests.benchmarks.engines [--families llama olmo3 ...] [--engines deepspeed_tp] [--ranks 2 4] [--large]

Whole sweeps of random checkpoints with Qwen3's tokenizer, GPUs declared and not there. They are tiny, and one sweep
takes them all; `--large` ones, of 0.3 to 0.8 billion parameters stored in bfloat16 and scored in float32, are swept one
by one, to see what a rank holds: anonymous memory at most, polled, of which the libraries take what a tiny one shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch
import transformers

from psych_ray.results.log import ResponsesLog
from psych_ray.results.reading import open_responses
from psych_ray.results.store import open_store
from tests.benchmarks.shapes import SHARED, real_tokenizer

WINDOWED = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "qwen3-moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", WINDOWED),
    "gemma3": ("Gemma3Text", {**WINDOWED, "tie_word_embeddings": True}),
}
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 8192, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LARGE = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16, "head_dim": 64,
    "num_key_value_heads": 8,
}  # fmt: skip
STUDIES = "transcripts.studies=[busch2024_stroop,guenther2024substitutions,little2024functionestimation]"


def main() -> None:
    """Sweep with each engine and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--engines", nargs="+", default=["deepspeed_tp", "deepspeed_zero"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/engines.json"))
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pre", dir="/tmp"))
    try:
        if given.large:
            result = {family: alone(work, family, given.engines, given.ranks) for family in given.families}
        else:
            result = compare(work, [saved(work, family) for family in given.families], given.engines, given.ranks)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def alone(work: Path, family: str, engines: list[str], sizes: list[int]) -> dict[str, Any]:
    """Sweep a large checkpoint of the family by itself."""
    directory = saved(work, family, large=True)
    try:
        weights = sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 1e9
        return {"weights_gb": round(weights, 2)} | compare(work, [directory], engines, sizes)
    finally:
        shutil.rmtree(directory)


def compare(work: Path, checkpoints: list[Path], engines: list[str], sizes: list[int]) -> dict[str, Any]:
    """Sweep in one process, then with each engine on so many ranks; largest difference by checkpoint, nats."""
    expected, memory = sweep(work, checkpoints, "scoring.engine=transformers", "cluster.gpus=1")
    result: dict[str, Any] = {"rows": expected.height, "transformers": {"anonymous_memory_gb": memory}}
    for engine in engines:
        for size in sizes:
            held = (f"scoring.engine={engine}", f"cluster.ranks={size}", f"cluster.gpus={size}")
            found, memory = sweep(work, checkpoints, *held)
            assert found.drop("nll").equals(expected.drop("nll")), f"{engine} on {size} ranks: other rows"
            apart = (found["nll"] - expected["nll"]).abs()
            by_checkpoint = (
                found.select("checkpoint").with_columns(apart).group_by("checkpoint").max().sort("checkpoint")
            )
            result[f"{engine}, {size} ranks"] = {
                "largest_difference_nats": {name: float(f"{nats:.2g}") for name, nats in by_checkpoint.iter_rows()},
                "anonymous_memory_gb": memory,
            }
    return result


def sweep(work: Path, checkpoints: list[Path], *overrides: str) -> tuple[pl.DataFrame, float]:
    """Sweep real transcripts; the table, and the most memory that one process of a replica held, GB."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    command = [
        sys.executable, "-m", "psych_ray.cli.main", "sweep", "checkpoints=local", "transcripts=files",
        f"checkpoints.paths=[{','.join(map(str, checkpoints))}]", f"transcripts.path={SHARED / 'data/psych-201'}",
        "transcripts.limit=1", STUDIES, "scoring.cut_at=1024", "scoring.device=cpu", "cluster.cpus_per_replica=1",
        "checkpoints.references=[]", "cluster.cpus=4", f"results.root={root}", "tracking=console", *overrides,
    ]  # fmt: skip
    done, most = threading.Event(), [0.0]
    watcher = threading.Thread(target=_watch, args=(work, done, most))
    watcher.start()
    try:
        subprocess.run(command, check=True, env=os.environ | {"TMPDIR": str(work)}, stdout=subprocess.DEVNULL)
    finally:
        done.set()
        watcher.join()
    store = open_store(str(root))
    with open_responses(store, ResponsesLog(store).parts()) as responses:
        table = responses.collect().sort("checkpoint", "transcript", "response")
    assert np.isfinite(table["nll"].drop_nulls().to_numpy()).all()
    return table, round(most[0], 2)


def saved(work: Path, family: str, *, large: bool = False) -> Path:
    """Save a random checkpoint whose norms and matrices are all far from what they start as."""
    architecture, more = FAMILIES[family]
    tokenizer = real_tokenizer()
    shape = TEXT | more | {"vocab_size": len(tokenizer) + 8}
    if large:
        n_layers = LARGE["num_hidden_layers"]
        shape |= LARGE | ({"layer_types": more["layer_types"] * (n_layers // 2)} if "layer_types" in more else {})
        shape |= {"num_experts": 16, "moe_intermediate_size": 768} if "num_experts" in more else {}
    config = getattr(transformers, f"{architecture}Config")(**shape)
    torch.manual_seed(0)
    model = getattr(transformers, f"{architecture.removesuffix('Text')}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
        else:
            # with more, round-off grows from layer to layer where there are many
            torch.nn.init.normal_(parameter, std=(1.0 if large else 2.4) * parameter.shape[-1] ** -0.5)
    directory = work / family
    (model.bfloat16() if large else model).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _watch(work: Path, done: threading.Event, most: list[float]) -> None:
    while not done.wait(0.2):
        for process in psutil.process_iter(["cmdline"]):
            try:
                ours = "RankProcess" in " ".join(process.info["cmdline"] or [])
                if ours and process.environ().get("TMPDIR") == str(work):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    most[0] = max(most[0], int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9)
            except (psutil.Error, OSError, IndexError):
                continue


if __name__ == "__main__":
    main()
