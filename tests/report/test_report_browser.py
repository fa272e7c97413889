"""The report in a real browser: it sorts, filters, copies, darkens, prints, and nothing in it leaves the page."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from report_pages import write_folder
from synthetic import HOSTILE_NAMES, make_grid_records

from mnistbench.report import render

pytestmark = pytest.mark.slow

LEVELS = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, or what goes by another name elsewhere."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with hostile names beside plain ones, two devices and failures."""
    records = make_grid_records(
        architectures=["mlp", "lenet5", "my_models:" + 20 * "Long", *HOSTILE_NAMES[:2]],
        optimizers=["sgd", HOSTILE_NAMES[4]],
        batch_sizes=[64, 512], devices=["cpu", "cuda"], seeds=2, failing=0.08,
    )  # fmt: skip
    folder = write_folder(tmp_path_factory.mktemp("browser") / "<script>alert(1)</script>".replace("/", "∕"), records)
    return render([folder], folder / "report.html")


@pytest.fixture
def open_report(browser: Browser, report: Path) -> Iterator[Open]:
    """Open the report; the test fails afterwards on console errors, dialogs, or requests that left the page."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opened(**options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"request: {request.url[:200]}")
                if not request.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Page, title: str) -> list[str]:
    """The shown cells of one column of the leaderboard."""
    heads = page.locator("#leaderboard thead th").evaluate_all("all => all.map((head) => head.dataset.title)")
    return page.locator(f"#leaderboard tbody td:nth-child({heads.index(title) + 1})").all_inner_texts()


def head(page: Page, title: str) -> str:
    """Selector of a column's heading in the leaderboard."""
    return f'#leaderboard thead th[data-title="{title}"]'


def test_a_click_sorts_by_number(open_report: Open) -> None:
    """Examples per second, up and down: by value, though the text has commas."""
    page = open_report()
    page.click(head(page, "examples/s"))
    page.locator(f'{head(page, "examples/s")}[aria-sort="ascending"]').wait_for()  # sorting is not done at once
    up = [float(text.replace(",", "")) for text in column(page, "examples/s") if text != "–"]
    assert up == sorted(up)
    page.click(head(page, "examples/s"))
    page.locator(f'{head(page, "examples/s")}[aria-sort="descending"]').wait_for()
    down = [float(text.replace(",", "")) for text in column(page, "examples/s") if text != "–"]
    assert down == sorted(down, reverse=True)
    assert down[0] > up[-1]


def test_a_time_that_was_not_reached_sorts_last(open_report: Open) -> None:
    """Behind every number."""
    page = open_report()
    page.select_option("#leaderboard_wrapper select >> nth=0", "mlp")
    page.click(head(page, "time to target"))
    texts = column(page, "time to target")
    assert len(texts) > 2
    reached = ["not reached" not in text for text in texts]
    assert reached == sorted(reached, reverse=True)


def test_words_filter_the_rows(open_report: Open) -> None:
    """All of them, in any column."""
    page = open_report()
    page.fill("#leaderboard_wrapper input[type=search]", "lenet5 cuda 512")
    assert set(column(page, "architecture")) == {"lenet5"}
    assert set(column(page, "device")) == {"cuda"}
    assert set(column(page, "batch")) == {"512"}


def test_a_menu_filters_by_a_name_exactly(open_report: Open) -> None:
    """Even one full of special characters."""
    page = open_report()
    page.select_option("#leaderboard_wrapper select >> nth=0", HOSTILE_NAMES[1])
    assert set(column(page, "architecture")) == {HOSTILE_NAMES[1]}


def test_a_column_can_be_hidden(open_report: Open) -> None:
    """And comes back."""
    page = open_report()
    for visible in (False, True):
        page.click("#leaderboard_wrapper >> text=Columns")
        page.click(".dt-button-collection >> text=reached")
        page.keyboard.press("Escape")
        assert page.locator(head(page, "reached")).is_visible() == visible


def test_the_table_is_copied_as_csv(open_report: Open) -> None:
    """With numbers, not their texts; what the filter hides is left out."""
    page = open_report()
    page.evaluate(
        "addEventListener('copy', () => { window.copied = document.activeElement.value || getSelection().toString() })"
    )
    page.fill("#leaderboard_wrapper input[type=search]", "mlp cpu 512")
    page.click("#leaderboard_wrapper >> text=Copy as CSV")
    page.wait_for_selector(".dt-button-info")
    lines = page.evaluate("window.copied").strip().splitlines()
    rows = list(csv.DictReader(lines))
    assert list(rows[0])[:2] == ["#", "time to target"]
    assert len(rows) == len(column(page, "#"))
    assert float(rows[0]["examples/s"]) > 1000


def test_the_records_are_downloaded_unpacked(open_report: Open, report: Path) -> None:
    """From inside the page, under its policy, the same bytes as the file beside it."""
    page = open_report()
    for file in ("results.csv", "epochs.csv"):
        with page.expect_download() as download:
            page.click(f"text=Download {file}")
        assert download.value.suggested_filename == file
        assert Path(download.value.path()).read_bytes() == report.with_name(file).read_bytes()


def test_hostile_names_are_only_text(open_report: Open) -> None:
    """They can be read, and nothing they ask for happened (the fixture listens for dialogs)."""
    page = open_report()
    page.click("text=Table: Every run")
    assert page.locator("#runs td", has_text=HOSTILE_NAMES[0]).count() > 0
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.locator("h1").inner_text() == "<script>alert(1)<∕script>"


def test_dark_follows_the_system_and_the_button(open_report: Open) -> None:
    """Page and charts swap together."""
    colours = (
        "[getComputedStyle(document.documentElement).backgroundColor,"
        " getComputedStyle(document.querySelector('.chart text')).fill]"
    )
    light = open_report(color_scheme="light")
    dark = open_report(color_scheme="dark")
    bright, dim = light.evaluate(colours), dark.evaluate(colours)
    assert bright[0] != dim[0]
    assert bright[1] != dim[1]
    light.click(".theme")
    light.click(".theme")
    assert light.evaluate(colours) == dim


def test_it_prints_without_its_tools(open_report: Open) -> None:
    """In light, with all rows, without menus and buttons."""
    page = open_report(color_scheme="dark")
    shown = page.locator("#leaderboard tbody tr").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator(".toc").is_visible()
    assert not page.locator("#leaderboard_wrapper .dt-buttons").is_visible()
    assert page.locator("#leaderboard tbody tr").count() > shown
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(254, 254, 254)"
    assert len(page.pdf()) > 50_000


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_nothing_breaks_the_rules_of_accessibility(open_report: Open, width: int, scheme: str) -> None:
    """No violation of level A or AA found by axe-core, with every disclosure open."""
    page = open_report(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    page.wait_for_selector("#runs_wrapper")
    found = Axe().run(page, options=LEVELS)
    assert found.violations_count == 0, found.generate_report()


def test_everything_is_reached_by_keyboard(open_report: Open) -> None:
    """The skip link comes first; a heading sorts and a disclosure opens on Enter; a wide table scrolls."""
    page = open_report()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(f"{head(page, 'examples/s')} [role=button]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{head(page, 'examples/s')}[aria-sort=ascending]")
    page.locator("summary", has_text="Every run").focus()
    page.keyboard.press("Enter")
    assert page.locator("#runs").is_visible()
    assert page.locator("#leaderboard_wrapper .dt-layout-table").get_attribute("tabindex") == "0"


def test_without_javascript_it_reads_the_same(open_report: Open) -> None:
    """All rows of the leaderboard, tables behind disclosures, and a packed CSV to save."""
    page = open_report(java_script_enabled=False)
    rows = page.locator("#leaderboard tbody tr")
    assert rows.count() > 30
    assert rows.last.is_visible()
    page.click("text=Table: Every run")
    assert page.locator("#runs").is_visible()
    assert page.locator("a[download='results.csv.gz']").is_visible()


def test_a_phone_scrolls_down_only(open_report: Open) -> None:
    """Nothing is wider than the screen; wide tables scroll inside themselves."""
    page = open_report(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map((chart) => chart.getBoundingClientRect().width)"
    )
    assert min(sizes) > 250
    assert max(sizes) <= 390


def test_the_question_in_sight_is_marked_in_the_list(open_report: Open) -> None:
    """As one scrolls."""
    page = open_report()
    page.click(".toc >> text=Learning curves")
    page.wait_for_selector(".toc a[href='#learning'][aria-current]")
    assert page.locator(".toc a[aria-current]").count() == 1
