"""What the files of a checkpoint may not decide: which code runs, and which weights are read.

Only the configuration allows code and pickles. Its globs are compared with the ids of its own cards and with the paths
of directories, never with an id that a file in the directory gives. Does not import torch and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from psych_ray.config import CheckpointsConfig
from psych_ray.errors import CheckpointError

SETTING = "checkpoints.trust_remote_code"
# transformers takes an implementation with a slash for a repository of compiled code, fetches it and runs it.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


@dataclass(frozen=True)
class Trust:
    """What the user's configuration allows."""

    allow_pickle: bool = False
    code: tuple[str, ...] = ()
    """Globs of ids and directories."""

    @classmethod
    def of(cls, config: CheckpointsConfig) -> Trust:
        """The settings of a configuration."""
        return cls(config.allow_pickle, tuple(config.trust_remote_code))

    def runs_code_of(self, checkpoint: str | Path) -> bool:
        """Whether the code of a hub id, or of a directory by its absolute path, may run."""
        if isinstance(checkpoint, str):
            return any(fnmatchcase(checkpoint, glob) for glob in self.code)
        path = checkpoint.resolve()
        return any(fnmatchcase(str(path), glob) or Path(glob).expanduser().resolve() == path for glob in self.code)


def require_no_hidden_code(config: Mapping[str, Any], where: Path, *, code_allowed: bool) -> None:
    """Raise CheckpointError where a config.json names code or weights that are not in its own directory.

    Code in the directory itself (`auto_map`) is refused by transformers unless it is allowed.
    """
    for key, value in _entries(config):
        if key in _IMPLEMENTATIONS and any("/" in one for one in _strings(value)):
            raise CheckpointError(
                f"{where}: {key} names code of the hub ({_short(value)}), which is never run; remove that line"
            )
        if key == "transformers_weights" and value is not None:
            raise CheckpointError(
                f"{where}: transformers_weights names other weights ({_short(value)}) than those that are checked; "
                "remove that line"
            )
        if key == "auto_map" and code_allowed and any("--" in one for one in _strings(value)):
            raise CheckpointError(
                f"{where}: auto_map names code of another repository ({_short(value)}), which {SETTING} does not "
                "allow; copy that code into the directory, and name it there"
            )


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, also of the configurations inside it."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, Mapping):
            yield from _entries(value)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _short(value: object) -> str:
    return next(_strings(value), str(value))[:80]
