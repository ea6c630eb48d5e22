"""The layout of `transcripts.path`: one contributed file, one study's folder, a folder of studies, or Parquet files.

It follows from names alone; no file is opened. A folder with more than one layout is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from psych_ray.config import DataSet, TranscriptsConfig, TranscriptSource
from psych_ray.transcripts.sources.archive import check_members
from psych_ray.transcripts.sources.columns import HUB_COLUMNS, PSYCH101_COLUMNS, read_hub, read_parquet
from psych_ray.transcripts.sources.errors import file_error, file_errors
from psych_ray.transcripts.sources.json_lines import read_json_lines
from psych_ray.transcripts.sources.origin import Origin
from psych_ray.transcripts.sources.selection import Selection

# The unpacked file comes first: where a study has both, it may have been edited.
_CONTRIBUTED = ("prompts.jsonl", "prompts.jsonl.zip")
_HUB = {
    (TranscriptSource.psych201, DataSet.test): "marcelbinz/Psych-201-test",
    (TranscriptSource.psych201, DataSet.discrete_test): "marcelbinz/Psych-201-discrete-test",
    (TranscriptSource.psych201, DataSet.full): "marcelbinz/Psych-201",
    (TranscriptSource.psych101, DataSet.test): "marcelbinz/Psych-101-test",
    (TranscriptSource.psych101, DataSet.full): "marcelbinz/Psych-101",
}


def origins(config: TranscriptsConfig, selection: Selection) -> Iterator[Origin]:
    """The files of the source in their order, without studies that are not selected."""
    if config.path is None:
        read = partial(read_hub, _HUB[config.source, config.dataset], needed=_needed(config))
        yield Origin(read=read, psych101=_psych101(config))
        return
    path = Path(config.path).expanduser()
    with file_errors(path):
        if not path.exists():
            raise file_error(path, "does not exist; check transcripts.path")
        found = list(_in_folder(path, config, selection) if path.is_dir() else [_of_file(path, config)])
    yield from found


def _in_folder(folder: Path, config: TranscriptsConfig, selection: Selection) -> Iterator[Origin]:
    contributed, tables = _contribution(folder), _tables(folder)
    studies = {sub.name: file for sub in folder.iterdir() if (file := _in_study_folder(sub)) is not None}
    if (contributed is not None) + bool(studies) + bool(tables) > 1:
        raise file_error(folder, "holds transcripts in more than one layout; let transcripts.path name one of them")
    if contributed is not None:
        yield _of_file(contributed, config)
    elif studies:
        for study in sorted(studies):
            if selection.includes(study):
                file = studies[study]
                yield Origin(
                    read=partial(read_json_lines, file),
                    file=file,
                    is_one_of_many=True,
                    check=partial(check_members, file) if file.suffix == ".zip" else None,
                    own_study=study,
                    is_contribution=True,
                    all_records=True,
                    psych101=False,
                )
    elif tables:
        yield from (replace(_of_file(table, config), is_one_of_many=len(tables) > 1) for table in tables)
    else:
        raise file_error(folder, "holds no study: no */prompts.jsonl, */prompts.jsonl.zip or *.parquet in it")


def _of_file(path: Path, config: TranscriptsConfig) -> Origin:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        read = partial(read_parquet, path, needed=_needed(config))
        return Origin(read=read, file=path, psych101=_psych101(config))
    if suffix in {".jsonl", ".zip"}:
        in_experiment = config.source == TranscriptSource.psych101
        return Origin(
            read=partial(read_json_lines, path),
            file=path,
            own_study=None if in_experiment else _study_by_name(path),
            is_contribution=not in_experiment,
            psych101=in_experiment,
        )
    raise file_error(path, "is none of .jsonl, .jsonl.zip, .zip, .parquet or a folder; check transcripts.path")


def _study_by_name(path: Path) -> str:
    name = path.absolute().parent.name if path.name in _CONTRIBUTED else path.name
    if name == path.name:
        name = name[: -len(".zip")] if name.lower().endswith(".zip") else name
        name = name[: -len(".jsonl")] if name.lower().endswith(".jsonl") else name
    return name or path.stem


def _needed(config: TranscriptsConfig) -> tuple[str, ...]:
    return PSYCH101_COLUMNS if config.source == TranscriptSource.psych101 else HUB_COLUMNS


def _psych101(config: TranscriptsConfig) -> bool | None:
    """Whether rows without a column that says so are of Psych-101; None: not known."""
    return True if config.source == TranscriptSource.psych101 else None


def _contribution(folder: Path) -> Path | None:
    return next((folder / name for name in _CONTRIBUTED if (folder / name).is_file()), None)


def _in_study_folder(folder: Path) -> Path | None:
    if folder.name.startswith(".") or folder.name == "__MACOSX" or not folder.is_dir():
        return None
    return _contribution(folder)


def _tables(folder: Path) -> list[Path]:
    """Parquet files in the folder, or in its folder `data`, as in a copy of a hub repository."""
    for directory in (folder, folder / "data"):
        found = sorted(file for file in directory.glob("*.parquet") if file.is_file() and not file.name.startswith("."))
        if found:
            return found
    return []
