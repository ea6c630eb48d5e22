"""launch/with_nodes.py waits for nodes, asks the autoscaler for them, and ends as its command does."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "launch/with_nodes.py"
NODE = {"CPU": 8.0, "GPU": 4.0}


@pytest.fixture
def ray_of(monkeypatch):
    """The module, on a cluster whose nodes are told one list after the other; what the autoscaler was asked for."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def make(*answers: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
        spec = importlib.util.spec_from_file_location("with_nodes", PATH)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        told, asked = list(answers), []
        monkeypatch.setattr(module.ray, "init", lambda **_: None)
        monkeypatch.setattr(module.ray, "nodes", lambda: told.pop(0) if len(told) > 1 else told[0])
        monkeypatch.setattr(module, "request_resources", lambda bundles: asked.append(bundles))
        monkeypatch.setattr(module, "EVERY_S", 0.01)
        return module, asked

    yield make
    for number, handler in handlers.items():
        signal.signal(number, handler)


def nodes(*cpus: float) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": {"CPU": n} if n else {}} for n in cpus]


def call(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["with_nodes.py", *arguments])
    return int(module.main())


def test_the_command_runs_when_nodes_with_cpu_cores_are_there_and_the_autoscaler_is_released(
    ray_of, monkeypatch, capfd
):
    dead = [{"Alive": False, "Resources": {"CPU": 8.0}}]
    module, asked = ray_of(nodes(0), nodes(0, 8) + dead, nodes(0, 8, 8))
    code = call(module, monkeypatch, "--nodes=2", f"--ask-for={json.dumps(NODE)}", "--", "sh", "-c", "echo ran; exit 5")
    assert code == 5
    assert asked == [[NODE, NODE], []]
    assert capfd.readouterr() == ("ran\n", "2 of 2 nodes\n")


def test_it_runs_on_those_that_came_in_time_and_not_without_any(ray_of, monkeypatch, capfd):
    module, asked = ray_of(nodes(0, 8))
    assert call(module, monkeypatch, "--nodes=2", "--wait=0.1", "--", "true") == 0
    module, asked = ray_of(nodes(0))
    assert (
        call(module, monkeypatch, "--nodes=2", "--wait=0.1", f"--ask-for={json.dumps(NODE)}", "--", "echo", "ran") == 1
    )
    assert asked[-1] == []
    assert "no node with a CPU core joined within 0.1 s" in capfd.readouterr().err


def test_an_accepted_exit_code_counts_as_success_and_others_do_not(ray_of, monkeypatch):
    module, _ = ray_of(nodes(8))
    assert [call(module, monkeypatch, "--accept=3", "--", "sh", "-c", f"exit {code}") for code in (0, 1, 3, 130)] == [
        0, 1, 0, 130,
    ]  # fmt: skip


def test_a_signal_is_passed_on_and_waited_for(ray_of, monkeypatch):
    module, _ = ray_of(nodes(8))
    ended = "trap 'sleep 0.2; exit 7' INT; kill -INT $PPID; while :; do sleep 0.05; done"
    assert call(module, monkeypatch, "--", "sh", "-c", ended) == 7
    assert call(module, monkeypatch, "--", "sh", "-c", "kill -KILL $$") == 137
