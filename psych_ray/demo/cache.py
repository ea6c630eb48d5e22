"""Demo checkpoints on disk, made once per machine, and complete or absent. Does not import torch.

Each generation is trained in a process of its own (`psych_ray.demo.train`). A worker of a process pool would import the
caller's main module, could not be started from a Ray driver, and could outlive a killed caller.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from psych_ray.checkpoints.cards import CARD
from psych_ray.child import module_command, module_environment
from psych_ray.demo.recipe import RECIPE, Recipe
from psych_ray.errors import ConfigError
from psych_ray.temporary import temporary_directory

CANNOT_WRITE = 74
"""Exit code of a training process that cannot write its files; a line of its standard error begins with `WRITING`."""
WRITING = "writing "
FILES = (CARD, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def _discard(_: str) -> None:
    pass


def demo_checkpoints(root: Path, *, progress: Callable[[str], None] = _discard) -> list[Path]:
    """Directories of the six demo checkpoints under `root`, oldest generation and base first; made where missing.

    Making them takes about a minute on two cores; `progress` gets a line per checkpoint. They appear under `root` all
    at once. Several processes can make them at the same time: all return those of the first one that is done.
    ConfigError where `root` can be neither read nor written.
    """
    target = root / f"demo-{RECIPE.fingerprint()}"
    try:
        if not _is_complete(target, RECIPE):
            _make(target, RECIPE, progress)
    except OSError as error:
        raise ConfigError(
            f"checkpoints.cache={root}: the demo checkpoints can be neither found nor made there "
            f"({error.strerror or error}); name a directory that you can write to"
        ) from error
    return [target / checkpoint for checkpoint in RECIPE.checkpoint_ids()]


def _is_complete(target: Path, recipe: Recipe) -> bool:
    return all((target / checkpoint / file).is_file() for checkpoint in recipe.checkpoint_ids() for file in FILES)


def _make(target: Path, recipe: Recipe, progress: Callable[[str], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(target.parent, prefix=".demo-") as scratch:
        progress(f"making demo checkpoints in {target}, once")
        draft = scratch / "draft"
        draft.mkdir()
        train_generations([generation.name for generation in recipe.generations], draft, progress)
        assert _is_complete(draft, recipe)
        _publish(draft, target, recipe, scratch)


def _publish(draft: Path, target: Path, recipe: Recipe, scratch: Path) -> None:
    """Rename the draft to `target`, unless another process was faster; damaged checkpoints there are replaced."""
    try:
        draft.replace(target)
    except OSError:
        if _is_complete(target, recipe):
            return
        target.replace(scratch / "damaged")
        draft.replace(target)


def train_generations(names: list[str], draft: Path, progress: Callable[[str], None]) -> None:
    """Train generations side by side, a process each, into `draft`.

    OSError where one cannot write its files, RuntimeError where one fails otherwise.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        trainings = [stack.enter_context(_training(name, draft, log)) for name in names]
        readers = [threading.Thread(target=_forward_lines, args=(one.stdout, progress)) for one in trainings]
        for reader in readers:
            reader.start()
        codes = [one.wait() for one in trainings]
        for reader in readers:
            reader.join()
        if any(codes):
            log.seek(0)
            output = log.read()
            if CANNOT_WRITE in codes:
                raise OSError(next(line for line in reversed(output.splitlines()) if line.startswith(WRITING)))
            raise RuntimeError(f"training the demo checkpoints failed, exit codes {codes}:\n{output[-4000:]}")


def _forward_lines(lines: IO[str] | None, progress: Callable[[str], None]) -> None:
    assert lines is not None
    for line in lines:
        progress(line.rstrip("\n"))


@contextmanager
def _training(name: str, draft: Path, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """Run one training process; at the end of the block it is killed, if it still runs."""
    process = subprocess.Popen(  # noqa: S603  a module of this package
        module_command("psych_ray.demo.train", name, draft),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=module_environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
