"""The columns of calibration are checked: where they may be null, and their range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from support_roots import first_part

from psych_ray.results.check_rows import rows_fault
from psych_ray.results.check_sources import check_sources
from psych_ray.results.checked_part import read_checked
from psych_ray.results.store import open_store
from psych_ray.scoring.calibration import NLL_AT, OF_OPTIONS

Change = Callable[[np.ndarray], np.ndarray]


def with_column(table: pa.Table, name: str, values: np.ndarray, is_null: np.ndarray) -> pa.Table:
    field = table.schema.field(name)
    array = pa.array(values, field.type, mask=is_null)
    return table.set_column(table.schema.get_field_index(name), field, array)


def calibrated(table: pa.Table) -> pa.Table:
    """As if a language model had scored what was scored, every response of a transcript with two options."""
    scored = np.array([status == "scored" for status in table["status"].to_pylist()])
    of_two = np.array([n == 2 for n in table["n_options"].to_pylist()])
    assert (scored & of_two).any()
    assert not (scored & of_two).all()
    for name in NLL_AT.values():
        table = with_column(table, name, np.full(len(table), 0.5, np.float32), ~scored)
    for name in OF_OPTIONS:
        values = np.ones(len(table), bool if name == "options_hit" else np.float32)
        table = with_column(table, name, values, ~(scored & of_two))
    return table


def filled(name: str, value: float) -> Callable[[pa.Table], pa.Table]:
    """Another value where the column has one."""

    def change(table: pa.Table) -> pa.Table:
        is_null = np.asarray(table[name].is_null().to_numpy())
        return with_column(table, name, np.full(len(table), value), is_null)

    return change


def valid_everywhere(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column(table, name, np.ones(len(table)), np.zeros(len(table), bool))


def null(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column(table, name, np.ones(len(table)), np.ones(len(table), bool))


FAULTS = {
    "another number of options": (filled("n_options", 3), "n_options of transcript"),
    "no number of options": (null("n_options"), "n_options of transcript"),
    "a temperature where nothing was scored": (valid_everywhere("nll_t050"), "nll_t050 where nothing was scored"),
    "a temperature missing": (null("nll_t400"), "nll_t400 is not null in the same rows as nll_t050"),
    "a temperature below 0": (filled("nll_t400", -0.5), "nll_t400 is not from 0"),
    "a temperature infinite": (filled("nll_t400", np.inf), "nll_t400 is not from 0"),
    "options_nll not a number": (filled("options_nll", np.nan), "options_nll is not from 0"),
    "options_brier above 2": (filled("options_brier", 2.5), "options_brier is not from 0 to 2"),
    "options_top above 1": (filled("options_top", 1.25), "options_top is not from 0.037 to 1"),
    "options_top of 0": (filled("options_top", 0.0), "options_top is not from 0.037 to 1"),
    "options_top missing": (null("options_top"), "options_top is not null in the same rows as options_nll"),
    "options_hit missing": (null("options_hit"), "options_hit is not null in the same rows as options_nll"),
}


@pytest.fixture
def part(whole) -> tuple[pa.Table, Callable[[pa.Table], str | None]]:
    """The rows of a part with these columns, and what is wrong with such rows."""
    store = open_store(str(whole))
    written, table = read_checked(store, first_part(store).name)
    known = check_sources(store).transcripts
    return calibrated(table), lambda changed: rows_fault(changed, written.footer, known)


def test_nothing_is_wrong_with_them(part):
    table, fault = part
    assert fault(table) is None


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named(kind, part):
    table, fault = part
    change, message = FAULTS[kind]
    assert message in (fault(change(table)) or "nothing")


def test_options_of_a_single_option_are_named(part):
    table, fault = part
    scored = np.array([status == "scored" for status in table["status"].to_pylist()])
    for name in OF_OPTIONS:
        table = with_column(table, name, np.ones(len(table)), ~scored)
    assert fault(table) == "options_nll where there are no two options"
