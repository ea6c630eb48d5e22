"""Chat templates of checkpoints, in the form that conditions use. Does not depend on transcripts.

Templates are rendered with thinking off, where they have the switch, and with one fixed date. transformers gives
templates a function for the current date; a macro of the same name, before the template, replaces it. They run in a
process of their own (`template_process`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import ConditionError, first_line
from psych_ray.scoring.tokens.template_process import SHARED_PROCESS, LimitError, TemplateProcess

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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, process: TemplateProcess = SHARED_PROCESS) -> None:
        # Code of a tokenizer's own, which the user allowed to run; in this process, as the rest of it.
        is_own = type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template
        self._own = tokenizer if is_own else None
        self._process = process
        self._lock = threading.Lock()
        self._exceeded: LimitError | None = None
        """The last one."""
        self._special_tokens = tokenizer.special_tokens_map
        self._source = _FIXED_CLOCK + tokenizer.get_chat_template()
        self.name = str(tokenizer.name_or_path) or "this checkpoint"
        self.begin_of_text = _begin_of_text(tokenizer)

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed.

        ValueError, with the template's message, where it raises an error. ConditionError where it takes more time or
        memory, or writes more, than one rendering may: that is a fault of the template, not of these turns, so nothing
        is rendered with it again, and the checkpoint is scored under conditions that do not use it.
        """
        options = {**self._special_tokens, "enable_thinking": False}
        try:
            if self._own is not None:
                return _rendered_by(self._own, self._source, turns, generation_prompt=generation_prompt)
            return self._render(turns, options, generation_prompt=generation_prompt)
        except LimitError as error:
            raise ConditionError(f"{self.name}: its chat template {error}; sweep it without chat") from error

    def _render(
        self, turns: Sequence[Mapping[str, str]], options: Mapping[str, object], *, generation_prompt: bool
    ) -> str:
        """LimitError also where another thread met a limit while this one waited: it would take as long again."""
        before = self._exceeded
        with self._lock:
            if self._exceeded is not None and self._exceeded is not before:
                raise LimitError(str(self._exceeded))
            try:
                return self._process.render(self._source, turns, options, generation_prompt=generation_prompt)
            except LimitError as error:
                self._exceeded = error
                raise


def _rendered_by(
    tokenizer: PreTrainedTokenizerBase, source: str, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=source,
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
