"""Commands on a Ray cluster that runs already: as a job of it, killed and submitted again, and with other packages."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support_ray_nodes import RayCluster, ray_cluster
from support_sweeps import command, n_parts, table

from psych_ray import __version__
from psych_ray.cli.main import main
from psych_ray.transcripts.simulated import simulated_transcripts

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OTHER_TRANSFORMERS = """
from importlib import metadata
installed = metadata.version
metadata.version = lambda name: "4.0.1" if name == "transformers" else installed(name)
"""
WITHOUT_PSYCH_RAY = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "psych_ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
"""
PARTICIPANTS = 10
QUICK_CHECKS = {"RAY_health_check_period_ms": "200", "RAY_health_check_timeout_ms": "1000"}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, byte_tokenizer_directory) -> Path:
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        cluster.start(2, **QUICK_CHECKS)
        yield cluster


def sweep(cluster: RayCluster, checkpoint: Path, root: Path, *more: str) -> list[str]:
    return command([checkpoint], root, "cluster=existing", f"report.root={cluster.directory}/report", *more)


def test_a_job_sweeps_and_continues_when_it_is_killed_and_submitted_again(cluster, checkpoint, tmp_path):
    few = f"transcripts.participants={PARTICIPANTS}"
    line = shlex.join(sweep(cluster, checkpoint, tmp_path, "cluster.address=auto", few))
    with cluster.submit("first", line) as first:
        deadline = time.monotonic() + 90
        while n_parts(tmp_path) < 3:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        (driver,) = [p for p in cluster.nodes[0].processes() if p.cmdline()[1:3] == ["-m", "psych_ray.cli.main"]]
        driver.kill()
        out, err = first.communicate(timeout=60)
    assert out.startswith("137\n"), (out, err)
    before = n_parts(tmp_path)
    with cluster.submit("second", line) as second:
        out, err = second.communicate(timeout=120)
    assert out.startswith("0\n"), (out, err)
    assert "Traceback" not in out
    assert n_parts(tmp_path) > before, "the kill came too late to disturb anything"
    found = table(tmp_path)
    expected = {
        (t.id, r.number) for t in simulated_transcripts(participants=PARTICIPANTS, seed=201) for r in t.responses
    }
    assert found.height == len(expected)
    assert set(found.select("transcript", "response").iter_rows()) == expected


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (OTHER_TRANSFORMERS, "has transformers 4.0.1 ({} here): install the same versions on all nodes"),
        (WITHOUT_PSYCH_RAY, f"has no psych_ray: install psych_ray {__version__} there"),
    ],
    ids=["another transformers", "no psych_ray"],
)
def test_a_node_with_other_packages_is_refused_in_one_line(cluster, checkpoint, tmp_path, patch, said):
    from importlib.metadata import version

    (tmp_path / "sitecustomize.py").write_text(patch)
    node = cluster.start(PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    try:
        arguments = sweep(cluster, checkpoint, tmp_path / "root", f"cluster.address={cluster.address}")
        arguments[3] = "plan"
        done = subprocess.run(
            arguments,
            env=cluster.environment,
            cwd=tmp_path.parent,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        node.kill()
    told = f"psych-ray: cluster.address={cluster.address}: node 127.0.0.1 {said.format(version('transformers'))}\n"
    assert (done.returncode, done.stderr) == (2, told)
    deadline = time.monotonic() + 30
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in node.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("by_environment", [False, True])
def test_ray_client_is_refused_with_what_to_do(checkpoint, tmp_path, monkeypatch, capfd, by_environment):
    address = "auto" if by_environment else "ray://head:10001"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001" if by_environment else "127.0.0.1:1")
    arguments = command([checkpoint], tmp_path, "cluster=existing", f"cluster.address={address}")
    assert main(arguments[3:]) == 2
    _, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"psych-ray: cluster.address={address}")
    assert "ray://head:10001" in line
    assert "`ray job submit --address=http://HEAD:8265 -- psych-ray sweep cluster=existing" in line
    assert line.endswith("or run it on the head node with cluster.address=auto")
