"""The sweeps of the golden table, and checkpoints whose weights are the same on every machine.

`python -m tests.golden.sweeps` writes the table anew: only where a change of scores is meant, and said in the commit.
Everything runs through the command line, so that no change of structure touches what is compared. A unit is one
transcript, so that neither costs nor placement decide which texts are read together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

HERE = Path(__file__).parent
TABLE, MADE_BY = HERE / "table.parquet", HERE / "made_by.json"
ARCHITECTURES = ("Gemma3Text", "Llama", "Olmo3", "Qwen3")
CONDITIONS = {"false": "plain,chat,persona,discrete,zero_shot,history_only", "true": "plain,chat,persona,discrete"}
"""By `scoring.parity`."""
KEYS = ("parity", "condition", "checkpoint", "study", "participant", "response")


def tiny_checkpoints(root: Path) -> list[Path]:
    """Make a checkpoint of each architecture, weights drawn by numpy, which draws the same on every machine."""
    tokenizer = byte_tokenizer()
    directories = []
    for seed, architecture in enumerate(ARCHITECTURES):
        directory = root / f"tiny-{architecture.lower()}"
        random_model(architecture, len(tokenizer), seed).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        directories.append(directory)
    return directories


def random_model(architecture: str, vocabulary: int, seed: int):
    import torch
    import transformers

    name = architecture.removesuffix("Text")
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,  # some of the transcripts are cut
        sliding_window=256,
        tie_word_embeddings=architecture == "Gemma3Text",
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            drawn = torch.from_numpy(0.3 * rng.standard_normal(tuple(weight.shape))).float()
            weight.copy_(drawn if weight.ndim > 1 else 1 + drawn)
    return model


def byte_tokenizer():
    """Tokens are bytes, but for a chat's markers; with the chat template of the demo."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from psych_ray.demo.tokenizer import CHAT_TEMPLATE

    vocabulary = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def swept(directories: list[Path], root: Path, *, parity: str) -> pl.DataFrame:
    """Sweep the checkpoints over two simulated participants of each task; the whole table, sorted."""
    arguments = [
        sys.executable, "-m", "psych_ray.cli.main", "sweep", "checkpoints=local",
        f"checkpoints.paths=[{','.join(map(str, directories))}]", "transcripts=demo", "transcripts.participants=2",
        f"conditions=[{CONDITIONS[parity]}]", f"scoring.parity={parity}", "scoring.unit_seconds=1e-6",
        "scoring.device=cpu", "cluster.cpus=2", "cluster.cpus_per_replica=1", f"results.root={root}",
        "tracking=console", "checkpoints.references=[]",
    ]  # fmt: skip
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = pl.read_parquet(root / "responses" / "*" / "*" / "*.parquet", hive_partitioning=True)
    names = pl.col("checkpoint", "condition", "study", "experiment", "participant", "transcript", "status")
    return found.with_columns(names.cast(pl.String), parity=pl.lit(parity)).sort(KEYS)


def machine() -> dict[str, str]:
    """What decides the last bits of a score, beside the weights."""
    import torch
    import transformers

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model\t", "flags"))]
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "cpu": " ".join(sorted(set(models[0].split()[2:] + models[1].split()[2:]))) if len(models) > 1 else "unknown",
    }


def weights_of(directory: Path) -> str:
    """Hash of a checkpoint's weights."""
    import hashlib

    return hashlib.blake2b((directory / "model.safetensors").read_bytes(), digest_size=16).hexdigest()


def demo_directories() -> list[Path]:
    """Directories of the demo checkpoints, made when missing."""
    from psych_ray.demo import demo_checkpoints

    return demo_checkpoints(Path(os.environ.get("PSYCH_RAY_CACHE", "~/.cache/psych-ray")).expanduser())


def main() -> None:
    """Write the table and what made it."""
    with tempfile.TemporaryDirectory() as scratch:
        directories = [*tiny_checkpoints(Path(scratch)), *demo_directories()]
        tables = [swept(directories, Path(scratch) / parity, parity=parity) for parity in CONDITIONS]
        pl.concat(tables).write_parquet(TABLE, compression="zstd", compression_level=19)
        weights = {directory.name: weights_of(directory) for directory in directories}
    MADE_BY.write_text(json.dumps({"machine": machine(), "weights": weights}, indent=1) + "\n")


if __name__ == "__main__":
    main()
