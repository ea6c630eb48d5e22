"""Trains one generation of demo checkpoints: `python -m psych_ray.demo.train GENERATION DIRECTORY`.

A process of its own, so that generations train in parallel on one thread each and do not change the state of the
caller's process. It ends when its standard input is closed, and so with its caller. Prints a line per checkpoint. The
weights are reproducible on one machine; on another they differ by rounding, with the same differences between them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TextIO

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from psych_ray.checkpoints.cards import CARD
from psych_ray.config import CheckpointCard, Stage
from psych_ray.demo.cache import CANNOT_WRITE, WRITING
from psych_ray.demo.corpus import Corpus, Tokens
from psych_ray.demo.recipe import FAMILY, RECIPE, Generation, Recipe, Training
from psych_ray.demo.tokenizer import train_tokenizer
from psych_ray.errors import first_line
from psych_ray.transcripts.simulated import simulated_transcripts

WARM_UP_STEPS = 20
# Shapes: B participants, T tokens, D width, R response tokens, V vocabulary.


def new_model(generation: Generation, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model. The usual standard deviation of 0.02 is too small for training at this width."""
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": generation.width,
        "intermediate_size": 2 * generation.width,
        "num_hidden_layers": generation.layers,
        "num_attention_heads": generation.heads,
        "num_key_value_heads": generation.heads,
        "head_dim": generation.width // generation.heads,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": True,
        "initializer_range": generation.width**-0.5,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(recipe.weight_seed)
    if generation.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**common))
    return Qwen3ForCausalLM(Qwen3Config(**common))


def response_loss(model: PreTrainedModel, batch: Tokens) -> Tensor:
    """Mean cross-entropy of the response tokens, nats; other tokens are not trained on."""
    hidden_BTD = model.get_decoder()(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    is_target_BT = batch.is_response[:, 1:]
    logp_RV = log_softmax(model.get_output_embeddings()(hidden_BTD[:, :-1][is_target_BT]), dim=-1)
    answer_R, other_R, probability_R = (
        rows_BT[:, 1:][is_target_BT] for rows_BT in (batch.token_ids, batch.other_ids, batch.probability)
    )
    logp_answer_R, logp_other_R = (logp_RV.gather(1, ids_R[:, None])[:, 0] for ids_R in (answer_R, other_R))
    return -(probability_R * logp_answer_R + (1 - probability_R) * logp_other_R).mean()


def learning_rate_factor(step: int, steps: int) -> float:
    """Factor of a step: linear warm-up, then a cosine down to a tenth."""
    return min((step + 1) / min(WARM_UP_STEPS, steps), 0.55 + 0.45 * math.cos(math.pi * step / steps))


def train(model: PreTrainedModel, training: Training, corpus: Corpus) -> None:
    """Train with AdamW through all phases."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    data = chain.from_iterable(corpus.batches(phase) for phase in training.phases)
    for step, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * learning_rate_factor(step, training.steps)
        response_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def card(generation: Generation, stage: Stage, model: PreTrainedModel) -> CheckpointCard:
    """The card of a checkpoint."""
    return CheckpointCard(
        id=generation.checkpoint_id(stage),
        family=FAMILY,
        generation=generation.name,
        size_b=model.num_parameters() / 1e9,
        stage=stage,
        base=None if stage is Stage.base else generation.checkpoint_id(Stage.base),
    )


def make_generation(generation: Generation, recipe: Recipe, root: Path, progress: TextIO) -> None:
    """Train the base and every later stage, and save each in the directory of `root` with its id."""
    tokenizer = tokenizer_of(recipe)
    model = new_model(generation, recipe, tokenizer)

    def run(stage: Stage, training: Training, corpus: Corpus) -> None:
        started = time.monotonic()
        train(model, training, corpus)
        save(model, tokenizer, card(generation, stage, model), root / generation.checkpoint_id(stage))
        progress.write(f"{generation.name}: {stage} trained ({time.monotonic() - started:.0f} s)\n")

    people = Corpus(tokenizer, participants=recipe.people, seed=recipe.data_seed, normative=False)
    run(Stage.base, generation.base, people)
    base_weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for stage, training in generation.post:
        model.load_state_dict(base_weights)
        agents = Corpus(tokenizer, participants=recipe.normative_people, seed=recipe.data_seed, normative=True)
        run(stage, training, agents)


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, described: CheckpointCard, directory: Path
) -> None:
    """Write a checkpoint; where that fails, end the process with one line and the exit code `CANNOT_WRITE`."""
    try:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        (directory / CARD).write_text(json.dumps(asdict(described), indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        sys.stderr.write(f"{WRITING}{directory.name}: {reason}\n")
        sys.exit(CANNOT_WRITE)


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer of all checkpoints."""
    people = simulated_transcripts(participants=recipe.tokenizer_people, seed=recipe.data_seed)
    texts = [person.text for person in people]
    return train_tokenizer(texts, vocabulary_size=recipe.vocabulary_size, context=recipe.context)


def end_with_caller() -> None:
    """End this process as soon as its standard input is closed, which happens when its caller ends."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def progress_only() -> TextIO:
    """Return standard output for progress alone, and redirect what libraries print to standard error."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lines


if __name__ == "__main__":
    end_with_caller()
    disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    make_generation(RECIPE.generation(sys.argv[1]), RECIPE, Path(sys.argv[2]), progress_only())
