"""From overrides in Hydra's grammar to a plain `Config`. Whatever is wrong with them becomes one line."""

from __future__ import annotations

from collections.abc import Sequence

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


def load_config(overrides: Sequence[str]) -> Config:
    """Compose the configuration. ConfigError names the override that is wrong and what it may be."""
    ConfigStore.instance().store(name="schema", node=Config)
    try:
        with initialize_config_dir(str(conf_directory()), version_base="1.3"):
            composed = compose("config", overrides=list(overrides))
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException, *_RAISED_BY_HYDRA) as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(config, Config)
    return config


def as_yaml(config: Config) -> str:
    """All settings with their values."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


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
