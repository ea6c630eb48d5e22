"""docker/: the Dockerfile is linted and installs what constraints.txt pins; the compose file says what it should."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from test_launch_files import program

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


@pytest.fixture(scope="module")
def check() -> Any:
    spec = importlib.util.spec_from_file_location("check_installed", ROOT / "docker/check_installed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hadolint_finds_nothing():
    run = subprocess.run([program("hadolint"), ROOT / "docker/Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_every_install_is_constrained_and_the_base_has_a_version():
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line and not line.startswith("#")]
    assert len(installs) == 3
    assert all("-c constraints.txt" in line for line in installs)
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base
    assert re.fullmatch(r"python:3\.1[123]-slim-\w+", base[1])
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    assert not re.search(r"https?://", DOCKERFILE), "no index is named"


def test_the_image_runs_as_another_user_than_root_and_is_watched():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert last.index("USER ") > last.index("apt-get")
    assert "HEALTHCHECK" in last
    assert set(re.search(r"VOLUME \[(.*)\]", last)[1].replace('"', "").split(", ")) >= {"/results", "/weights", "/data"}


def needed(requirement: str, found: dict[str, str], extras: frozenset[str] = frozenset()) -> None:
    """Add what an installed distribution needs, with all that follows; what is not installed here ends the search."""
    parsed = Requirement(requirement)
    if parsed.marker and not any(parsed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
        return
    key = f"{parsed.name}[{','.join(sorted(parsed.extras))}]"
    if key in found:
        return
    try:
        found[key] = version(parsed.name)
    except PackageNotFoundError:
        found[key] = ""
        return
    for more in requires(parsed.name) or []:
        needed(more, found, frozenset(parsed.extras))


def test_all_that_the_image_installs_is_pinned_and_the_pins_are_what_is_installed_here(check):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found: dict[str, str] = {}
    for requirement in [*project["dependencies"], *extras["aws"], *extras["cluster"], *extras["gcp"]]:
        needed(requirement, found)
    pins = check.pinned(CONSTRAINTS)
    installed = {check.normalised(key.partition("[")[0]): one for key, one in found.items()}
    assert len(installed) > 80
    unpinned = [name for name in installed if name not in pins and name not in check.OURS]
    assert [name for name in unpinned if not name.startswith(check.OF_TORCH)] == []
    assert check.differences({name: one for name, one in installed.items() if one}, pins) == []


def test_the_check_within_the_build_tells_what_differs(check, tmp_path):
    pins = check.pinned("# why\nTorch==2.13.0\nflask-cors==6.0.5  # of moto\n")
    assert pins == {"torch": "2.13.0", "flask-cors": "6.0.5"}
    well = {"torch": "2.13.0+cpu", "flask-cors": "6.0.5", "pip": "1", "nvidia-nccl-cu13": "2", "triton": "3"}
    assert check.differences(well, pins) == []
    assert check.differences({"torch": "2.12.0", "six": "1"}, pins) == [
        "six==1 is not in the constraints", "torch==2.12.0 is 2.13.0 in the constraints",
    ]  # fmt: skip
    (tmp_path / "none.txt").write_text("")
    run = subprocess.run(
        [sys.executable, ROOT / "docker/check_installed.py", tmp_path / "none.txt", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert f"numpy=={version('numpy')} is not in the constraints" in run.stdout


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored, "nothing that is not named gets into the image"
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    ]  # fmt: skip
    assert len(copied) >= 8
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in ignored] == []


def test_the_services_share_a_token_and_publish_nothing():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    assert set(compose["services"]) == {"head", "worker"}
    for service in compose["services"].values():
        assert "ports" not in service
        assert service["secrets"] == ["ray_token"]
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "no-new-privileges:true" in service["security_opt"]
        assert int(service["stop_grace_period"].rstrip("s")) >= 30 + 30, "Ray drains for 30 s"
    head = compose["services"]["head"]
    assert f"--address={head['hostname']}:6379" in head["healthcheck"]["test"]
    assert f"--address={head['hostname']}:6379" in compose["services"]["worker"]["command"]
    cuda = yaml.safe_load((ROOT / "docker/compose.cuda.yaml").read_text())
    assert set(cuda["services"]) == set(compose["services"])
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/docker/token" in ignored
