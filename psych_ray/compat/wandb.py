"""Private and undocumented interfaces of wandb (0.31.0). tests/test_compat_wandb.py fails where one of them is gone.

wandb is imported inside the functions that use it.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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


def wandb_reference(artifact: wandb.Artifact, name: str, uri: str, digest: str, size: int | None) -> None:
    """Add the address of a file to an artifact, without looking at it; `size` in bytes.

    `add_reference` is documented, but lists the folders of an address with file://, and takes no digest and no size:
    without `checksum` it hashes the address. `ArtifactManifestEntry` and `manifest.add_entry`, which it calls, are not.
    """
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    from wandb.sdk.lib.paths import LogicalPath

    hashed = b64encode(hashlib.md5(digest.encode(), usedforsecurity=False).digest()).decode()
    artifact.manifest.add_entry(ArtifactManifestEntry(path=LogicalPath(name), ref=uri, digest=hashed, size=size or 0))


@contextmanager
def wandb_data_in(directory: Path) -> Iterator[None]:
    """Within the context, wandb keeps the files of artifacts below this directory until they are uploaded.

    Otherwise those of offline runs are below the user's home, where another machine that uploads them does not find
    them. WANDB_DATA_DIR is documented, but there is no setting for it, and it is read at each use.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory)
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR", None)
