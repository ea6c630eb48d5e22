"""The command line: what parses, what is refused, with which exit code and how many lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from psych_ray.cli.compose import load_config
from psych_ray.cli.main import COMMANDS, main
from psych_ray.cli.shipped import conf_directory
from psych_ray.config import Config, Reference
from psych_ray.errors import ConfigError

NEEDED = {
    "checkpoints=local": ["checkpoints.paths=[A,B]"],
    "checkpoints=hub": ["checkpoints.ids=[lab/a]"],
    "transcripts=files": ["transcripts.path=x"],
}
OF_FINDINGS = ("nll_by_size", "misalignment", "generations", "domains", "accuracy", "chat", "persona")


def choices() -> list[str]:
    return sorted(f"{path.parent.name}={path.stem}" for path in conf_directory().glob("*/*.yaml"))


def test_the_promised_choices_are_there():
    assert set(choices()) == {
        *(
            f"checkpoints={c}"
            for c in ["demo", "local", "hub", "qwen3", "llama3", "olmo3", "qwen_generations", "centaur", "paper"]
        ),
        *(f"checkpoints={c}" for c in OF_FINDINGS),
        *(f"experiment={e}" for e in [*OF_FINDINGS, "centaur", "paper"]),
        *(f"transcripts={t}" for t in ["demo", "psych201", "psych101", "files"]),
        *(f"cluster={c}" for c in ["local", "existing"]),
        *(f"tracking={t}" for t in ["console", "wandb"]),
    }


@pytest.mark.parametrize("choice", choices())
def test_every_shipped_yaml_composes(choice):
    assert isinstance(load_config([choice, *NEEDED.get(choice, [])]), Config)


@pytest.mark.parametrize("choice", [one for one in choices() if one.startswith("checkpoints=")])
def test_every_choice_of_checkpoints_comes_with_references(choice):
    both = [Reference.chance, Reference.frequencies]
    more = [Reference.rescorla_wagner] if choice == "checkpoints=demo" else []
    assert load_config([choice, *NEEDED.get(choice, [])]).checkpoints.references == both + more
    assert load_config([choice, *NEEDED.get(choice, []), "checkpoints.references=[]"]).checkpoints.references == []


@pytest.mark.parametrize(
    "override",
    [
        "checkpoints.references=[chance,rescorla_wagner]",
        "checkpoints.only=[Qwen*,*base]",
        "transcripts.studies=[a*]",
        "transcripts.limit=3",
        "conditions=[plain,chat,persona]",
        *(f"scoring.engine={engine}" for engine in ("auto", "transformers", "deepspeed_tp", "deepspeed_zero")),
        "scoring.dtype=float32",
        "scoring.dtype=bfloat16",
        "scoring.cut=tokens",
        "scoring.cut=characters",
        "scoring.cut_at=4096",
        "scoring.parity=true",
        "cluster=existing cluster.address=10.0.0.1:6379",
        "results.root=s3://bucket/run",
        "results.root=gs://bucket/run",
        "tracking.mode=online",
        "report.root=elsewhere",
    ],
)
def test_the_promised_overrides_parse(override):
    load_config(override.split())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("scoring.dtype=float16", "expected one of [float32, bfloat16]"),
        ("scoring.dtyp=float32", "'dtyp' not in 'ScoringConfig'"),
        ("checkpoints=qwen", "there is accuracy, centaur, chat, demo"),
        ("checkpoints.references=[chanse]", "expected one of [chance, frequencies, rescorla_wagner]"),
        ("checkpoints.references=[chance,chance]", "checkpoints.references=['chance', 'chance']: one is named twice"),
        ("checkpoints=local", "checkpoints=local needs checkpoints.paths"),
        ("checkpoints=hub", "checkpoints=hub needs checkpoints.ids=[ORG/NAME,...]"),
        ("checkpoints.ids=[a/b/c]", "checkpoints.ids: a/b/c must be ORG/NAME or ORG/NAME@REVISION"),
        ("checkpoints.ids=[lab/a@]", "checkpoints.ids: lab/a@ must be ORG/NAME"),
        ("transcripts=files", "transcripts=files needs transcripts.path"),
        ("transcripts.limit=0", "transcripts.limit=0"),
        ("conditions=[]", "conditions=[]"),
        ("conditions=[plain", "no viable alternative"),
        ("results.root=a[b]", "write a value with special characters in quotes, for example results.root='a[b]'"),
        ("results.root=~/a", "write a value with special characters in quotes, for example results.root='a[b]'"),
        ("nonsense", "nonsense"),
        ("checkpoints=[[]]", "can only concatenate str"),
        *(
            (f"{name}={value}", f"{name}={value}: must be")
            for name in ("scoring.unit_seconds", "cluster.stall_seconds", "cluster.memory_gb", "cluster.gpu_memory_gb")
            for value in ("nan", "inf", "-inf", "-1.0", "0.0")
        ),
        *(
            (f"{name}=-1", f"{name}=-1: must be")
            for name in (
                *("transcripts.limit", "transcripts.participants", "transcripts.seed", "scoring.cut_at"),
                *("cluster.nodes", "cluster.cpus", "cluster.gpus", "cluster.ranks", "cluster.cpus_per_replica"),
                "cluster.attempts",
            )
        ),
        ("scoring.cut_at=2147483648", "must be at most 2147483647"),
        ("transcripts.limit=nan", "nan"),
        *(
            (f"{name}={value}", f"{name}: is empty")
            for name in (
                *("results.root", "report.root", "tracking.root", "tracking.project", "tracking.name"),
                *("transcripts.path", "checkpoints.cache", "scoring.nvme"),
            )
            for value in ("''", "'  '")
        ),
        ("results.root=", "results.root: is empty"),
        ("checkpoints.paths=[a,'']", "checkpoints.paths[1]: is empty"),
        ("conditions=['']", "conditions[0]: is empty"),
        ("results.root='a\tb'", "does not print"),
        (f"results.root=x/{'a' * 300}/y", "a name in it has more than 255 bytes; shorten it"),
        (f"results.root={'a/' * 2000}", "has more than 3,500 bytes; shorten it"),
        ("results.root='~nobody-of-this-name/x'", "there is no such user"),
        ("checkpoints.cards=[{id: ''}]", "a card's id is ''"),
        ("checkpoints.cards=[{id: a, size_b: nan}]", "size_b=nan"),
        ("checkpoints.cards=[{id: a, size_b: -1}]", "size_b=-1"),
    ],
)
def test_a_wrong_override_is_one_line_and_exit_code_2(override, says, capsys):
    assert main(["sweep", override]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("psych-ray: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["swep"], 2, "there is sweep, plan"),
        (["compact"], 1, "no responses there yet"),
        (["verify"], 1, "no sweep there yet"),
        (["verify", "repair=true", "results.root=/nowhere"], 1, "no sweep there yet"),
        (["sweep", "repair=true"], 2, "repair=true is for psych-ray verify, not for sweep"),
        (["sweep", "conditions=[plane]"], 2, "no such condition"),
        (["sweep", "conditions=[zero_shot]", "scoring.parity=true"], 2, "zero_shot"),
        (["sweep", "results.root=s3://bucket/run"], 1, "s3://bucket/run"),
        (["sweep", "checkpoints=local", "checkpoints.paths=[/nowhere]"], 1, "/nowhere: no config.json there"),
        (["status", "results.root=/nowhere"], 1, "no sweep there yet"),
        (["report", "results.root=/nowhere"], 1, "no responses there yet"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_instant_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert main([]) == 2
    heavy = {"torch", "ray", "transformers", "hydra", "polars", "wandb", "numpy"}
    code = f"import sys; from psych_ray.cli.main import main; main(['--help']); print({heavy!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")


def test_the_configuration_is_checked_before_heavy_libraries_load(tmp_path):
    code = (
        "import sys; from psych_ray.cli.main import main; code = main(['sweep', 'scoring.dtype=x']);"
        "print(code, {'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout == "2 set()\n"


def test_a_configuration_error_keeps_its_cause():
    with pytest.raises(ConfigError) as caught:
        load_config(["scoring.dtype=x"])
    assert caught.value.__cause__ is not None
    assert Path(conf_directory() / "config.yaml").is_file()


def test_directories_beside_a_root_in_a_home_are_in_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(["results.root='~/results'", "tracking.root='~/tracking'"])
    assert config.report_root() == tmp_path / "results/report"
    assert config.tracking_root() == tmp_path / "tracking"


def test_names_of_files_reach_the_terminal_without_escape_codes(capsys):
    from psych_ray.cli.show import print_line, say

    for show in (print_line, say):
        show("tables:  a\x1b[31m\udcff\nb")
    assert capsys.readouterr() == ("tables:  a [31m  b\n",) * 2
