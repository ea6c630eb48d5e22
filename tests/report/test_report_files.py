"""The report as files: complete, reproducible, consistent with the tables, and safe to open."""

from __future__ import annotations

import base64
import errno
import html
import re
import struct
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_findings import Made, made_checkpoints, made_findings, minimal_findings

from psych_ray.config import FINDINGS, ReportConfig
from psych_ray.errors import ResultsError
from psych_ray.report import ReportFiles, findings, write_report
from psych_ray.report.files import harmless
from psych_ray.report.interval_figure import Row, interval_figure, limited
from psych_ray.report.nll_figure import size_ticks
from psych_ray.report.page import SCRIPTS
from psych_ray.report.style import STAGE_STYLES, shorten, size_label
from psych_ray.report.tables import MAX_CELLS, MAX_CHECKPOINT_COLUMNS, MAX_ROWS
from psych_ray.results.refused import Refusal
from psych_ray.study.tables import Findings

SCRIPT = "<script>alert(1)</script>"
FEW = ["misalignment_by_stage"]


def few(**other: Any) -> Findings:
    return made_findings(checkpoints=made_checkpoints(1, 2, (0.6,)), n_studies=5, **other)


def report(found: Findings, root: Path, **other: Any) -> ReportFiles:
    about = {"Engine": "made up", SCRIPT: SCRIPT}
    return write_report(found, root, title="A <b>sweep</b>", about=about, **{"figures": FEW, **other})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """A report with every finding."""
    return report(few(), tmp_path_factory.mktemp("report"), figures=())


def test_every_finding_with_data_has_a_figure_that_looks_like_one(whole: ReportFiles) -> None:
    names = {path.stem for path in whole.figures}
    assert names == set(FINDINGS) - {"other_conditions"}
    assert {path.suffix for path in whole.figures} == {".png", ".pdf", ".svg"}
    for path in whole.figures:
        content = path.read_bytes()
        if path.suffix == ".png":
            millimetres = struct.unpack(">I", content[16:20])[0] / 300 * 25.4
            assert any(abs(millimetres - width) < 1 for width in (89, 120, 183)), path
            height = struct.unpack(">I", content[20:24])[0] / 300 * 25.4
            assert height < 260, path  # a page of a journal
        elif path.suffix == ".pdf":
            assert content.startswith(b"%PDF")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/CreationDate" not in content


def test_every_table_is_written_as_csv_and_parquet(whole: ReportFiles) -> None:
    names = [*(field.name for field in fields(Findings)), "refused"]
    folder = whole.page.parent / "tables"
    assert set(whole.tables) == {folder / f"{name}.{kind}" for name in names for kind in ("csv", "parquet")}
    found = few()
    for name, table in found.tables().items():
        assert pl.read_parquet(folder / f"{name}.parquet").equals(table)
        assert pl.read_csv(folder / f"{name}.csv").height == table.height
    assert pl.read_csv(folder / "by_stage.csv")["d"].to_list() == pytest.approx(found.by_stage["d"].to_list())


def test_the_page_is_small(whole: ReportFiles) -> None:
    assert whole.page.stat().st_size < 3_000_000


def test_the_same_findings_give_the_same_bytes(whole: ReportFiles, tmp_path: Path) -> None:
    names = ["nll_by_size", "domains", "overconfidence"]
    first, second = (report(few(), tmp_path / str(at), figures=names) for at in range(2))

    assert first.headlines == second.headlines == whole.headlines
    assert first.page.read_bytes() == second.page.read_bytes()
    for path in first.figures:
        assert path.read_bytes() == (tmp_path / "1/figures" / path.name).read_bytes()
        assert path.read_bytes() == (whole.page.parent / "figures" / path.name).read_bytes()


def test_names_of_findings_are_those_of_the_setting() -> None:
    assert tuple(finding.name for finding in findings.ALL) == FINDINGS
    with pytest.raises(
        ValueError, match=r"report.figures=\['heat'\]: no such findings; there are nll_by_size, .*published$"
    ):
        ReportConfig(figures=["heat"])
    with pytest.raises(ValueError, match=r"report\.transcripts=-1: must be 0 to 500"):
        ReportConfig(transcripts=-1)


def test_a_figure_of_many_rows_fits_on_a_page_and_keeps_means_and_the_rows_furthest_from_zero() -> None:
    rows = [Row(label=str(at), value=at / 100, heading=str(at // 20), kept=at == 0) for at in range(200)]

    kept = limited(rows)
    figure = interval_figure(rows, x_label="d", right="more", left="less", legend=True)

    assert kept[0] is rows[0]
    assert kept[1:] == rows[-len(kept) + 1 :]
    assert figure is not None
    assert figure.get_figheight() * 25.4 < 250


def test_only_the_findings_that_are_asked_for_are_shown_and_old_figures_are_removed(tmp_path: Path) -> None:
    report(few(), tmp_path, figures=["behavioural", "chat"])
    files = report(few(), tmp_path, figures=["behavioural"])

    page = files.page.read_text()
    assert 'id="finding-behavioural"' in page
    assert 'id="finding-chat"' not in page
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"behavioural"}


def test_the_page_asks_for_nothing_and_runs_nothing_but_its_own_script(tmp_path: Path) -> None:
    found = few(studies=[SCRIPT, "memory"], conditions=["plain", "<img src=x>", "chat"])
    page = report(found, tmp_path).page.read_text()

    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|url\(|@import", page)
    assert len(re.findall(r"<script\b(?! type=.application/json)", page)) == len(SCRIPTS)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<img src=x>" not in page
    assert "A &lt;b&gt;sweep&lt;/b&gt;" in page
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'src="([^"]*)"', page))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = " ".join(f"'sha256-{base64.b64encode(sha256(one.encode()).digest()).decode()}'" for one in scripts)
    assert len(scripts) == len(SCRIPTS)
    assert f'script-src {allowed}"' in page


def test_links_of_the_page_lead_to_files_that_are_there(whole: ReportFiles) -> None:
    page = whole.page.read_text()

    links = [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")]
    assert len(links) > 50
    assert all((whole.page.parent / link).is_file() for link in links)
    anchors = re.findall(r'href="#([^"]*)"', page)
    assert all(f'id="{anchor}"' in page for anchor in anchors)


@pytest.mark.parametrize(
    ("found", "figures", "sentence"),
    [
        (Findings(), [], "There are no responses."),
        (minimal_findings(), [], "No post-trained checkpoint could be compared with its base."),
        (made_findings(checkpoints=[Made("a", stage="base")], n_studies=2), ["floors", *FEW], "No post-trained "),
        (
            made_findings(
                checkpoints=[Made("b", stage="base"), Made("模型$x_{", stage="vision", base="b")], n_studies=1
            ),
            ["nll_by_size", "domains", "forest", *FEW],
            "Whether org/模型$x_{ predicts people's responses better or worse than its base org/b cannot be told",
        ),
    ],
    ids=["nothing", "one checkpoint, one study", "no pair", "one pair, one study, no sizes"],
)
def test_with_few_data_there_is_still_a_page(
    found: Findings, figures: list[str], sentence: str, tmp_path: Path
) -> None:
    files = report(found, tmp_path, figures=figures)

    assert any(line.startswith(sentence) for line in files.headlines)
    page = html.unescape(files.page.read_text())
    assert all(line in page for line in files.headlines)
    assert files.page.stat().st_size > 1_000
    shown = re.findall(r'id="finding-([a-z_]+)"', page)
    assert {path.stem for path in files.figures} <= set(shown)
    without = found.tables()
    for finding in findings.ALL:
        if all(without[name].is_empty() for name in finding.tables):
            assert finding.name not in shown


def test_what_is_skipped_is_on_the_page(tmp_path: Path) -> None:
    assert "its base is unknown" in report(few(), tmp_path).page.read_text()


def test_what_was_refused_of_the_sources_is_on_the_page_and_in_a_table(tmp_path: Path) -> None:
    refused = [
        Refusal("", "transcripts", "`study` is missing", 1, "t row 3: `study` is missing"),
        Refusal("=s<b>", "files", "is a zip that cannot be read", 1_608, SCRIPT),
    ]
    page = write_report(few(), tmp_path, title="t", about={}, refused=refused, figures=FEW).page.read_text()

    assert "Not used of the sources" in page
    assert "1,608" in page
    assert SCRIPT not in page
    found = pl.read_csv(tmp_path / "tables/refused.csv")
    assert found.columns == ["study", "what", "reason", "n", "example"]
    assert found["study"].to_list() == [None, "'=s<b>"]
    assert found["n"].to_list() == [1, 1_608]
    assert "Not used of the sources" not in report(few(), tmp_path).page.read_text()
    assert pl.read_csv(tmp_path / "tables/refused.csv").height == 0


def test_few_checkpoints_stand_side_by_side_and_many_below_one_another(tmp_path: Path) -> None:
    slugs = [Made(f"c{at}", stage="base") for at in range(MAX_CHECKPOINT_COLUMNS + 1)]
    side_by_side, below = (
        report(made_findings(checkpoints=some, n_studies=2), tmp_path).page.read_text() for some in (slugs[:-1], slugs)
    )

    assert 'id="by_study-nll"' in side_by_side
    assert 'id="by_study-accuracy"' in side_by_side
    assert 'id="by_study"' not in side_by_side
    assert 'id="by_study"' in below
    assert 'id="by_study-nll"' not in below


def test_a_long_table_is_truncated_on_the_page_and_complete_in_its_file(tmp_path: Path) -> None:
    found = made_findings(
        checkpoints=[Made("a", stage="base")], studies=[f"study {at:04}" for at in range(2_000)], conditions=["plain"]
    )
    page = report(found, tmp_path).page.read_text()

    section = re.search(r'<section id="transcript_differences".*?</section>', page, re.DOTALL)
    assert section is not None
    n_columns, n_rows = section[0].count("<th "), MAX_CELLS // section[0].count("<th ")
    assert n_columns > 5
    assert f"The first {n_rows:,} of 2,000 rows" in section[0]
    assert f"study {n_rows - 1:04}<" in section[0]
    assert f"study {n_rows:04}<" not in section[0]
    assert f"The first {MAX_ROWS:,} of 2,000 rows" in page
    assert pl.read_csv(tmp_path / "tables/by_study.csv").height == 2_000


def test_an_interrupted_report_leaves_the_old_page_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = report(few(), tmp_path).page.read_bytes()

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report(Findings(), tmp_path)

    assert (tmp_path / "index.html").read_bytes() == old
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("size_b", "label"),
    [
        (1e-4, "100k"),
        (1.2e-4, "120k"),
        (0.014, "14M"),
        (0.07, "70M"),
        (0.1, "0.1B"),
        (0.6, "0.6B"),
        (70, "70B"),
        (0, "0k"),
    ],
)
def test_sizes_have_usual_units(size_b: float, label: str) -> None:
    assert size_label(size_b) == label


@pytest.mark.parametrize(("low", "high"), [(6e-5, 5e-4), (0.6, 1.6), (0.3, 110), (1e-4, 100), (0.01, 20)])
def test_the_size_axis_has_two_to_seven_ticks(low: float, high: float) -> None:
    ticks = size_ticks(low, high)

    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert len({size_label(tick) for tick in ticks}) == len(ticks)


def test_every_stage_has_its_own_colour_and_marker() -> None:
    styles = STAGE_STYLES.values()
    assert len({each.colour for each in styles}) == len({each.marker for each in styles}) == len(STAGE_STYLES) == 8


def test_a_long_name_keeps_both_its_ends() -> None:
    assert shorten("meta-llama/Llama-3.1-70B-Instruct") == "meta-llama/…70B-Instruct"
    assert shorten("two\nlines") == "two lines"


def test_cells_that_a_spreadsheet_would_run_are_text_and_numbers_stay(tmp_path: Path) -> None:
    evil = ['=HYPERLINK("http://x")', "+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "\n=x"]
    plain = ["a=b", "", "'x", " =x", "é"]
    frame = pl.DataFrame({"text": [*evil, *plain, None], "number": [-float(k) for k in range(13)]})
    cells = harmless(frame)
    assert cells["text"].to_list() == [*(f"'{text}" for text in evil), *plain, None]
    assert cells["number"].equals(frame["number"])
    found = made_findings(checkpoints=[Made("=a+b", stage="base")], studies=["-2+3", "@x"])
    found = replace(found, by_study=found.by_study.with_columns(nll=pl.Series([-1.0, 0.0] * 4)))
    report(found, tmp_path)
    by_study = (tmp_path / "tables/by_study.csv").read_text()
    assert "'=a+b" in by_study
    assert "'-2+3" in by_study
    assert all(not cell.startswith(tuple("=+@")) for line in by_study.splitlines() for cell in line.split(","))
    assert pl.read_csv(tmp_path / "tables/by_study.csv")["nll"].to_list() == [-1.0, 0.0] * 4


@pytest.mark.parametrize(
    "file", ["figures/misalignment_by_stage.png", "tables/by_study.csv", "summary.json", "index.html"]
)
def test_a_full_disk_while_reporting_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    def fail(path: Path, content: bytes) -> None:
        if path == tmp_path / file:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("psych_ray.report.files.write_atomically", fail)
    with pytest.raises(ResultsError, match=rf"{file}: .*\(No space left on device\); free space or name") as caught:
        report(few(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_figure_of_an_earlier_report_that_cannot_be_removed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "figures" / "learning.png").mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"learning\.png: the report cannot be written there \("):
        report(Findings(), tmp_path)
