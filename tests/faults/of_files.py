"""Faults of the campaign that damage the files of a results root at rest."""

from __future__ import annotations

import io

import polars as pl
from case import Case
from of_processes import kill_driver


def some_parts(case: Case) -> list[str]:
    """Names of parts, after a sweep that was killed where there are too few."""
    if len(case.parts()) < 3:
        kill_driver(case)
    return case.parts()


def empty(case: Case) -> None:
    case.store.write(some_parts(case)[0], b"")
    case.disturbed(empty)


def truncate(case: Case) -> None:
    part = some_parts(case)[0]
    content = case.store.read(part)
    case.store.write(part, content[: case.rng.randrange(len(content))])
    case.disturbed(truncate)


def cut(case: Case) -> None:
    part = some_parts(case)[0]
    frame = pl.read_parquet(case.store.read(part), hive_partitioning=False)
    shorter = io.BytesIO()
    frame.head(len(frame) // 2).write_parquet(shorter)
    case.store.write(part, shorter.getvalue())
    case.disturbed(cut)


def copy(case: Case) -> None:
    part = some_parts(case)[0]
    folder, _, name = part.rpartition("/")
    content = case.store.read(part)
    case.store.write(f"{folder}/copy.parquet", content)
    case.store.write(f"{folder}/{name.partition('-')[0]}-{'0' * 32}.parquet", content)
    case.disturbed(copy)


def exchange(case: Case) -> None:
    first, second, *_ = some_parts(case)
    contents = case.store.read(first), case.store.read(second)
    case.store.write(first, contents[1])
    case.store.write(second, contents[0])
    case.disturbed(exchange)


def flip(case: Case) -> None:
    some_parts(case)
    files = [file for folder in ("responses", "footers", "sources") for file in case.store.files(folder) if file.size]
    for _ in range(5):
        name = case.rng.choice(files).name
        content = bytearray(case.store.read(name))
        content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
        case.store.write(name, bytes(content))
        case.notes.append(f"flipped a bit of {name}")
    case.disturbed(flip)


def remove(case: Case) -> None:
    case.store.remove(some_parts(case)[:1])
    case.disturbed(remove)


OF_FILES = [empty, truncate, cut, copy, exchange, flip, remove]
