"""The entry point: a command, overrides, an exit code. Heavy libraries load only once the command line makes sense."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from psych_ray import __version__
from psych_ray.cli.output import READER_LEFT, ReaderLeftError, watch_readers
from psych_ray.ending import ENDING, INTERRUPTED, INTERRUPTED_LINE, end_process
from psych_ray.errors import ConfigError, PsychRayError

_CFG = "--cfg"
_CONFIG_DIR = "--config-dir"
_COMPLETION = "completion"
_CANDIDATES = (_COMPLETION, "candidates", "--")
"""What a shell asks, followed by the words of its command line."""
COMMANDS = {
    "sweep": "score what is missing, then report",
    "plan": "what would run, on what, how long, at what price; starts nothing",
    "status": "what is committed, what is missing",
    "report": "statistics, figures and page from the parts",
    "check": "self-check of checkpoints",
    "verify": "every part against the log, its checksum and its sources",
    "compact": "few large files from many parts",
    "track": "Weights & Biases rebuilt from the parts",
}

USAGE = f"""psych-ray {__version__}: find out which language models behave like people

usage: psych-ray COMMAND [OVERRIDE ...]
       psych-ray COMMAND --help              all settings that a command uses, with their defaults, and examples
       psych-ray COMMAND [OVERRIDE ...] --cfg
                                             print the configuration that results, and do nothing else
       psych-ray completion bash|zsh|fish    print what makes a shell complete commands, overrides and values:
                                             eval "$(psych-ray completion bash)" in ~/.bashrc

commands
{chr(10).join(f"  {name:<8} {what}" for name, what in COMMANDS.items())}

overrides (Hydra's grammar; every one has a default, and `psych-ray sweep` alone runs the demo)
  experiment=nll_by_size|misalignment|generations|domains|accuracy|chat|persona|centaur|paper
                                           checkpoints, conditions and transcripts of one of the study's findings
  checkpoints=demo|local|hub|qwen3|llama3|olmo3|qwen_generations|centaur|paper
      checkpoints.paths=[DIR,...]          for local: directories in the hub's layout
      checkpoints.ids=[ORG/NAME,...]       for hub: any of its checkpoints, ORG/NAME@REVISION for a revision
      checkpoints.only=[GLOB,...]          keep some
      checkpoints.references=[NAME,...]    chance, frequencies, rescorla_wagner; [] for none
  transcripts=demo|psych201|psych101|files
      transcripts.path=PATH                for files: .jsonl, .jsonl.zip, .parquet, or a folder of studies
      transcripts.dataset=test|discrete_test|full
                                           for psych201 and psych101: which of the hub's data sets
      transcripts.collection=psych101|psych201
                                           keep the studies that came with it
      transcripts.studies=[GLOB,...]       keep some
      transcripts.limit=N                  the first N participants of each study
      transcripts.sample=N transcripts.seed=S
                                           N participants of each study, drawn at random
      transcripts.sample_fraction=F        at most this part of each study, drawn at random
      transcripts.normalise=psych201|none  contributed studies as the hub's Psych-201 holds them, or as they are
      transcripts.on_error=stop|skip       what a transcript, or archive, that cannot be used does
  conditions=[plain]
  scoring.dtype=float32|bfloat16           scoring.cut=tokens|characters   scoring.cut_at=N
  cluster=local|existing                   cluster.address=ADDRESS
      cluster.nodes=N cluster.gpus=N cluster.gpu_memory_gb=GB
                                           for plan: a cluster that is not running
  plan.picture=PATH                        for plan: who runs when, .html or .png
  plan.all=true                            for plan: each of many checkpoints, not only by generation
  results.root=PATH_OR_URI                 a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER
  tracking=console|wandb                   tracking.mode=offline|online
  study.domains=FILE                       for report: domains of studies, beside those of Psych-201
  report.root=PATH
  repair=true                              for verify: drop what is bad; the next sweep scores it again
  --config-dir DIR                         DIR/checkpoints/mine.yaml is checkpoints=mine

examples
  psych-ray sweep
  psych-ray sweep checkpoints=local checkpoints.paths=[models/A,models/B] transcripts=files \\
      transcripts.path=psych-201 transcripts.limit=10 results.root=results
  psych-ray status results.root=results
  psych-ray plan experiment=persona cluster.nodes=4 cluster.gpus=8 cluster.gpu_memory_gb=80

exit codes: 0 complete, 1 error, 2 bad configuration, 3 some transcripts could not be scored, 130 interrupted,
141 nobody reads the output any more, as of `psych-ray status | head -1`
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    told = _tell(arguments)
    if told is not None:
        return told
    with ENDING.signals():
        try:
            exit_code = _run(arguments[0], arguments[1:])
        except PsychRayError as error:
            exit_code = error.exit_code
            if not ENDING.is_asked:
                print(f"psych-ray: {_one_line(error)}", file=sys.stderr)  # noqa: T201
        except BaseException:
            if not ENDING.is_asked:
                raise
            exit_code = INTERRUPTED  # whatever the signal led to
        if ENDING.is_asked:
            end_process(INTERRUPTED_LINE, INTERRUPTED)  # here, as a further signal would find no handler later
        if ENDING.skips_clean_up:
            end_process(None, exit_code)
        return exit_code


def run_and_exit() -> NoReturn:
    """Run the command of this process, which ends where nobody reads its output any more; a sweep goes on without.

    After one that used a bucket the interpreter is not shut down: threads of obstore that still run then aborted the
    process in 2 of 26 runs of `verify`, after everything was done and printed.
    """
    watch_readers(goes_on=sys.argv[1:2] == ["sweep"])
    try:
        exit_code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except ReaderLeftError:
        exit_code = READER_LEFT
    if "obstore" in sys.modules or ENDING.skips_clean_up:
        end_process(None, exit_code)
    sys.exit(exit_code)


def _tell(arguments: Sequence[str]) -> int | None:
    """Print what needs no configuration: help, version, candidates; None where that was not asked for."""
    if tuple(arguments[:3]) == _CANDIDATES:
        return _print_candidates(arguments[3:])
    if len(arguments) > 1 and arguments[0] in COMMANDS and {"-h", "--help"} & set(arguments):
        from psych_ray.cli.command_help import command_help

        print(command_help(arguments[0], COMMANDS[arguments[0]]), end="")  # noqa: T201
        return 0
    if not arguments or {"-h", "--help", "help"} & set(arguments):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] == "--version":
        print(__version__)  # noqa: T201
        return 0
    return None


def _one_line(error: PsychRayError) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())


def _config_directory(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --config-dir, which may stand anywhere, and what is left."""
    overrides, directory = list(arguments), None
    for at, one in enumerate(overrides):
        if one == _CONFIG_DIR and at + 1 == len(overrides):
            raise ConfigError(f"{_CONFIG_DIR} needs a directory: {_CONFIG_DIR} DIR")
        if one == _CONFIG_DIR:
            directory = overrides[at + 1]
            return directory, overrides[:at] + overrides[at + 2 :]
        if one.startswith(f"{_CONFIG_DIR}="):
            return one.partition("=")[2], overrides[:at] + overrides[at + 1 :]
    return directory, overrides


def _print_candidates(words: Sequence[str]) -> int:
    """Nothing where anything is wrong: what is printed appears in the middle of a user's command line."""
    with suppress(Exception):
        from psych_ray.cli.completion import candidates

        print("".join(f"{one}\n" for one in candidates(words, COMMANDS)), end="")  # noqa: T201
    return 0


def _print_completion(shells: Sequence[str]) -> int:
    from psych_ray.cli.completion_scripts import SCRIPTS

    if len(shells) != 1 or shells[0] not in SCRIPTS:
        raise ConfigError(f"psych-ray {_COMPLETION}: name one shell, {', '.join(SCRIPTS)}")
    print(SCRIPTS[shells[0]], end="")  # noqa: T201
    return 0


def _run(command: str, overrides: Sequence[str]) -> int:
    if command == _COMPLETION:
        return _print_completion(overrides)
    if command not in COMMANDS:
        raise ConfigError(f"no command {command!r}; there is {', '.join(COMMANDS)}; see psych-ray --help")
    from psych_ray.cli.compose import as_yaml, load_config

    directory, overrides = _config_directory(overrides)
    config = load_config([each for each in overrides if each != _CFG], directory=directory)
    if config.repair and command != "verify":
        raise ConfigError(f"repair=true is for psych-ray verify, not for {command}")
    if _CFG in overrides:
        print(as_yaml(config), end="")  # noqa: T201
        return 0
    exit_code: int = import_module("psych_ray.cli.commands").COMMANDS[command](config)
    return exit_code


if __name__ == "__main__":
    run_and_exit()
