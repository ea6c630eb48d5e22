"""Chat templates that loop, recurse or explode: an error in one line, soon, without the memory they ask for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from small_tokenizers import LLAMA_LIKE, small_tokenizer

from psych_ray.errors import ConditionError, ReplicaLostError
from psych_ray.scoring.tokens import template_process
from psych_ray.scoring.tokens.chat_templates import TokenizerTemplate
from psych_ray.scoring.tokens.template_process import LimitError, TemplateProcess
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

TURNS = [{"role": "user", "content": "x"}]
TIME = r"^this checkpoint: its chat template takes more than 0\.3 s for a conversation; sweep it without chat$"
MEMORY = (
    r"^this checkpoint: its chat template takes more than 0\.1 GB of memory for a conversation; sweep it without chat$"
)
OUTPUT = r"^this checkpoint: its chat template writes more than 1,001,050 characters; sweep it without chat$"
MANY = "{% for i in range(100000) %}{% for j in range(100000) %}"
END = "{% endfor %}{% endfor %}"
ATTACKS = {
    "nested loops": (MANY + END, TIME),
    "a macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", TIME
    ),
    "one expression that never gives up the interpreter": ("{{ (10 ** 5000000) | string }}", TIME),
    "a repeated string": ("{{ 'a' * 10 ** 10 }}", MEMORY),
    "a printed width": ("{{ '%9999999999d' % 1 }}", MEMORY),
    "a centred string": ("{{ 'a' | center(10 ** 9) }}", MEMORY),
    "appending in loops": (MANY + "{{ 'a' * 10000 }}" + END, f"{MEMORY}|{TIME}"),
    "some megabytes": ("{{ 'a' * 2000000 }}", OUTPUT),
}  # fmt: skip


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    process = TemplateProcess(seconds=0.3, memory_bytes=100_000_000)
    yield process
    process.close()


def children() -> dict[int, psutil.Process]:
    """Processes that render templates for this one, also those of scorers of other tests that still live."""
    found = psutil.Process().children()
    return {one.pid: one for one in found if "template_child" in " ".join(one.cmdline())}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_that_exceeds_a_limit_is_an_error_of_its_checkpoint_under_this_condition(process, attack):
    source, says = ATTACKS[attack]
    with pytest.raises(ConditionError, match=says):
        TokenizerTemplate(small_tokenizer(source), process).render(TURNS, generation_prompt=True)


def test_endless_recursion_is_the_templates_own_error(process):
    template = TokenizerTemplate(small_tokenizer("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), process)
    with pytest.raises(ValueError, match=r"^maximum recursion depth exceeded"):
        template.render(TURNS, generation_prompt=True)


def test_a_template_that_loops_at_some_transcripts_only_is_no_fault_of_these(process):
    source = "{% if 'loop' in messages[0].content %}" + MANY + END + "{% endif %}" + LLAMA_LIKE
    template = TokenizerTemplate(small_tokenizer(source), process)
    chat = condition_named("chat")
    texts = ["Choose. <<A>>", "Choose in a loop. <<A>>", "Choose. <<B>>"]
    first, bad, last = (Transcript(study="s", experiment="e", participant="p", text=text) for text in texts)
    before = chat.render(first, template).text
    with pytest.raises(ConditionError, match=TIME):
        chat.render(bad, template)
    assert chat.render(last, template).text == before.replace("A<|eot|>", "B<|eot|>")


def test_threads_that_wait_for_a_template_are_told_what_the_first_of_them_met():
    class Slow:
        n_calls = 0

        def render(self, *_: object, **__: object) -> str:
            self.n_calls += 1
            time.sleep(0.3)
            raise LimitError("takes more than 0.3 s for a conversation")

    slow = Slow()
    template = TokenizerTemplate(small_tokenizer("x"), slow)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(template.render, TURNS, generation_prompt=True) for _ in range(4)]
    for one in waiting:
        with pytest.raises(ConditionError, match=TIME):
            one.result()
    assert slow.n_calls == 1
    with pytest.raises(ConditionError, match=TIME):
        template.render(TURNS, generation_prompt=True)
    assert slow.n_calls == 2


def test_a_process_that_is_stopped_or_killed_is_replaced(process, monkeypatch):
    monkeypatch.setattr(template_process, "_WAIT_FACTOR", 3)
    template = TokenizerTemplate(small_tokenizer("{{ messages[0].content }}"), process)
    process.close()
    others = children().keys()

    def child() -> psutil.Process:
        (found,) = [one for pid, one in children().items() if pid not in others]
        return found

    assert template.render(TURNS, generation_prompt=True) == "x"
    child().send_signal(signal.SIGSTOP)
    with pytest.raises(ReplicaLostError, match="does not answer"):
        template.render(TURNS, generation_prompt=True)
    assert template.render(TURNS, generation_prompt=True) == "x"
    child().kill()
    gc.collect()
    assert template.render([{"role": "user", "content": "\ud800 é\n"}], generation_prompt=True) == "\ud800 é\n"
    process.close()
    assert children().keys() <= others


KILLED = """
import os, signal
from psych_ray.scoring.tokens.template_process import TemplateProcess
process = TemplateProcess()
process.render("", [], {}, generation_prompt=False)
print(process._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_the_process_that_started_it():
    found = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr
    deadline = time.monotonic() + 10
    while is_alive(int(found.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_tokenizer_with_code_of_its_own_renders_itself():
    tokenizer = small_tokenizer("{{ messages[0].content }}")

    class Own(type(tokenizer)):
        def apply_chat_template(self, conversation, **options) -> str:
            if options["add_generation_prompt"]:
                raise ValueError("no\nprompt")
            return f"own {conversation[0]['content']} {os.getpid()}"

    tokenizer.__class__ = Own
    template = TokenizerTemplate(tokenizer)
    assert template.render(TURNS, generation_prompt=False) == f"own x {os.getpid()}"
    with pytest.raises(ValueError, match=r"^no$"):
        template.render(TURNS, generation_prompt=True)
