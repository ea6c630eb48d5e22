"""What shells complete: by what is printed for them, and in real shells where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psych_ray.cli.completion import candidates
from psych_ray.cli.completion_scripts import SCRIPTS
from psych_ray.cli.main import COMMANDS, main
from psych_ray.cli.settings import settings_by_group

SETTINGS = [one for own in settings_by_group().values() for one in own]


def completed(line: str) -> list[str]:
    return candidates(line.split(" "), COMMANDS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [*(f"{one} " for one in COMMANDS), "completion ", "--help ", "--version "]),
        ("pl", ["plan "]),
        ("completion ", ["bash ", "zsh ", "fish "]),
        ("swep checkpoints=", []),
        ("status ", ["results.root="]),
        ("verify re", ["results.root=", "results.lease_seconds=", "repair="]),
        ("sweep che", ["checkpoints=", "checkpoints."]),
        ("sweep scoring.d", ["scoring.dtype=", "scoring.device="]),
        ("sweep scoring.dtype=float32 scoring.d", ["scoring.device="]),
        ("sweep checkpoints=q", ["checkpoints=qwen3 ", "checkpoints=qwen_generations "]),
        ("plan experiment=p", ["experiment=paper ", "experiment=persona "]),
        ("plan scoring.dtype=", ["scoring.dtype=float32 ", "scoring.dtype=bfloat16 "]),
        ("verify repair=", ["repair=true ", "repair=false "]),
        ("sweep transcripts.limit=", []),
        ("sweep conditions=p", []),
        ("sweep conditions=[p", ["conditions=[plain", "conditions=[persona"]),
        ("sweep conditions=[chat,plain", ["conditions=[chat,plain] ", "conditions=[chat,plain,"]),
        ("sweep conditions=[chat] ", None),
        ("sweep checkpoints.references=[chance,f", ["checkpoints.references=[chance,frequencies"]),
        ("sweep checkpoints.references=[chance,c", []),
        ("sweep checkpoints.only=[Qwen/Qwen3-4B-B", ["checkpoints.only=[Qwen/Qwen3-4B-Base"]),
        ("report report.figures=[doma", ["report.figures=[domains"]),
        ("plan --c", ["--cfg ", "--config-dir "]),
    ],
)
def test_commands_then_names_then_values(line, expected):
    found = completed(line)
    assert found == expected if expected is not None else len(found) > 5


def listed_values(one):
    return {each for each in one.values.strip("[]").removesuffix(",...").split("|") if each.islower()} - {"null"}


@pytest.mark.parametrize("one", [*filter(listed_values, SETTINGS)], ids=lambda one: one.name)
def test_every_value_that_is_listed_is_offered(one):
    listed = listed_values(one)
    before = f"{one.name}=[" if one.values.startswith("[") else f"{one.name}="
    assert listed <= {found.strip().removeprefix(before) for found in completed(f"sweep {before}")}


def test_files_and_choices_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/A", "models/B", "models/with space", "models/.hidden", "mine/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/file").write_text("")
    for name in ("ours", "ou$(touch x)", "ou s", "ou\n"):
        (tmp_path / f"mine/checkpoints/{name}.yaml").write_text("")
    assert completed("sweep checkpoints.paths=[m") == ["checkpoints.paths=[mine/", "checkpoints.paths=[models/"]
    assert completed("sweep checkpoints.paths=[models/A,models/") == [
        f"checkpoints.paths=[models/A,models/{name}" for name in ("B/", "file")
    ]
    assert completed(f"sweep results.root={tmp_path}/mo") == [f"results.root={tmp_path}/models/"]
    assert completed("sweep transcripts.path=./models/f") == ["transcripts.path=./models/file "]
    assert completed("sweep --config-dir m") == ["mine/", "models/"]
    for given in ("--config-dir mine", "--config-dir=mine"):
        assert completed(f"sweep {given} checkpoints=o") == ["checkpoints=olmo3 ", "checkpoints=ours "]
    assert completed("sweep checkpoints=ou") == []


def test_nothing_is_printed_where_anything_is_wrong(capsys):
    for words in (["sweep", "results.root=/nowhere/x"], ["sweep", "checkpoints.only=[", "\0"], ["sweep", "a=\0/"]):
        assert main(["completion", "candidates", "--", *words]) == 0
        assert capsys.readouterr() == ("", "")
    assert main(["completion", "candidates", "--", "plan", "--help"]) == 0
    assert capsys.readouterr().out == "--help \n"
    assert main(["completion"]) == main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err.count("name one shell, bash, zsh, fish\n") == 2


@pytest.mark.parametrize("word", ["", "checkpoints=", "conditions=[", "checkpoints.only=["])
def test_it_answers_without_heavy_libraries(word):
    heavy = {"torch", "ray", "transformers", "hydra", "omegaconf", "polars", "pyarrow", "wandb", "rich"}
    arguments = ["completion", "candidates", "--", "sweep", word]
    code = f"import sys; from psych_ray.cli.main import main; main({arguments!r}); print({heavy!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")
    assert run.stdout.count("\n") > 3


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> dict[str, str]:
    """An environment with psych-ray in its PATH."""
    folder = tmp_path_factory.mktemp("bin")
    script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m psych_ray.cli.main "$@"\n'
    (folder / "psych-ray").write_text(script)
    (folder / "psych-ray").chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "xterm", "PS1": "$ "}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_valid(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def typed(command: list[str], environment: dict[str, str], keys: list[str], expected: str) -> str:
    """What a shell in a terminal shows after these keys, until it shows `expected` or ten seconds have passed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], command, environment)
    shown = ""
    try:
        for key in keys:
            os.write(terminal, key.encode())
        end = time.monotonic() + 10
        while expected not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65_536).decode(errors="replace").replace("\a", "")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
    return shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("psych-ray pl", "psych-ray plan "),
        ("psych-ray sweep checkpoints=q\t_", "checkpoints=qwen_generations "),
        ("psych-ray sweep conditions=[plain,ch", "conditions=[plain,chat"),
        ("psych-ray plan scoring.dt\tb", "scoring.dtype=bfloat16 "),
    ],
)
def test_the_tabulator_completes_in_bash(program, line, expected):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    keys = ['eval "$(psych-ray completion bash)"\n', f"{line}\t"]
    assert expected in typed(["bash", "--norc", "-i"], program, keys, expected)


def test_fish_gets_the_candidates(program):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    asked = "psych-ray completion fish | source; complete -C 'psych-ray sweep checkpoints=q'"
    run = subprocess.run(["fish", "-c", asked], env=program, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["checkpoints=qwen3", "checkpoints=qwen_generations"]


def test_help_names_completion(capsys):
    main(["--help"])
    assert "psych-ray completion bash|zsh|fish" in capsys.readouterr().out
    assert "psych-ray completion" in Path("README.md").resolve().read_text("utf-8")
