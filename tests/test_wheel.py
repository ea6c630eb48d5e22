"""The wheel carries all that the demo needs, and runs it from outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_configuration_templates_licence_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"psych_ray/{path.relative_to(ROOT)}" in names
    for path in (ROOT / "psych_ray/report/templates").iterdir():
        assert f"psych_ray/report/templates/{path.name}" in names
    for path in (ROOT / "psych_ray").rglob("*.yaml"):
        assert str(path.relative_to(ROOT)) in names
    assert "psych_ray/transcripts/psych201.yaml" in names
    assert "psych_ray/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} <= {
        "psych_ray",
        *(n.split("/")[0] for n in names if ".dist-info" in n),
    }
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_and_finds_what_was_planted(wheel, tmp_path):
    site, place = tmp_path / "site", tmp_path / "elsewhere"
    place.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import psych_ray; print(psych_ray.__file__)"]
    assert str(site) in subprocess.run(where, cwd=place, env=env, capture_output=True, text=True, check=True).stdout
    run = subprocess.run(
        [sys.executable, "-m", "psych_ray.cli.main", "sweep"],
        cwd=place, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "outputs/report/index.html" in run.stdout
    assert "offline runs" in run.stdout

    tables = place / "outputs/report/tables"
    nll = {row["checkpoint"]: row["nll"] for row in pl.read_csv(tables / "by_checkpoint.csv").iter_rows(named=True)}
    d = {row["post"]: row["d"] for row in pl.read_csv(tables / "misalignment.csv").iter_rows(named=True)}
    assert len(nll) == 10
    assert nll["rescorla_wagner"] < nll["frequencies"] < nll["chance"]
    for generation in ("demo-1", "demo-2"):
        base, instruct, reasoning = (nll[f"{generation}-{stage}"] for stage in ("base", "instruct", "reasoning"))
        assert nll["simulator"] < base < instruct - 0.01
        assert instruct < reasoning - 0.01
        assert 0.03 < d[f"{generation}-instruct"] < d[f"{generation}-reasoning"]
    for stage in ("instruct", "reasoning"):
        assert d[f"demo-2-{stage}"] > d[f"demo-1-{stage}"] + 0.05
