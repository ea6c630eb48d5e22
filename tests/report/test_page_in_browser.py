"""The page in Chromium without a window: it opens without a request, sorts, filters, switches, escapes and prints."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from browser import CHROMIUM, Browser, chromium
from made_findings import Made, made_findings

from psych_ray.report import ViewedTranscript, write_report
from psych_ray.report.page import SCRIPTS
from psych_ray.study.schemas import table
from psych_ray.transcripts.markers import find_responses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH; Debian's package chromium has it"),
]
EVIL = "<script>window.ran = true</script><!-- <img src=x onerror=window.ran=true>"
STUDIES = ("author20choice", EVIL, "author22bandit")
CHECKPOINTS = (
    Made("b", "f", "f-1", 1.0, "base"),
    Made("i", "f", "f-1", 1.0, "instruct", "b"),
    Made("r", "f", "f-1", 1.0, "reasoning", "b"),
    Made(EVIL),
    Made("chance"),
)


def viewed(at: int) -> ViewedTranscript:
    """Ten responses, of which the fourth is not scored; the difference of the second is the largest."""
    text = f"{EVIL} of {at}\n" + "".join(f"Round {k}. You press <<{'AB'[k % 2]}>>.\n" for k in range(10))
    spans = [(response.start, response.end) for response in find_responses(text)]
    nll = {"b": [0.2] * 10, "i": [0.05] * 10, "r": [0.25] * 10, EVIL: [0.7] * 10}
    more = {slug: [None if k == 3 else value + (k == 1) * at * (slug == "r") for k, value in enumerate(values)]
            for slug, values in nll.items()}  # fmt: skip
    status = {slug: ["altered" if k == 3 else None for k in range(10)] for slug in nll}
    return ViewedTranscript(
        study=STUDIES[at % 3], experiment=EVIL, participant=f"p{at}", id=str(at), text=text, spans=spans, nll=more,
        status=status,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = made_findings(checkpoints=CHECKPOINTS, studies=STUDIES)
    return write_report(
        found,
        tmp_path_factory.mktemp("page"),
        title=EVIL,
        about={EVIL: EVIL},
        figures=["misalignment_by_stage", "domains", "forest"],
        viewed=[viewed(at) for at in range(1, 7)],
    ).page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


def choose(browser: Browser, menu: str, value: str) -> None:
    """As a person who chooses from a menu."""
    script = "(menu, value) => { menu.value = value; menu.dispatchEvent(new Event('change')); }"
    browser.run(f"({script})(document.getElementById('{menu}'), {value!r})")


def test_it_opens_without_complaint_and_without_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)

    assert browser.complaints() == []
    assert browser.requested() == [page.as_uri()]
    assert browser.run("document.querySelectorAll('img').length") >= 1
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")


def test_numbers_that_are_not_known_are_no_errors(browser: Browser, tmp_path: Path) -> None:
    found = made_findings(checkpoints=CHECKPOINTS, studies=STUDIES)
    kept = ("d", "nll", "size_b", "difference", "misalignment")
    blank = {}
    for name, frame in found.tables().items():
        unknown = [key for key, kind in frame.schema.items() if kind == pl.Float64 and key not in kept]
        unknown += ["n_participants"] if name == "misalignment_by_study" else []
        blank[name] = table(name, frame.drop(unknown))
    single = ViewedTranscript(study="s", experiment="e", participant="p", id="t", text="<<A>>", spans=[(2, 3)],
                              nll={"b": [None]})  # fmt: skip
    names = ["misalignment_by_stage", "domains", "forest"]
    files = write_report(replace(found, **blank), tmp_path, title="t", about={}, figures=names, viewed=[single])

    browser.open(files.page)

    assert browser.complaints() == []
    assert "too few" in browser.run("document.getElementById('forest-detail').textContent")
    assert browser.run("document.querySelectorAll('#viewer .unscored').length") == 3  # one is of the legend


def test_what_is_data_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)

    assert browser.run("window.ran") is None
    assert browser.run("document.querySelectorAll('script:not([type])').length") == len(SCRIPTS)
    assert browser.run("document.querySelector('[onerror]')") is None
    assert browser.run("document.title") == EVIL
    for place in ("#viewer-study", "#viewer-pane-left", "#viewer-participant", "#by_study-nll", "#forest-plot", "dl"):
        assert EVIL in browser.run(f"document.querySelector('{place}').textContent"), place


def test_pressing_a_head_sorts_the_table(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = "[...document.querySelectorAll('#misalignment_by_study tbody tr')]"
    column = f"{rows}.map((row) => Number(row.cells[4].dataset.sort))"
    press = "document.querySelectorAll('#misalignment_by_study thead button')[4].click()"
    unsorted = browser.run(column)

    browser.run(press)
    assert browser.run(column) == sorted(unsorted) != unsorted
    browser.run(press)
    assert browser.run(column) == sorted(unsorted, reverse=True)
    heads = browser.run("[...document.querySelectorAll('#misalignment_by_study th')].map((th) => th.ariaSort)")
    assert [head for head in heads if head] == ["descending"]


def test_a_filter_keeps_the_rows_with_all_words(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = browser.run("""(() => {
        const section = document.getElementById('misalignment_by_study');
        const field = section.querySelector('input');
        field.value = 'BANDIT org/r';
        field.dispatchEvent(new Event('input'));
        const rows = [...section.querySelectorAll('tbody tr')].filter((row) => !row.hidden);
        return [rows.map((row) => row.textContent), section.querySelector('output').textContent];
    })()""")

    assert len(shown[0]) == 1
    assert "author22bandit" in shown[0][0]
    assert shown[1] == "1 of 6 rows"


def test_a_link_opens_the_table_that_it_leads_to(browser: Browser, page: Path) -> None:
    browser.open(page)
    folded = "document.querySelector('#misalignment_by_study details').open"
    browser.run("document.querySelector('#misalignment_by_study details').open = false")

    browser.run("document.querySelector('#finding-forest a[href=\"#misalignment_by_study\"]').click()")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run(folded) is True


def test_the_heat_map_tells_its_numbers(browser: Browser, page: Path) -> None:
    browser.open(page)
    told = "document.getElementById('heat-detail').textContent"
    browser.run("document.querySelector('table.heat td[tabindex=\"0\"]').focus()")
    first = browser.run(told)
    assert re.search(r"^all pairs · .*: d = .*95 % interval|too few studies.*; 1 study$", first)

    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="ArrowDown", code="ArrowDown")
    second = browser.run(told)
    assert second.startswith("org/i · ")
    assert "q" in second
    assert second.endswith("; 1 study")
    assert browser.run("document.querySelectorAll('table.heat [tabindex=\"0\"]').length") == 1


def test_the_forest_plot_changes_with_the_pair_and_tells_its_numbers(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.querySelectorAll('#forest-pair option').length") == 2
    rows = "[...document.querySelectorAll('.forest-row')].map((row) => row.textContent)"
    before = browser.run(rows)
    assert len(before) == 4

    choose(browser, "forest-pair", "1")
    assert browser.run(rows) != before
    browser.run("document.querySelectorAll('.forest-row')[2].focus()")
    detail = browser.run("document.getElementById('forest-detail').textContent")
    assert re.search(r"d = .*, 95 % interval .* to .*; 60 participants, 5,900 responses$", detail)


def test_the_viewer_shows_where_checkpoints_part(browser: Browser, page: Path) -> None:
    browser.open(page)
    readout = "document.getElementById('viewer-readout').textContent"
    names = "[...document.querySelectorAll('.side h4')].map((name) => name.textContent)"

    assert browser.run("[...document.getElementById('viewer-study').options].map((o) => o.value)") == [
        STUDIES[0], STUDIES[2], EVIL,
    ]  # fmt: skip
    chosen = "document.getElementById('viewer-participant').selectedOptions[0].textContent"
    assert browser.run(chosen).startswith("p6 ")
    before = browser.run(readout)
    assert before.startswith("Response 2 of 10: “B” · left 0.20 nats · right 6.25 nats · right minus left +6.05 nats")
    assert browser.run(names)[0].startswith("org/b: mean 0.20")
    assert browser.run(names)[1].startswith("org/r: mean 0.92")

    choose(browser, "viewer-right", "1")
    assert browser.run(names)[1].startswith("org/i: mean 0.05")
    assert browser.run(readout) != before
    choose(browser, "viewer-right", "2")
    choose(browser, "viewer-study", "author22bandit")
    assert "of 5\n" in browser.run("document.getElementById('viewer-pane-right').textContent")
    colours = browser.run("[...document.querySelectorAll('#viewer-pane-left .response')].map((r) => r.className)")
    assert colours[0].startswith("response nll-1")
    assert colours[3] == "response unscored"
    assert browser.run("document.querySelectorAll('#viewer-pane-left .response')[3].title") == "not scored: altered"


def test_the_viewer_obeys_keys_and_buttons(browser: Browser, page: Path) -> None:
    browser.open(page)
    at = "Number(document.getElementById('viewer-readout').textContent.match(/Response (\\d+)/)[1])"
    browser.run("document.querySelector('#viewer-pane-left .current').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
    assert browser.run(at) == 3
    browser.run("document.getElementById('viewer-next').click()")
    assert browser.run(at) == 4
    assert "not scored (altered)" in browser.run("document.getElementById('viewer-readout').textContent")
    browser.run("document.getElementById('viewer-next-largest').click()")
    assert browser.run(at) == 2
    assert browser.run("document.querySelectorAll('#viewer .panes [tabindex=\"0\"].response').length") == 2


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=360, height=740, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")

    assert browser.run("document.documentElement.scrollWidth") <= 360
    sides = "[...document.querySelectorAll('.side')].map((side) => getComputedStyle(side).display)"
    assert browser.run(sides) == ["block", "none"]
    browser.run("document.querySelector('[data-pane=right]').click()")
    assert browser.run(sides) == ["none", "block"]


def test_dark_mode_has_light_text_on_dark(browser: Browser, page: Path) -> None:
    def brightness(what: str) -> float:
        style = browser.run(f"getComputedStyle(document.body).{what}")
        return sum(map(float, re.findall(r"\d+", style)[:3])) / 3

    browser.open(page, dark=True)
    assert brightness("backgroundColor") < 60 < 180 < brightness("color")
    assert "invert" in browser.run("getComputedStyle(document.querySelector('.card img')).filter")
    browser.open(page)
    assert brightness("color") < 60 < 200 < brightness("backgroundColor")


def test_it_prints_with_whole_tables(browser: Browser, page: Path) -> None:
    browser.open(page)
    folded = browser.pdf()
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    whole = browser.pdf()

    def pages(pdf: bytes) -> int:
        return len(re.findall(rb"/Type\s*/Page\b", pdf)) or int(re.findall(rb"/Count (\d+)", _streams(pdf))[0])

    assert folded.startswith(b"%PDF")
    assert pages(whole) > pages(folded) > 0
    browser.open(page, width=720)  # the width of a page of A4
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.run("document.documentElement.scrollWidth") <= 720
    cut = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollHeight > one.clientHeight + 2).length"
    assert browser.run(cut) == 0
    browser.send("Emulation.setEmulatedMedia", media="")


def _streams(pdf: bytes) -> bytes:
    """Objects of a PDF that are compressed."""
    found = b""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found += zlib.decompress(stream)
        except zlib.error:
            continue
    return found
