"""A results root whose path has every character that globs, partitions, URIs or shells take for something else."""

from __future__ import annotations

import polars as pl
import pytest
from support_table import responses

from psych_ray.cli.main import main
from psych_ray.results.store import open_store


@pytest.mark.ray
@pytest.mark.slow
def test_a_root_with_special_characters_is_swept_reported_and_found_complete(
    tiny_checkpoint, byte_tokenizer_directory, tmp_path, capsys
):
    checkpoint = tiny_checkpoint("Llama", byte_tokenizer_directory)
    root = tmp_path / "seed=3" / "a[b]*?{c}" / "50% #x&é日 = 'q'" / ("long" * 30) / ("name" * 40)
    assert len(str(root)) > 300
    quoted = str(root).replace("'", "\\'")
    settings = [f"results.root='{quoted}'", "tracking=console"]
    sweep = ["checkpoints=local", f"checkpoints.paths=['{checkpoint}']", "transcripts.participants=1"]
    assert main(["sweep", *settings, *sweep]) == 0
    assert main(["status", *settings]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["report", *settings]) == 0
    assert (root / "report/index.html").is_file()
    rows = responses(open_store(str(root)))
    assert rows.height == pl.read_csv((root / "report/tables/coverage.csv").read_bytes())["responses"].sum()
