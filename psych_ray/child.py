"""How modules of this package are run as processes of their own: with the same imports, whatever the working directory.

`python -m` by itself imports first from the working directory, which may hold anything. Depends on nothing else of
psych_ray.
"""

from __future__ import annotations

import os
import sys


def module_command(module: str, *arguments: object) -> list[str]:
    """Command line that runs a module of this package; with `module_environment`."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def module_environment(**more: str) -> dict[str, str]:
    """This process's environment, with the paths from which this process imports, and `more` variables."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more
