"""The report as a file: one page, every question answered or its absence explained, nothing from outside."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_pages import Page, rendered, write_folder
from rich.console import Console
from speed_sessions import make_session, write_session
from synthetic import HOSTILE_NAMES, make_cell, make_grid_records, make_record

from mnistbench.cli.outcome import print_best
from mnistbench.errors import UserError
from mnistbench.report import render
from mnistbench.report.frame import results_frame
from mnistbench.report.page import _beside, read_study
from mnistbench.report.sections import section, sections
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import Data

SECTIONS = [
    "devices", "levers", "first", "optimizers", "large-batches", "throughput", "time", "noise", "learning", "classes",
    "failures", "repeat",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two devices and two profiles, with failures of every kind, and their report."""
    folder = tmp_path_factory.mktemp("report") / "quick"
    records = make_grid_records(
        devices=["cpu", "cuda"], executions=["fast", "plain"], failing=0.06, hostile=False, batch_sizes=[64, 512]
    )
    write_folder(folder, records, "name: quick\narchitectures: [mlp]\n")
    (folder / "cells" / "broken.json").write_text("{", encoding="utf-8")
    render([folder], folder / "report.html", folder / "figures")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """Its page."""
    return Page.of((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page whose every name is hostile."""
    records = make_grid_records(
        architectures=HOSTILE_NAMES[:4], optimizers=HOSTILE_NAMES[4:], batch_sizes=[64], seeds=2, failing=0.2
    )
    return rendered(tmp_path_factory.mktemp("hostile") / '<img src=x onerror="alert(1)">', records)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page where everything failed."""
    return rendered(tmp_path_factory.mktemp("failed") / "failed", make_grid_records(failing=1.0, seeds=1))


def test_every_question_has_its_section_in_order(page: Page) -> None:
    """Verdict first, then the questions as people ask them."""
    sections = [element.attributes["id"] for element in page.all("section")]
    assert sections == SECTIONS
    contents = [link.attributes["href"] for link in page.all("a") if link.parents[-1].tag == "li"]
    assert [link for link in contents if link.startswith("#")] == [f"#{name}" for name in SECTIONS]
    assert page.all("ul", "verdict")[0].text.strip()


@pytest.mark.parametrize("section", ["first", "time", "devices", "throughput", "large-batches", "noise", "learning"])
def test_every_exhibit_has_a_chart_and_its_table(page: Page, section: str) -> None:
    """Each chart's numbers stand in a table of the same section."""
    assert page.all("svg", inside=section)
    assert page.all("table", inside=section)


def test_levers_and_classes_are_drawn_too(page: Page) -> None:
    """The profiles against each other, and the confusion of the best cell."""
    assert page.all("svg", inside="levers")
    assert len(page.all("svg", inside="classes")) == 2


def test_every_figure_has_alternative_text_from_its_data(page: Page) -> None:
    """The label of the picture is its caption, and holds a number."""
    for figure in page.all("figure"):
        picture = next(item for item in page.elements if item.tag == "svg" and figure in item.parents)
        caption = next(item for item in page.elements if item.tag == "figcaption" and figure in item.parents)
        assert picture.attributes["role"] == "img"
        assert picture.attributes["aria-label"] == caption.text
        assert re.search(r"\d", caption.text)


def test_the_page_asks_the_network_for_nothing(page: Page) -> None:
    """No address leads out: only anchors and data inside."""
    for element in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            if name in element.attributes:
                assert element.attributes[name].startswith(("#", "data:")), element
    styles = "".join(element.text for element in page.all("style"))
    assert "@import" not in styles
    assert not re.search(r"url\((?!#)", styles)


def test_the_policy_lets_only_our_own_style_and_script_in(page: Page) -> None:
    """Checksums of exactly what stands in the page; nothing inline, no eval, no connection."""
    policy = next(
        element.attributes["content"]
        for element in page.all("meta")
        if element.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (element,) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_no_element_carries_style_or_handlers(page: Page) -> None:
    """The policy would block them, and say so in the console."""
    for element in page.elements:
        assert not [name for name in element.attributes if name == "style" or name.startswith("on")], element


def test_ids_are_unique(page: Page, hostile: Page) -> None:
    """Across all charts and tables."""
    for one in (page, hostile):
        counts = Counter(element.attributes["id"] for element in one.elements if "id" in element.attributes)
        assert [name for name, times in counts.items() if times > 1] == []


def test_a_question_without_data_is_one_line(failed: Page) -> None:
    """At the end, with the reason; it has no heading, and no entry in the list of contents."""
    (line,) = failed.all("p", "why")
    assert "GPU or CPU? Cells finished on one device only" in line.text
    assert "devices" not in [element.attributes["id"] for element in failed.all("section")]
    assert "GPU or CPU" not in failed.all("nav")[0].text


@pytest.mark.slow
def test_the_page_leads_with_what_the_grid_varies(tmp_path: Path) -> None:
    """Levers before a target that nobody asked for, and a target before the optimizers."""

    def leading(name: str, **grid: Any) -> list[str]:
        page = rendered(tmp_path / name, make_grid_records(seeds=1, twins=0, architectures=["mlp"], **grid))
        return [element.attributes["id"] for element in page.all("section")][:2]

    one = {"optimizers": ["sgd"], "batch_sizes": [64]}
    assert leading("levers", executions=["fast", "plain"], target=None, **one) == ["levers", "first"]
    assert leading("race", optimizers=["sgd", "adam"], batch_sizes=[64]) == ["first", "optimizers"]
    assert leading("batches", optimizers=["sgd"], batch_sizes=[64, 512], target=None)[0] == "large-batches"


@pytest.mark.slow
def test_profiles_are_no_repeats_of_each_other(tmp_path: Path) -> None:
    """A line is one execution's, and a rank says whose it is."""
    records = make_grid_records(
        architectures=["mlp"], batch_sizes=[64, 512], executions=["fast", "plain"], seeds=1, twins=0
    )
    page = rendered(tmp_path / "profiles", records)
    shown = {"large-batches": ["fast", "plain"], "learning": 2 * ["adam · fast", "adam · plain"]}
    for question, charts in shown.items():
        titles = [title.text for title in page.all("p", "title", inside=question)]
        assert [title for title in titles if "sgd" not in title] == charts
    cells = [cell.text for cell in page.all("td", inside="optimizers")]
    assert cells.count("fast") == cells.count("plain") == 4


def test_every_file_of_a_section_is_in_the_list() -> None:
    """A section is its file and its line."""
    files = {path.stem for path in Path(section.__file__).parent.glob("*.py")} - {"__init__", "section"}
    listed = {each.answer.__module__.rpartition(".")[2] for each in sections(results_frame([]))}
    assert listed == files


def test_where_everything_failed_the_reasons_are_there(failed: Page) -> None:
    """Status, reason, log, and the command that reruns it."""
    text = next(element for element in failed.all("section") if element.attributes["id"] == "failures").text
    assert "shapes cannot be multiplied" in text
    assert "<b>last words</b>" in text
    assert "--only" in text
    assert not failed.all("b")


def test_hostile_names_come_out_as_they_are(hostile: Page) -> None:
    """Every one can be read in the table, and none became an element."""
    cells = {element.text for element in hostile.all("td", inside="repeat")}
    for name in HOSTILE_NAMES:
        assert name in cells
    assert len(hostile.all("script")) == 1
    assert not hostile.all("img")


def test_names_are_kept_apart_from_the_text_around_them(hostile: Page) -> None:
    """A right-to-left override ends with the name: each stands in a bdi."""
    turned = [element for element in hostile.all("bdi") if "\u202e" in element.text]
    assert turned
    holders = {"script", "style", "html", "body", "svg"}
    loose = [
        element
        for element in hostile.elements
        if "\u202e" in element.text and element.tag in ("td", "li", "figcaption", "h1", "h3", "dd")
        and not any(element in bdi.parents for bdi in turned)
    ]  # fmt: skip
    assert [element for element in loose if element.tag not in holders] == []


def test_the_csv_inside_the_page_is_the_csv_beside_it(folder: Path, page: Page) -> None:
    """Unpacked, it is the same to the last byte."""
    links = [link for link in page.all("a") if "data-unpacked" in link.attributes]
    assert [link.attributes["download"] for link in links] == ["results.csv.gz", "epochs.csv.gz"]
    for link in links:
        packed = base64.b64decode(link.attributes["href"].partition("base64,")[2])
        beside = folder / link.attributes["data-unpacked"]
        assert gzip.decompress(packed) == beside.read_bytes()


def test_the_csv_has_one_row_a_cell(folder: Path) -> None:
    """As pandas reads it."""
    frame = pd.read_csv(folder / "results.csv")
    assert len(frame) == len(list((folder / "cells").glob("*.json"))) - 1
    assert {"cell_id", "status", "test_accuracy", "examples_per_second", "seconds_to_target"} <= set(frame.columns)


def test_a_summary_lies_beside_it(folder: Path) -> None:
    """What one pastes into an issue."""
    assert (folder / "summary.md").read_text(encoding="utf-8").startswith("# quick")


def test_figures_come_as_svg_and_png(folder: Path, page: Page) -> None:
    """One pair for each figure of the page."""
    files = list((folder / "figures").iterdir())
    stems = Counter(file.stem for file in files)
    assert len(stems) == len(page.all("figure"))
    assert set(stems.values()) == {2}
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG" if file.suffix == ".png" else b"<?xml")


def test_a_file_that_is_no_record_is_shown(page: Page) -> None:
    """Counted at the top, named below, with the reason."""
    assert any("1 file could not be read" in item.text for item in page.all("li"))
    assert any(item.text == "broken.json" for item in page.all("td", inside="failures"))


def test_the_grid_and_the_environment_are_there(page: Page) -> None:
    """What it takes to do it again."""
    text = next(element for element in page.all("section") if element.attributes["id"] == "repeat").text
    for wanted in ("architectures: [mlp]", "torch 2.15.0+cu132", "Fast GPU", "SHA-256 d1f3", "0123abc"):
        assert wanted in text


@pytest.mark.slow
def test_fallback_data_are_said_loudly(tmp_path: Path) -> None:
    """In the first screen, marked."""
    records = [make_record(make_cell(seed=seed), data=Data(sha256="d1f3", fallback=True)) for seed in range(2)]
    page = rendered(tmp_path / "fallback", records)
    assert "not at hand" in page.all("li", "loud")[0].text


@pytest.mark.slow
def test_what_is_typed_is_code_in_the_sentences_of_a_page(tmp_path: Path) -> None:
    old = make_record(make_cell(architecture="resnet"), training_revision=1)
    page = rendered(tmp_path / "old", [old, make_record(make_cell(architecture="a`b"))])
    (banner,) = (item for item in page.all("li") if "outdated: an older release" in item.text)
    assert [element.text for element in page.all("code") if banner in element.parents] == ["run"]
    assert "`" not in banner.text
    assert any("a`b" in item.text for item in page.all("ul", "verdict"))


@pytest.mark.slow
def test_two_machines_stand_apart(tmp_path: Path) -> None:
    """Merged into one page, each with a leaderboard of its own."""
    one, two = (
        write_folder(tmp_path / name, make_grid_records(machines=[name], batch_sizes=[64], seeds=1))
        for name in ("laptop", "server")
    )
    render([one, two], tmp_path / "both.html")
    page = Page.of((tmp_path / "both.html").read_text(encoding="utf-8"))
    headings = [element.text for element in page.all("h3", inside="first")]
    assert any("laptop" in text for text in headings)
    assert any("server" in text for text in headings)
    assert "laptop and server" in page.all("h1")[0].text


@pytest.mark.slow
def test_the_same_folder_twice_counts_once(tmp_path: Path) -> None:
    """A record is itself, wherever it lies."""
    folder = write_folder(tmp_path / "one", make_grid_records(batch_sizes=[64], seeds=1, twins=0))
    render([folder, folder], tmp_path / "both.html")
    assert len(pd.read_csv(tmp_path / "both-results.csv")) == 4


@pytest.mark.slow
def test_what_lies_beside_a_page_carries_its_name_and_replaces_nothing(tmp_path: Path) -> None:
    """Neither files of whoever stands in that folder, nor those of another report there."""
    theirs = {"results.csv": "a,b", "epochs.csv": "c", "summary.md": "my own"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    for name, seeds in (("one", 1), ("two", 2)):
        folder = write_folder(tmp_path / "folders" / name, make_grid_records(batch_sizes=[64], seeds=seeds, twins=0))
        for _ in range(2):
            render([folder], tmp_path / f"{name}.html")
    assert {name: (tmp_path / name).read_text() for name in theirs} == theirs
    rows = [len(pd.read_csv(tmp_path / f"{name}-results.csv")) for name in ("one", "two")]
    assert rows[1] == 2 * rows[0]
    assert (tmp_path / "two-summary.md").read_text().startswith("# two")


@pytest.mark.parametrize("name", ["page.html", "page-summary.md", "page-results.csv", "page-epochs.csv"])
def test_a_file_that_no_report_wrote_is_not_written_over(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<p>mine</p>")
    with pytest.raises(UserError, match=f"{name} is there already, and no report wrote it"):
        render([folder], tmp_path / "page.html")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "<p>mine</p>")]


def test_a_page_is_not_written_over_a_device(folder: Path) -> None:
    with pytest.raises(UserError, match="no report wrote it"):
        render([folder], Path(os.devnull))


def test_published_reports_are_known_as_ours() -> None:
    published = ResultsFolder(Path(__file__).parents[2] / "results" / "reference" / "quick")
    beside = _beside(published.report_file, is_own=True)
    assert [path.name for path in beside] == ["summary.md", "results.csv", "epochs.csv", "speed.csv"]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    """With its name; nothing is written."""
    with pytest.raises(UserError, match="no-such"):
        render([tmp_path / "no-such"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    """That says so, and draws nothing."""
    page = rendered(tmp_path / "empty", [])
    assert "nothing to report yet" in page.all("ul", "verdict")[0].text
    assert not page.all("svg")
    assert page.all("p", "why")[0].text.count("?") >= 9


@pytest.mark.slow
def test_two_cells_make_a_page(tmp_path: Path) -> None:
    """One setting, run once and its twin: no verdicts, no crash."""
    records = make_grid_records(architectures=["mlp"], optimizers=["sgd"], batch_sizes=[64], seeds=1)
    page = rendered(tmp_path / "two", records)
    assert page.all("table", inside="first")
    assert "one run" in page.all("table", inside="first")[0].text


@pytest.mark.slow
def test_different_targets_are_ranked_apart(tmp_path: Path) -> None:
    """A time to 90 % is no time to 97 %."""
    records = [
        *make_grid_records(batch_sizes=[64], seeds=1, target=0.97, twins=0),
        *make_grid_records(batch_sizes=[512], seeds=1, target=0.9, twins=0),
    ]
    page = rendered(tmp_path / "targets", records)
    headings = " ".join(element.text for element in page.all("h3", inside="first"))
    assert "target 97 %" in headings
    assert "target 90 %" in headings


@pytest.mark.slow
def test_a_page_of_600_cells_is_small_and_says_what_it_thins(tmp_path: Path) -> None:
    """At most 3 MB, and curves that are left out are counted in a notice."""
    records = make_grid_records(
        architectures=["mlp", "lenet5", "cnn", "resnet"], optimizers=["sgd", "adam", "rmsprop", "adagrad", "adamw"],
        batch_sizes=[64, 256, 1024, 4096, 8192], devices=["cpu", "cuda"], seeds=3, epochs=3, failing=0.04,
    )  # fmt: skip
    assert len(records) > 600
    page = rendered(tmp_path / "six", records)
    assert len(page.source.encode()) <= 3_000_000
    assert page.all("p", "notice", inside="learning")[0].text.startswith("12 of 40 combinations")


@pytest.mark.slow
def test_a_page_of_a_folder_with_blocks_has_ranks_and_offers_them(tmp_path: Path) -> None:
    records = make_grid_records(batch_sizes=[64, 512], devices=["cpu", "cuda"], executions=["fast", "plain"], seeds=1)
    folder = ResultsFolder(write_folder(tmp_path / "timed", records))
    cells = {record.cell.without_seed(): record.cell for record in records if not record.cell.repeat}
    session = make_session({cell: 1e4 * (1 + number % 5) for number, cell in enumerate(cells.values())})
    write_session(folder, session)
    page = Page.of(render([folder], folder.report_file).read_text(encoding="utf-8"))
    said = page.all("ul", "verdict")[0].text
    assert " is first to 97 %" in said.replace("\u00a0", " ")
    assert "differences in throughput are open" in said
    blocks = pd.read_csv(folder.path / "speed.csv")
    assert len(blocks) == 16 * len(cells)
    assert {"session", "cycle", "settings", "seconds", "cause"} <= set(blocks)
    assert "16 blocks" in page.source


@pytest.mark.slow
def test_a_setting_that_was_timed_and_not_trained_yet_has_a_row_with_its_speed(tmp_path: Path) -> None:
    cells = [make_cell(batch_size=batch) for batch in (64, 512, 1024)]
    folder = ResultsFolder(write_folder(tmp_path / "begun", [make_record(cells[0])]))
    folder.write_cells(cells[:2])  # the third has left the grid
    write_session(folder, make_session(dict.fromkeys(cells, 20000.0), spread=0.0, drift=0.0))
    page = Page.of(render([folder], folder.report_file).read_text(encoding="utf-8"))
    for question in ("first", "throughput"):
        (row,) = (element.text for element in page.all("tr", inside=question) if "not trained yet" in element.text)
        assert "512" in row
        assert "20,000" in row
    assert "1 of 2" in page.all("dl", "facts")[0].text
    assert "batch 512 (ranked nowhere: not trained yet)" in (folder.path / "summary.md").read_text()
    console = Console(width=100, record=True, file=io.StringIO())
    print_best(folder, console)
    assert "not trained yet" in console.export_text()


@pytest.mark.slow
def test_a_file_of_the_users_called_speed_csv_stays(tmp_path: Path) -> None:
    records = [make_record(), make_record(make_cell(batch_size=64))]
    folder = ResultsFolder(write_folder(tmp_path / "timed", records))
    write_session(folder, make_session({record.cell: 1e4 for record in records}))
    (folder.path / "speed.csv").write_text("lap,seconds\n1,2\n")
    render([folder], folder.report_file)
    assert (folder.path / "speed.csv").read_text() == "lap,seconds\n1,2\n"
    assert len(pd.read_csv(folder.path / "report-speed.csv")) == 32
    render([folder], folder.report_file)


@pytest.mark.slow
def test_a_damaged_line_of_blocks_is_named_on_the_page(tmp_path: Path) -> None:
    folder = ResultsFolder(write_folder(tmp_path / "timed", [make_record()]))
    path = write_session(folder, make_session({make_cell(): 1e4}))
    path.write_text(path.read_text().replace('"kind": "block"', '"kind": "blocks"', 1))
    page = Page.of(render([folder], folder.report_file).read_text(encoding="utf-8"))
    assert "line 3: it is no line of ours" in page.source


def test_two_folders_with_one_session_count_its_blocks_once(tmp_path: Path) -> None:
    folders = [ResultsFolder(write_folder(tmp_path / name, [make_record()])) for name in ("one", "two")]
    session = make_session({make_cell(): 1e4})
    for folder in folders:
        write_session(folder, session)
    assert len(read_study(folders).blocks) == 16
