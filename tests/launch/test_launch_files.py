"""The files of launch/ and docker/: schemas of what reads them, shell scripts, overrides, tokens, no secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from psych_ray.cli.compose import load_config
from psych_ray.config import ClusterKind, Config

ROOT = Path(__file__).resolve().parents[2]
LAUNCH, DOCKER = ROOT / "launch", ROOT / "docker"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch"), *DOCKER.rglob("*.sh")])
YAMLS = sorted([*LAUNCH.rglob("*.yaml"), *DOCKER.rglob("*.yaml")])
STARTS_RAY = [
    LAUNCH / name
    for name in ("slurm/sweep.sbatch", "kuberay/rayjob.yaml", "skypilot/sweep.yaml", "ray-up/aws.yaml",
                 "ray-up/gcp.yaml", "ssh/sweep.sh")
] + [DOCKER / "compose.yaml"]  # fmt: skip
SWEEPS = [path for path in STARTS_RAY if path.parent.name != "ray-up"] + [LAUNCH / "ray-up/sweep.sh"]
SECRETS = {
    "a key of AWS": r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    "a token of the hub": r"hf_[A-Za-z0-9]{20,}",
    "a token of GitHub": r"gh[pousr]_[A-Za-z0-9]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key of Weights & Biases": r"WANDB_API_KEY['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9]{8,}",
    "a secret of AWS": r"(?i)secret_access_key['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9/+]{8,}",
    "a token of Ray": r"RAY_AUTH_TOKEN['\"]?\s*[:=]\s*['\"]?[0-9a-fA-F]{8,}",
    "a password": r"(?i)password['\"]?\s*[:=]\s*['\"]?\w{4,}",
}


def program(name: str) -> str:
    """A linter of the extra `dev`; skips the test without it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it is part of the extra dev")
    return found


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_shellcheck_finds_nothing(script):
    run = subprocess.run([program("shellcheck"), script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


def test_shellcheck_finds_nothing_in_what_skypilot_runs(tmp_path):
    task = load(LAUNCH / "skypilot/sweep.yaml")
    for part in ("setup", "run"):
        (tmp_path / part).write_text("#!/bin/bash\n" + task[part])
        run = subprocess.run([program("shellcheck"), tmp_path / part], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", YAMLS, ids=names(YAMLS))
def test_yaml_has_no_key_twice(path):
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}: {keys}"
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(), Loader), dict)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_rays_cluster_launcher_takes_the_file(cloud):
    util = pytest.importorskip("ray.autoscaler._private.util")
    prepared = util.prepare_config(load(LAUNCH / f"ray-up/{cloud}.yaml"))
    util.validate_config(prepared)
    workers = prepared["available_node_types"]["spot"]
    assert (workers["min_workers"], workers["max_workers"]) == (0, prepared["max_workers"])
    head = prepared["available_node_types"]["head"]
    assert head["resources"]["CPU"] == 0
    market = {"aws": "InstanceMarketOptions", "gcp": "scheduling"}[cloud]
    assert market in workers["node_config"]
    assert market not in head["node_config"], "the head is on demand"
    asked = re.search(r"RESOURCES:-'(.*)'}", (LAUNCH / "ray-up/sweep.sh").read_text())
    assert asked
    assert set(yaml.safe_load(asked[1])) == set(workers["resources"])
    with pytest.raises(jsonschema.ValidationError):
        util.validate_config(prepared | {"file_mount": {}})


def kuberay_schema(fields: dict[str, dict[str, str]], name: str) -> dict[str, Any]:
    """JSON schema of one of KubeRay's types, which allows no other field."""

    def schema_of(kind: str) -> dict[str, Any]:
        if kind.startswith("@"):
            return kuberay_schema(fields, kind[1:])
        if kind.startswith("[]"):
            return {"type": "array", "minItems": 1, "items": kuberay_schema(fields, kind[2:])}
        return {"type": "object", "additionalProperties": {"type": "string"}} if kind == "strings" else {"type": kind}

    return {
        "type": "object", "additionalProperties": False,
        "required": [field[:-1] for field in fields[name] if field.endswith("!")],
        "properties": {field.rstrip("!"): schema_of(kind) for field, kind in fields[name].items()},
    }  # fmt: skip


def test_kuberay_knows_every_field_of_the_job():
    schema = kuberay_schema(load(Path(__file__).with_name("kuberay_fields.yaml")), "RayJob")
    job = load(LAUNCH / "kuberay/rayjob.yaml")
    jsonschema.validate(job, schema)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        jsonschema.validate(job, schema)


def pod_templates() -> list[dict[str, Any]]:
    cluster = load(LAUNCH / "kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_kubernetes_knows_every_field_of_the_pods():
    validator = pytest.importorskip(
        "kubernetes_validate", reason="the package kubernetes-validate (108 MB) is not here"
    )
    for template in pod_templates():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        validator.validate(pod, "1.33", strict=True)
        pod["spec"]["containers"][0]["volumesMounts"] = []
        with pytest.raises(validator.ValidationError):
            validator.validate(pod, "1.33", strict=True)


def test_the_jobs_head_is_on_demand_and_its_workers_have_more_time_than_a_drain_takes():
    head, worker = (template["spec"] for template in pod_templates())
    assert "spot" in str(worker["nodeSelector"])
    assert "spot" not in str(head)
    (container,) = worker["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    drain_s = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert worker["terminationGracePeriodSeconds"] >= drain_s + 30
    job = load(LAUNCH / "kuberay/rayjob.yaml")["spec"]
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "no replica runs there"
    assert not set("'\"$|&;<>`\n") & set(job["entrypoint"]), "it is read by two shells"
    import ray

    assert job["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_slurm_signals_early_enough_for_the_sweep_to_end():
    from psych_ray.ending import CLEAN_UP_S, PATIENCE_S

    script = (LAUNCH / "slurm/sweep.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script, re.MULTILINE))
    kind, seconds = options["signal"].split("@")
    assert kind == "B:USR1"
    assert int(seconds) >= 60 + max(PATIENCE_S.values()) + CLEAN_UP_S + 60, "Slurm is up to 60 s late, Ray ends after"
    assert "requeue" in options
    assert options["gpus-per-node"] == "4"
    assert options["ntasks-per-node"] == "1"


OVERRIDE = re.compile(rf"(?<![\w.])(?:{'|'.join(Config.__dataclass_fields__)})(?:\.\w+)?=[^\s()]+")


@pytest.mark.parametrize("path", SWEEPS, ids=names(SWEEPS))
def test_the_overrides_compose_to_a_sweep_on_the_cluster(path):
    found = OVERRIDE.findall(path.read_text())
    overrides = list(dict.fromkeys(one.replace('"', "") for one in found if "…" not in one))
    config = load_config([re.sub(r"\$\w+", "10.0.0.1:6379", one) for one in overrides])
    assert config.cluster.kind == ClusterKind.existing
    assert any(one.startswith("cluster.address=") for one in overrides)
    assert config.results.root.startswith(("s3://", "/", "10.0.0.1")), "the same for all nodes"
    assert not config.checkpoints.allow_pickle
    assert not config.checkpoints.trust_remote_code
    assert all("." not in name and ":" not in name for name in config.conditions)


@pytest.mark.parametrize("path", STARTS_RAY, ids=names(STARTS_RAY))
def test_ray_asks_for_a_token_and_shows_its_dashboard_to_its_own_host(path):
    text = path.read_text()
    heads = len(re.findall(r"ray start --head|symmetric-run --address", text))
    if path.name == "rayjob.yaml":
        cluster = load(path)["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "psych-ray-token"}
        assert heads == 0
        return
    assert heads == 1
    assert text.count("--dashboard-host=127.0.0.1") == 1
    assert "0.0.0.0" not in text
    if path.parent.name == "ray-up":
        starts = [line for key in ("head", "worker") for line in load(path)[f"{key}_start_ray_commands"]]
        starts = [line for line in starts if "ray start" in line]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token" in line for line in starts)
        assert "~/.ray/auth_token" in load(path)["file_mounts"]
        assert "chmod 600 ~/.ray/auth_token" in load(path)["setup_commands"][0]
    elif path.name == "compose.yaml":
        for service in load(path)["services"].values():
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
            assert "ports" not in service
    else:
        assert text.index("RAY_AUTH_MODE=token") < text.index("ray start" if "ray start" in text else "symmetric-run")


@pytest.mark.parametrize("kind", SECRETS)
def test_no_file_holds_a_secret(kind):
    files = [path for folder in ("launch", "docker", "conf") for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = {path: path.read_text() for path in files if "__pycache__" not in path.parts}
    assert len(texts) > 20
    assert [str(path) for path, text in texts.items() if re.search(SECRETS[kind], text)] == []


def test_the_patterns_find_secrets():
    examples = [
        "AKIA" + "A" * 16, "hf_" + "a" * 30, "ghp_" + "a" * 30, "-----BEGIN RSA PRIVATE KEY",
        "WANDB_API_KEY=0123456789", "aws_secret_access_key: 'abcdefgh'", "RAY_AUTH_TOKEN=0123456789abcdef",
        "password = geheim",
    ]  # fmt: skip
    assert all(re.search(pattern, text) for pattern, text in zip(SECRETS.values(), examples, strict=True))
