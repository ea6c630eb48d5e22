r"""Conditions: how a transcript is put before a checkpoint. `conditions=[NAME,…]` takes a name, or a dotted path.

A condition of one's own stands in a module that can be imported wherever the sweep runs:

    from dataclasses import replace
    from psych_ray.transcripts.conditions import Condition, condition_named

    class Reminded(Condition):
        name = "reminded"

        def render(self, transcript, template):
            plain = condition_named("plain").render(transcript, template)
            told = "You take part in an experiment.\n\n"
            return replace(plain, text=told + plain.text, starts=plain.starts + len(told), ends=plain.ends + len(told))

In `reminders.py` it is asked for by `conditions=[plain,reminders:Reminded]`.
"""

from psych_ray.transcripts.conditions.authors import AsAuthors, ChatAsAuthors
from psych_ray.transcripts.conditions.chat import Chat
from psych_ray.transcripts.conditions.history import HistoryOnly, ZeroShot
from psych_ray.transcripts.conditions.named import condition_named
from psych_ray.transcripts.conditions.persona import Persona
from psych_ray.transcripts.conditions.plain import Discrete, Plain
from psych_ray.transcripts.conditions.rendering import (
    ChatTemplate,
    Condition,
    Rendering,
    response_spans,
    truncate_characters,
)

__all__ = [
    "AsAuthors",
    "Chat",
    "ChatAsAuthors",
    "ChatTemplate",
    "Condition",
    "Discrete",
    "HistoryOnly",
    "Persona",
    "Plain",
    "Rendering",
    "ZeroShot",
    "condition_named",
    "response_spans",
    "truncate_characters",
]
