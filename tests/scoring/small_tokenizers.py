"""Small tokenizers and chat templates, for the tests of alignment."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# As the templates of Llama 3: writes begin-of-text itself, prints the date, strips every turn.
LLAMA_LIKE = """\
{%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "never" %}
{{- bos_token + "<|head|>system<|body|>\\n\\nToday Date: " + today + "<|eot|>" }}
{%- for message in messages %}
    {{- "<|head|>" + message["role"] + "<|body|>\\n\\n" + message["content"] | trim + "<|eot|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|head|>assistant<|body|>\\n\\n" }}
{%- endif %}
"""


def byte_tokenizer(*merged: str, bos: bool = False, trim: bool = False) -> PreTrainedTokenizerFast:
    """Every byte a token, and the given strings as tokens of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: k for k, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(merged))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    if bos:
        s, e = fast.convert_tokens_to_ids(["<s>", "</s>"])
        tokenizer = fast.backend_tokenizer
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=trim),
                processors.TemplateProcessing(single="<s> $0 </s>", special_tokens=[("<s>", s), ("</s>", e)]),
            ]
        )
    elif trim:
        fast.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return fast


def small_tokenizer(template: str | None, *, bos: bool = True) -> PreTrainedTokenizerFast:
    """Every byte a token, a few special tokens, and with `bos` a begin-of-text before every text."""
    vocab = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", "<|head|>", "<|body|>", "<|eot|>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $0", special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eot|>")
    fast.chat_template = template
    return fast
