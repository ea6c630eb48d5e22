"""Private and undocumented interfaces of wandb (0.31.0). tests/test_compat_wandb.py fails where one of them is gone.

wandb is imported inside the functions that use it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

WANDB_PRIVATE_SETTINGS: Mapping[str, Any] = {"x_disable_stats": True, "x_save_requirements": False}
"""Settings that begin with x_ are internal. Load and packages of the driver's machine did not make the scores."""


def wandb_settings(values: Mapping[str, Any]) -> wandb.Settings:
    """Those of the settings that this version of wandb has, and that the environment does not set.

    In wandb, settings of the program have precedence over those of the environment, and a setting that it does not
    have is an error. Not documented: that `Settings` is a pydantic model, and the variables WANDB_NAME of the setting
    `name` and WANDB__NAME of `x_name`. `stop_fn` is a setting that the environment cannot set.
    """
    import wandb

    def variable(name: str) -> str:
        return f"WANDB__{name[2:].upper()}" if name.startswith("x_") else f"WANDB_{name.upper()}"

    fields = wandb.Settings.model_fields
    return wandb.Settings(
        **{name: value for name, value in values.items() if name in fields and variable(name) not in os.environ}
    )


def restart_wandb_service() -> None:
    """End the process in which wandb keeps its runs; the next `wandb.init` starts another. Does not raise.

    `teardown` is documented as the end of a session, not as a restart. It is the only interface that releases the id
    of a run whose `init` failed, and that keeps wandb from raising at exit when the process has died.
    """
    import wandb

    with suppress(Exception, SystemExit):
        wandb.teardown()


def wandb_offline_directory(run: wandb.Run) -> Path:
    """The directory of all offline runs, which `wandb sync` takes. The layout above `run.dir` is not documented."""
    return Path(run.dir).parents[1]
