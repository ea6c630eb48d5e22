r"""Conditions: how a transcript is presented to a checkpoint. `conditions=[NAME,…]` takes names and dotted paths.

A condition of your own is a class in a module that every node of the sweep can import:

    from dataclasses import replace
    from psych_ray.transcripts.conditions import Condition, condition_named

    class Reminded(Condition):
        name = "reminded"

        def render(self, transcript, template):
            plain = condition_named("plain").render(transcript, template)
            added = "You take part in an experiment.\n\n"
            n = len(added)
            return replace(plain, text=added + plain.text, starts=plain.starts + n, ends=plain.ends + n)

If the module is `reminders.py`, `conditions=[plain,reminders:Reminded]` selects it.
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
