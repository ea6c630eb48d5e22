"""Private interfaces of matplotlib (3.11): what it writes of a font to a PDF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB", "kern")


@contextmanager
def pdf_fonts_without_layout() -> Iterator[None]:
    """Within the context, fonts in a PDF lack the tables for the layout of text (matplotlib 3.11, fontTools 4.68).

    A PDF positions every glyph itself, so no reader uses them; to reduce them to a figure's characters takes nearly
    half of the time that its PDF takes. matplotlib takes `subset.Options` from fontTools when a figure is saved.
    """
    subset: Any = import_module("fontTools.subset")
    options = subset.Options

    def without_layout(**given: Any) -> Any:
        made = options(**given)
        made.drop_tables = [*made.drop_tables, *_LAYOUT_TABLES]
        return made

    subset.Options = without_layout
    try:
        yield
    finally:
        subset.Options = options
