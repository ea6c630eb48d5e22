"""No change of structure changes a score: every column of a committed table, to the last bit.

The last bits of a float32 product depend on the processor, so on another one than made the table NLLs agree to 1e-4
nats. The demo's checkpoints are trained where they are needed: where their weights differ, they are not compared.
"""

from __future__ import annotations

import json

import polars as pl
import pytest

from tests.golden.sweeps import (
    CONDITIONS,
    KEYS,
    MADE_BY,
    TABLE,
    demo_directories,
    machine,
    swept,
    tiny_checkpoints,
    weights_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BOUND_NATS = 1e-4


@pytest.fixture(scope="module")
def golden() -> pl.DataFrame:
    return pl.read_parquet(TABLE)


def compare(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """All columns that the table has: later versions may add some, none may go or change its type."""
    found = found.select(expected.columns)
    assert found.schema == expected.schema
    assert found.height == expected.height
    assert found.drop("nll", "top1").equals(expected.drop("nll", "top1"))
    nll, expected_nll = found["nll"], expected["nll"]
    assert nll.is_null().equals(expected_nll.is_null())
    if machine() == json.loads(MADE_BY.read_text())["machine"]:
        assert found.equals(expected), f"off by {(nll - expected_nll).abs().max()} nats"
    assert (nll - expected_nll).abs().max() <= BOUND_NATS


@pytest.mark.parametrize("parity", CONDITIONS)
def test_every_checkpoint_scores_as_it_did(golden, tmp_path, parity):
    made_by = json.loads(MADE_BY.read_text())["weights"]
    tiny = tiny_checkpoints(tmp_path)
    assert all(weights_of(path) == made_by[path.name] for path in tiny)
    directories = tiny + [path for path in demo_directories() if weights_of(path) == made_by[path.name]]
    found = swept(directories, tmp_path / "root", parity=parity)
    names = [directory.name for directory in directories]
    compare(found, golden.filter(pl.col("checkpoint").is_in(names), pl.col("parity") == parity).sort(KEYS))
