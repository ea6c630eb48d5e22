"""From overrides in Hydra's grammar to a plain `Config`. Whatever is wrong with them becomes one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psych_ray.cli.shipped import conf_directory
from psych_ray.config import Config
from psych_ray.errors import ConfigError, first_line

# For some overrides, such as checkpoints=[[]], beside its own and OmegaConf's; ValueError is also the schema's.
_RAISED_BY_HYDRA = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


def load_config(overrides: Sequence[str], *, directory: str | None = None) -> Config:
    """Compose the configuration. ConfigError names the override that is wrong and what it may be.

    `directory`: a user's own YAML files, in folders as those of `conf/`: checkpoints/mine.yaml is checkpoints=mine.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    own = [] if directory is None else [f"hydra.searchpath=['file://{_own_directory(directory)}']"]
    try:
        with initialize_config_dir(str(conf_directory()), version_base="1.3"):
            composed = compose("config", overrides=[*overrides, *own])
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException, *_RAISED_BY_HYDRA) as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(config, Config)
    return config


def as_yaml(config: Config) -> str:
    """All settings with their values."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _own_directory(directory: str) -> Path:
    """ConfigError where it is none, and where a file in it would be hidden by one of the package's."""
    path = Path(directory).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(f"--config-dir={directory}: is no directory; name one with folders such as checkpoints/")
    if "'" in str(path):
        raise ConfigError(f"--config-dir={directory}: has a quote in its path; name another")
    shipped = conf_directory()
    for file in sorted(path.glob("*/*.yaml")):
        name = file.relative_to(path)
        if (shipped / name).is_file():
            raise ConfigError(f"{file}: the package has {name} already; give the file another name")
    return path


def _one_line(error: BaseException) -> str:
    """Join the first lines of an error and of its causes: Hydra has the location in one, the reason in another."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        line = first_line(cause)
        if not any(line in other for other in lines):
            lines.append(line)
        cause = cause.__cause__
    if isinstance(error, OverrideParseException):
        lines.append("write a value with special characters in quotes, for example results.root='a[b]'")
    if isinstance(error, MissingConfigException) and error.options:
        lines.append(f"there is {', '.join(error.options)}")
    return ": ".join(lines)
