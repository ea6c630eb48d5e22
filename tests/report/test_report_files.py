"""The report: complete, reproducible, consistent with the numbers, and safe to open."""

from __future__ import annotations

import base64
import errno
import html
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from psych_ray.errors import ResultsError
from psych_ray.report import ReportFiles, write_report
from psych_ray.report.files import harmless
from psych_ray.report.headlines import headlines
from psych_ray.report.nll_figure import size_ticks
from psych_ray.report.style import STAGE_STYLES, shorten, size_label
from psych_ray.report.tables import MAX_CHECKPOINT_COLUMNS, MAX_ROWS
from psych_ray.results.refused import Refusal
from psych_ray.results.schema import CheckpointFacts
from psych_ray.study import Findings, findings

SCRIPT = "<script>alert(1)</script>"
NAMES = ("nll_by_size", "misalignment_by_stage", "misalignment_by_generation")
CHROMIUM = shutil.which("chromium")


def checkpoint(slug: str, stage: str | None = None, base: str | None = None, **known: Any) -> CheckpointFacts:
    return CheckpointFacts(slug=slug, id=slug, fingerprint="f", stage=stage, base=base, **known)


def found_of(
    checkpoints: Sequence[CheckpointFacts],
    means: dict[str, float],
    *,
    studies: Sequence[str] = ("bandit", "memory"),
    conditions: Sequence[str] = ("plain",),
) -> Findings:
    """Findings in which a checkpoint's mean NLL is that of `means`, one more in each study, with equal spreads."""
    rows = [
        {
            "checkpoint": slug,
            "condition": condition,
            "study": study,
            "transcript": "t",
            "response": response,
            "nll": mean + index + spread,
            "top1": response == 0,
            "status": "scored",
        }
        for slug, mean in means.items()
        for condition in conditions
        for index, study in enumerate(studies)
        for response, spread in enumerate((-0.5, 0.0, 0.5))
    ]
    types = {"response": pl.Int32, "nll": pl.Float32, "top1": pl.Boolean}
    names = ("checkpoint", "condition", "study", "transcript", "status")
    return findings(pl.LazyFrame(rows, schema={**dict.fromkeys(names, pl.String), **types}), checkpoints)


DEMO = [
    checkpoint("simulator"),
    *(
        checkpoint(
            f"demo-{generation}-{stage}",
            stage,
            None if stage == "base" else f"demo-{generation}-base",
            family="demo",
            generation=f"demo-{generation}",
            size_b=generation * 1e-4,
        )
        for generation in (1, 2)
        for stage in ("base", "instruct", "reasoning")
    ),
]
MEANS = {
    "simulator": 0.8,
    "demo-1-base": 1.0,
    "demo-1-instruct": 1.1,
    "demo-1-reasoning": 1.2,
    "demo-2-base": 0.9,
    "demo-2-instruct": 1.2,
    "demo-2-reasoning": 1.3,
}


def demo(**other: Any) -> Findings:
    return found_of(DEMO, MEANS, **other)


def report(found: Findings, root: Path) -> ReportFiles:
    return write_report(found, root, title="A <b>sweep</b>", about={"Engine": "made up", SCRIPT: SCRIPT})


def test_every_figure_and_table_is_written_and_looks_like_one(tmp_path: Path) -> None:
    files = report(demo(), tmp_path)

    assert files.page == tmp_path / "index.html"
    assert set(files.figures) == {tmp_path / "figures" / f"{name}.{kind}" for name in NAMES for kind in ("png", "pdf")}
    names = [*(field.name for field in fields(Findings)), "refused"]
    assert set(files.tables) == {tmp_path / "tables" / f"{name}.csv" for name in names}
    for path in files.figures:
        content = path.read_bytes()
        if path.suffix == ".png":
            millimetres = struct.unpack(">I", content[16:20])[0] / 300 * 25.4
            assert any(abs(millimetres - width) < 1 for width in (89, 120, 183))
            assert len(content) > 8_000
        else:
            assert content.startswith(b"%PDF")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/CreationDate" not in content
    by_stage = pl.read_csv(tmp_path / "tables/by_stage.csv")
    assert by_stage["d"].to_list() == [pytest.approx(0.4, abs=1e-6), pytest.approx(0.6, abs=1e-6)]


def test_the_same_findings_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = report(demo(), tmp_path / "1"), report(demo(), tmp_path / "2")

    assert first.headlines == second.headlines
    for one, other in zip((first.page, *first.figures), (second.page, *second.figures), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_page_asks_for_nothing_and_runs_nothing_but_its_own_script(tmp_path: Path) -> None:
    page = report(demo(studies=[SCRIPT, "memory"], conditions=["plain", "<img src=x>"]), tmp_path).page.read_text()

    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|url\(|@import", page)
    assert re.findall(r"<script\b", page) == ["<script"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<img src=x>" not in page
    assert "A &lt;b&gt;sweep&lt;/b&gt;" in page
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'src="([^"]*)"', page))
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    assert f"'sha256-{base64.b64encode(sha256(script[1].encode()).digest()).decode()}'" in page


def test_links_of_the_page_lead_to_files_that_are_there(tmp_path: Path) -> None:
    page = report(demo(), tmp_path).page.read_text()

    links = [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")]
    assert len(links) > 10
    assert all((tmp_path / link).is_file() for link in links)
    anchors = [link[1:] for link in re.findall(r'href="(#[^"]*)"', page)]
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_headlines_of_the_demo(tmp_path: Path) -> None:
    assert report(demo(conditions=["plain", "chat"]), tmp_path).headlines == (
        "In 4 of 4 pairs the base predicts people's responses better than its post-trained checkpoint (mean d = 0.50).",
        "Misalignment by stage (mean d ± standard error over studies): reasoning 0.60 ± 0.00, instruct 0.40 ± 0.00.",
        "From demo-1 to demo-2, mean d rises from 0.30 ± 0.00 to 0.70 ± 0.00.",
        "Of 6 checkpoints, demo-2-base has the lowest NLL: 1.40 nats per response, accuracy 0.33 "
        "(for comparison: simulator 1.30).",
        "Under the condition chat: mean d = 0.50 over 4 pairs.",
        "42 of 42 responses, counted once for each checkpoint, are scored.",
    )


def pair(post: float) -> tuple[str, ...]:
    both = [checkpoint("b", "base"), checkpoint("p", "code", "b")]
    return headlines(found_of(both, {"b": 1.0, "p": post}))


def test_headlines_say_the_opposite_when_the_data_do() -> None:
    better = (
        "In 1 of 1 pair the post-trained checkpoint predicts people's responses better than its base (mean d = -0.40)."
    )
    assert pair(0.8)[0] == better
    equal = (
        "Of 1 pair, the base predicts people's responses better in 0, the post-trained checkpoint in 0 (mean d = 0.00)."
    )
    assert pair(1.0)[0] == equal
    shrinking = {**MEANS, "demo-2-instruct": 0.7, "demo-2-reasoning": 0.9}
    assert "From demo-1 to demo-2, mean d falls from 0.30 ± 0.00 to -0.20 ± 0.00." in headlines(
        found_of(DEMO, shrinking)
    )


def test_a_generation_with_other_stages_is_not_compared_in_silence() -> None:
    fewer = {slug: mean for slug, mean in MEANS.items() if slug != "demo-1-reasoning"}

    assert any("the stages of their pairs differ" in line for line in headlines(found_of(DEMO, fewer)))


def test_no_checkpoint_is_best_where_none_has_all_studies() -> None:
    left, right = found_of(DEMO, {"demo-1-base": 1.0}), found_of(DEMO, {"demo-2-base": 2.0}, studies=["other"])
    both = Findings(
        **{field.name: pl.concat([getattr(left, field.name), getattr(right, field.name)]) for field in fields(Findings)}
    )

    assert "No checkpoint has a mean NLL in all 3 studies, so checkpoints are not ranked." in headlines(both)


@pytest.mark.parametrize(
    ("checkpoints", "means", "sentence"),
    [
        ([], {}, "There are no responses."),
        (DEMO, {}, "There are no responses."),
        (DEMO, {"demo-1-base": 1.0}, "No post-trained checkpoint could be compared with its base."),
        ([checkpoint("a"), checkpoint("b")], {"a": 1.0, "b": 2.0}, "Of 2 checkpoints, a has the lowest NLL"),
        (
            [checkpoint("b", "base"), checkpoint("模型$x_{", "vision", "b", generation="$x_{")],
            {"b": 1.0, "模型$x_{": 2.0},
            "In 1 of 1 pair the base predicts people's responses better",
        ),
    ],
    ids=["nothing", "no rows", "one checkpoint", "nothing known", "no sizes"],
)
def test_with_few_data_there_is_still_a_page(
    checkpoints: list[CheckpointFacts], means: dict[str, float], sentence: str, tmp_path: Path
) -> None:
    files = report(found_of(checkpoints, means), tmp_path)

    assert any(line.startswith(sentence) for line in files.headlines)
    assert all(path.stat().st_size > 1_000 for path in (files.page, *files.figures))
    assert all(line in html.unescape(files.page.read_text()) for line in files.headlines)


def test_what_is_skipped_is_on_the_page(tmp_path: Path) -> None:
    page = report(found_of(DEMO[2:], {"demo-1-instruct": 1.0}), tmp_path).page.read_text()

    assert "its base demo-1-base is not in the tables" in page


def test_what_was_refused_of_the_sources_is_on_the_page_and_in_a_table(tmp_path: Path) -> None:
    refused = [
        Refusal("", "transcripts", "`study` is missing", 1, "t row 3: `study` is missing"),
        Refusal("=s<b>", "files", "is a zip that cannot be read", 1_608, SCRIPT),
    ]
    page = write_report(demo(), tmp_path, title="t", about={}, refused=refused).page.read_text()

    assert "Not used of the sources" in page
    assert "1,608" in page
    assert SCRIPT not in page
    found = pl.read_csv(tmp_path / "tables/refused.csv")
    assert found.columns == ["study", "what", "reason", "n", "example"]
    assert found["study"].to_list() == [None, "'=s<b>"]
    assert found["n"].to_list() == [1, 1_608]
    assert "Not used of the sources" not in report(demo(), tmp_path).page.read_text()
    assert pl.read_csv(tmp_path / "tables/refused.csv").height == 0


def test_few_checkpoints_stand_side_by_side_and_many_below_one_another(tmp_path: Path) -> None:
    slugs = [f"c{at}" for at in range(MAX_CHECKPOINT_COLUMNS + 1)]
    few, many = (
        report(found_of([checkpoint(slug) for slug in some], dict.fromkeys(some, 1.0)), tmp_path).page.read_text()
        for some in (slugs[:-1], slugs)
    )

    assert 'id="studies-nll"' in few
    assert 'id="studies-accuracy"' in few
    assert 'id="studies"' not in few
    assert 'id="studies"' in many
    assert 'id="studies-nll"' not in many


def test_a_long_table_is_truncated_on_the_page_and_complete_in_its_file(tmp_path: Path) -> None:
    found = found_of([checkpoint("a", "base")], {"a": 1.0}, studies=[f"study {at:04}" for at in range(MAX_ROWS + 1)])
    page = report(found, tmp_path).page.read_text()

    assert "The first 1,000 of 1,001 rows" in page
    assert "study 0999<" in page
    assert "study 1000<" not in page
    assert pl.read_csv(tmp_path / "tables/by_study.csv").height == MAX_ROWS + 1


def test_an_interrupted_report_leaves_the_old_page_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = report(demo(), tmp_path).page.read_bytes()

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report(found_of(DEMO, {}), tmp_path)

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


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH")
def test_in_a_browser_pressing_a_head_sorts_the_table(tmp_path: Path) -> None:
    page = report(demo(studies=[SCRIPT, "memory"]), tmp_path / "report").page.read_text()
    press = "document.querySelectorAll('#checkpoints thead button')[3].click();"
    allowed = base64.b64encode(sha256(press.encode()).digest()).decode()
    pressed = page.replace("script-src ", f"script-src 'sha256-{allowed}' ")
    pressed = pressed.replace("</body>", f"<script>{press}</script></body>")
    (tmp_path / "pressed.html").write_text(pressed)

    dom = browsed(tmp_path / "pressed.html", tmp_path / "profile")
    table = re.search(r'<section id="checkpoints".*?</section>', dom, re.DOTALL)
    assert table is not None
    heads = re.findall(r"<th\b[^>]*>", table[0])
    assert [("aria-sort" in head) for head in heads].index(True) == 3
    assert 'aria-sort="ascending"' in heads[3]
    first_cells = re.findall(r"<tr><td>([^<]*)</td>", table[0])
    assert first_cells == sorted(MEANS, key=lambda slug: MEANS[slug])
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in dom


def browsed(page: Path, profile: Path) -> str:
    """The document after the page's scripts have run."""
    assert CHROMIUM is not None
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_cells_that_a_spreadsheet_would_run_are_text_and_numbers_stay(tmp_path: Path) -> None:
    evil = ['=HYPERLINK("http://x")', "+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "\n=x"]
    plain = ["a=b", "", "'x", " =x", "é"]
    frame = pl.DataFrame({"text": [*evil, *plain, None], "number": [-float(k) for k in range(13)]})
    cells = harmless(frame)
    assert cells["text"].to_list() == [*(f"'{text}" for text in evil), *plain, None]
    assert cells["number"].equals(frame["number"])
    found = found_of([checkpoint("=a+b")], {"=a+b": -1.0}, studies=["-2+3", "@x"])
    write_report(found, tmp_path, title="t", about={})
    by_study = (tmp_path / "tables/by_study.csv").read_text()
    assert "'=a+b" in by_study
    assert "'-2+3" in by_study
    assert all(not cell.startswith(tuple("=+@")) for line in by_study.splitlines() for cell in line.split(","))
    assert pl.read_csv(tmp_path / "tables/by_study.csv")["nll"].to_list() == [-1.0, 0.0]


@pytest.mark.parametrize("file", ["figures/nll_by_size.png", "tables/by_study.csv", "index.html"])
def test_a_full_disk_while_reporting_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    def fail(path: Path, content: bytes) -> None:
        if path == tmp_path / file:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("psych_ray.report.files.write_atomically", fail)
    with pytest.raises(ResultsError, match=rf"{file}: .*\(No space left on device\); free space or name") as caught:
        write_report(found_of([checkpoint("a")], {"a": 1.0}), tmp_path, title="t", about={})
    assert "\n" not in str(caught.value)
