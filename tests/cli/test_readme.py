"""The commands of the README and of docs/ run as they stand, from a directory that looks as the README says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.dataset
import pytest

from psych_ray.config import FINDINGS
from psych_ray.transcripts.simulated import simulated_transcripts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<note><!-- needs: [^>]*-->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    """Runnable blocks of a language, each once; those that need what a test does not have are marked so."""
    found = [match for document in DOCUMENTS for match in BLOCK.finditer(document.read_text())]
    return list(dict.fromkeys(match["code"] for match in found if match["language"] == language and not match["note"]))


def commands() -> list[str]:
    """Runnable lines of the shell, each once, the README's first."""
    lines = [line for code in blocks("bash") for line in code.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


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
    ran = [line for line in commands() if line.startswith("psych-ray")]
    assert [line.split()[1] for line in ran] == [
        "plan",
        "sweep",
        "status",
        "report",
        "verify",
        "compact",
        "plan",
        "check",
    ]
    for line in ran:
        if " compact " in line:
            # What R reads: Arrow's data sets find all files, and leave out names that begin with `_`.
            n_rows = pyarrow.dataset.dataset(place / "results/responses", partitioning="hive").count_rows()
        run = subprocess.run(shlex.split(line), cwd=place, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
    assert "complete" in subprocess.run(
        ["psych-ray", "status", "results.root=results"], cwd=place, env=env, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    for name in ("report/index.html", "report/figures", "report/tables", "tracking", "sources", "responses"):
        assert (place / "results" / name).exists(), name
    with_polars, with_pandas, notebook = (
        subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True).stdout
        for code in blocks("python")
    )
    assert "nll" in with_polars
    assert "Name: nll" in with_pandas
    assert float(notebook.strip("[]\n")) > 0
    assert pl.scan_delta(str(place / "results/responses")).select(pl.len()).collect().item() == n_rows > 0


def test_every_line_of_the_shell_is_run_or_says_what_it_needs():
    assert [line for line in commands() if line.split()[0] not in {"psych-ray", "make"}] == []
    assert {match["language"] for document in DOCUMENTS for match in BLOCK.finditer(document.read_text())} <= {
        *("bash", "python", "r", "yaml")
    }
    assert blocks("r") == []


def test_make_knows_the_commands_of_the_first_screen():
    made = [line.split("#")[0].split()[1] for line in commands() if line.startswith("make ")]
    assert made == ["demo", "test"]
    for target in made:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_every_file_that_the_documents_name_is_there():
    folders = "|".join(path.name for path in (ROOT / "psych_ray").iterdir() if (path / "__init__.py").is_file())
    named = re.findall(rf"`((?:{folders})/[\w/]*(?:\.py)?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "psych_ray" / name).exists()] == []
    for document in (*DOCUMENTS, ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!http)([^)#]*)(#[^)]+)?\)", document.read_text())
        assert [link for link, _ in links if not (document.parent / link).exists()] == [], document
        for link, anchor in links:
            target = document.parent / link if link else document
            assert not anchor or anchor[1:] in anchors(target), f"{document}: {link}{anchor}"


def anchors(document: Path) -> set[str]:
    """Of its headings, as they are linked to."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_findings_has_all_of_them_and_names_tests_that_are_there():
    text = (ROOT / "docs/study.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(FINDINGS)
    tests = "".join(
        path.read_text() for folder in ("study", "report") for path in (ROOT / "tests" / folder).glob("*.py")
    )
    named = re.findall(r"`(test_\w+)`", text)
    assert len(set(named)) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
    files = re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)`", text)
    assert [name for name in files if not list((ROOT / "tests").glob(f"**/{name}"))] == []
