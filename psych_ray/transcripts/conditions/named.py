"""From a name in the configuration to a condition: the built-in ones, and a user's own by a dotted path.

Independent of what a condition does. A wrong name is a ConfigError.
"""

from __future__ import annotations

import importlib

from psych_ray.errors import ConfigError, first_line
from psych_ray.transcripts.conditions.authors import AsAuthors, ChatAsAuthors
from psych_ray.transcripts.conditions.chat import Chat
from psych_ray.transcripts.conditions.history import HistoryOnly, ZeroShot
from psych_ray.transcripts.conditions.persona import Persona
from psych_ray.transcripts.conditions.plain import Discrete, Plain
from psych_ray.transcripts.conditions.rendering import Condition

_CONDITIONS: dict[str, Condition] = {
    condition.name: condition for condition in (Plain(), Chat(), Persona(), Discrete(), ZeroShot(), HistoryOnly())
}
_AS_AUTHORS: dict[str, Condition] = {
    condition.name: condition
    for condition in (AsAuthors(Plain()), ChatAsAuthors(), AsAuthors(Persona()), AsAuthors(Discrete()))
}


def condition_names() -> tuple[str, ...]:
    """The names of the built-in conditions."""
    return tuple(_CONDITIONS)


def condition_named(name: str, *, parity: bool = False) -> Condition:
    """Find the condition of a name, or at a dotted path; `parity`: as the study's authors carried it out.

    ConfigError where there is no such condition, and with `parity` where the authors have no rules for it.
    """
    if parity:
        if name not in _AS_AUTHORS:
            raise ConfigError(
                f"conditions=[{name}]: the study's authors have no rules for it; scoring.parity=true supports "
                f"{', '.join(_AS_AUTHORS)}"
            )
        return _AS_AUTHORS[name]
    if name in _CONDITIONS:
        return _CONDITIONS[name]
    if "." in name or ":" in name:
        return _imported(name)
    raise ConfigError(
        f"conditions=[{name}]: no such condition; there is {', '.join(_CONDITIONS)}, or a dotted path to your own"
    )


def _imported(path: str) -> Condition:
    module_name, _, attribute = path.rpartition(":" if ":" in path else ".")
    if not module_name or not attribute or module_name.startswith("."):
        raise ConfigError(f"conditions=[{path}]: write a dotted path to a condition as package.module:attribute")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        if isinstance(found, type) and issubclass(found, Condition):
            found = found()
    except Exception as error:
        raise ConfigError(
            f"conditions=[{path}]: cannot be imported ({first_line(error)}); its module must be on PYTHONPATH where "
            "the sweep runs"
        ) from error
    if not isinstance(found, Condition):
        raise ConfigError(
            f"conditions=[{path}]: is not a condition; derive it from psych_ray.transcripts.conditions.Condition"
        )
    if not isinstance(getattr(found, "name", None), str):
        raise ConfigError(f"conditions=[{path}]: has no name; give its class a string `name`")
    return found
