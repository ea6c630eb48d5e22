"""Chat templates of checkpoints, as conditions may use them. Knows tokenizers; what a conversation is, is not known.

A template gets what it may ask for: thinking off where it knows the switch, and one date for all time. transformers
gives templates the clock of the machine; a macro of the same name, before the template, takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import first_line

# The day that Llama 3's templates fall back to, in the format codes that templates use; a Friday.
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
# Its line break is taken out again (templates are compiled with trim_blocks), so that the template is left as it is.
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{ format" + _REPLACED + " }}{%- endmacro %}\n"


class TokenizerTemplate:
    """The chat template that comes with a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._source = _FIXED_CLOCK + tokenizer.get_chat_template()
        self.name = str(tokenizer.name_or_path) or "this checkpoint"
        self.begin_of_text = _begin_of_text(tokenizer)

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed.

        ValueError, with the template's own words, where it refuses them.
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
    """What the tokenizer puts before every text, if it is the token that it calls begin-of-text."""
    bos = tokenizer.bos_token
    first = tokenizer("a")["input_ids"][:1]
    return bos if isinstance(bos, str) and first == [tokenizer.bos_token_id] else ""
