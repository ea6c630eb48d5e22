"""Check that the packages of this interpreter are those of a constraints file, and PyTorch's build the one asked for.

    python check_installed.py constraints.txt cpu|cuda

Prints what differs; exit code 1 where anything does. Part of the image's build, and of the tests. Needs the standard
library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

OURS = {"psych-ray", "pip", "setuptools", "wheel"}
"""Built here, or part of a virtual environment: not pinned."""
OF_TORCH = ("nvidia-", "cuda-", "triton")
"""Come with PyTorch's CUDA build, which pins each of them itself."""


def normalised(name: str) -> str:
    """Name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    """Versions of a constraints file, by normalised name."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {normalised(name): one for name, _, one in (line.partition("==") for line in lines if line)}


def differences(installed: Mapping[str, str], pins: Mapping[str, str]) -> list[str]:
    """One line for each distribution that is not pinned, or has another version; local parts (+cpu) do not count."""
    lines = []
    for name, found in sorted(installed.items()):
        if name in OURS or name.startswith(OF_TORCH):
            continue
        if name not in pins:
            lines.append(f"{name}=={found} is not in the constraints")
        elif found.partition("+")[0] != pins[name].partition("+")[0]:
            lines.append(f"{name}=={found} is {pins[name]} in the constraints")
    return lines


def wrong_build(variant: str) -> list[str]:
    """A line where PyTorch is missing, or was built for something else."""
    try:
        build = "cpu" if "+cpu" in version("torch") else "cuda"
    except PackageNotFoundError:
        return ["torch is missing"]
    return [] if build == variant else [f"torch {version('torch')} is not a build for {variant}"]


def main() -> int:
    """Compare, print, tell by the exit code."""
    pins, variant = pinned(Path(sys.argv[1]).read_text()), sys.argv[2]
    lines = differences({normalised(d.name): d.version for d in distributions()}, pins) + wrong_build(variant)
    print(*lines or ["all packages are those of the constraints"], sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
