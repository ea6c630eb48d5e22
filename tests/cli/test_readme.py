"""The README's commands run as they stand, from a directory that looks as the README says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from psych_ray.transcripts.simulated import simulated_transcripts

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?P<note><!-- needs: [^>]*-->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def commands(language: str) -> list[str]:
    """Runnable blocks of a language; those that need what a test does not have are marked so in the README."""
    blocks = [m for m in BLOCK.finditer(README) if m["language"] == language and not m["note"]]
    if language == "python":
        return [m["code"] for m in blocks]
    return [line for m in blocks for line in m["code"].replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_checkpoint, byte_tokenizer_directory) -> Path:
    """A directory with models/A, models/B and psych-201/<study>/prompts.jsonl."""
    import json

    place = tmp_path_factory.mktemp("readme")
    (place / "models").mkdir()
    for name, architecture in (("A", "Llama"), ("B", "Qwen3")):
        tiny_checkpoint(architecture, byte_tokenizer_directory).rename(place / "models" / name)
    for transcript in simulated_transcripts(participants=3, seed=1):
        study = place / "psych-201" / transcript.study
        study.mkdir(parents=True, exist_ok=True)
        record = {"text": transcript.text, "experiment": "e", "participant": transcript.participant}
        with (study / "prompts.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    return place


@pytest.mark.ray
@pytest.mark.slow
def test_the_commands_of_a_real_run_work_in_order(place):
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = [line for line in commands("bash") if line.startswith("psych-ray")]
    assert [line.split()[1] for line in ran] == [
        "plan",
        "sweep",
        "status",
        "report",
        "verify",
        "compact",
        "check",
        "plan",
    ]
    for line in ran:
        run = subprocess.run(shlex.split(line), cwd=place, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
    assert "complete" in subprocess.run(
        ["psych-ray", "status", "results.root=results"], cwd=place, env=env, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    for name in ("report/index.html", "report/figures", "report/tables", "tracking", "sources", "responses"):
        assert (place / "results" / name).exists(), name
    table, notebook = (
        subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True).stdout
        for code in commands("python")
    )
    assert "nll" in table
    assert float(notebook.strip("[]\n")) > 0


def test_make_knows_the_commands_of_the_first_screen():
    made = [line.split("#")[0].split()[1] for line in commands("bash") if line.startswith("make ")]
    assert made == ["demo", "test"]
    for target in made:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_every_file_that_the_documents_name_is_there():
    folders = "|".join(path.name for path in (ROOT / "psych_ray").iterdir() if (path / "__init__.py").is_file())
    named = re.findall(rf"`((?:{folders})/[\w/]*(?:\.py)?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "psych_ray" / name).exists()] == []
    for document in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == []
