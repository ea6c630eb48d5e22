"""Chat templates of checkpoints, in the form that conditions use. Does not depend on transcripts.

Templates are rendered with thinking off, where they have the switch, and with one fixed date. transformers gives
templates a function for the current date; a macro of the same name, before the template, replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import first_line

# The default date of Llama 3's templates, a Friday, in the format codes that templates use.
_DATE = {
    "%d": "26",
    "%-d": "26",
    "%e": "26",
    "%m": "07",
    "%b": "Jul",
    "%B": "July",
    "%Y": "2024",
    "%y": "24",
    "%A": "Friday",
    "%a": "Fri",
    "%H": "12",
    "%I": "12",
    "%p": "PM",
    "%M": "00",
    "%S": "00",
    "%F": "2024-07-26",
    "%T": "12:00:00",
}
_REPLACED = "".join(f"|replace('{code}', '{value}')" for code, value in _DATE.items())
# Templates are compiled with trim_blocks, which removes this line break, so that the output is unchanged.
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{ format" + _REPLACED + " }}{%- endmacro %}\n"


class TokenizerTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._source = _FIXED_CLOCK + tokenizer.get_chat_template()
        self.name = str(tokenizer.name_or_path) or "this checkpoint"
        self.begin_of_text = _begin_of_text(tokenizer)

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed.

        ValueError, with the template's message, where it raises an error.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                enable_thinking=False,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(first_line(error)) from error
        assert isinstance(text, str)
        return text


def template_of(tokenizer: PreTrainedTokenizerBase) -> TokenizerTemplate | None:
    """Chat template of a checkpoint; None where its tokenizer has none."""
    return TokenizerTemplate(tokenizer) if tokenizer.chat_template else None


def _begin_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Begin-of-text token, if the tokenizer adds it before every text; else empty."""
    bos = tokenizer.bos_token
    first = tokenizer("a")["input_ids"][:1]
    return bos if isinstance(bos, str) and first == [tokenizer.bos_token_id] else ""
