"""Demo checkpoints on disk: made once a machine, whole or not at all. Trains nothing itself and imports no torch.

Each generation is a process of its own (`psych_ray.demo.train`), not a worker of a pool: that needs nothing of the
asking script's main module, works from inside a Ray driver, and ends with the asker whatever happens to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from psych_ray.demo.recipe import CARD, RECIPE, Recipe

FILES = (CARD, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_STALE_AFTER_S = 3600


def _say_nothing(_: str) -> None:
    pass


def demo_checkpoints(root: Path, *, progress: Callable[[str], None] = _say_nothing) -> list[Path]:
    """Directories of the six demo checkpoints, oldest generation and base first, under `root`; made when missing.

    Making them takes about a minute on two cores; `progress` gets a line for each that is done. Only ever appears
    under `root` as a whole; processes that make them at the same time do not disturb each other.
    """
    home = root / f"demo-{RECIPE.fingerprint()}"
    if not _whole(home, RECIPE):
        _make(home, RECIPE, progress)
    return [home / checkpoint for checkpoint in RECIPE.checkpoint_ids()]


def _whole(home: Path, recipe: Recipe) -> bool:
    return all((home / checkpoint / file).is_file() for checkpoint in recipe.checkpoint_ids() for file in FILES)


def _make(home: Path, recipe: Recipe, progress: Callable[[str], None]) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(home.parent)
    with _temporary_sibling(home) as draft:
        progress(f"making demo checkpoints in {home}, once")
        _train_side_by_side([generation.name for generation in recipe.generations], draft, progress)
        assert _whole(draft, recipe)
        _put_in_place(draft, home, recipe)


@contextmanager
def _temporary_sibling(home: Path) -> Iterator[Path]:
    draft = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, home: Path, recipe: Recipe) -> None:
    """Rename; another process that was first wins, and what somebody damaged makes room."""
    draft.chmod(0o755)
    try:
        draft.replace(home)
    except OSError:
        if _whole(home, recipe):
            return
        with _temporary_sibling(home) as aside:
            home.replace(aside)
            draft.replace(home)


def _remove_stale(root: Path) -> None:
    """Drafts of processes that were killed outright."""
    for draft in root.glob(".demo-*"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(draft, ignore_errors=True)


def _train_side_by_side(names: list[str], draft: Path, progress: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        trainings = [stack.enter_context(_training(name, draft, log)) for name in names]
        readers = [threading.Thread(target=_pass_on, args=(one.stdout, progress)) for one in trainings]
        for reader in readers:
            reader.start()
        codes = [one.wait() for one in trainings]
        for reader in readers:
            reader.join()
        if any(codes):
            log.seek(0)
            raise RuntimeError(f"training the demo checkpoints failed, exit codes {codes}:\n{log.read()[-4000:]}")


def _pass_on(lines: IO[str] | None, progress: Callable[[str], None]) -> None:
    assert lines is not None
    for line in lines:
        progress(line.rstrip("\n"))


@contextmanager
def _training(name: str, draft: Path, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """One training process; however the block is left, it is gone afterwards."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "psych_ray.demo.train", name, str(draft)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
