"""Every figure of the page against the records: its tables are read back, and worked out again by other means.

Nothing of `mnistbench.report` is used to compute: medians, ranges and ratios come from the records with `statistics`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import pytest
from report_pages import Page, write_folder
from synthetic import make_grid_records

from mnistbench.report import render
from mnistbench.results.records import RESULTS, CellRecord, EpochMeasurement

pytestmark = pytest.mark.slow

TARGET = 0.97
UNREACHED = 1.7e308
Key = tuple[str, ...]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def records() -> list[CellRecord]:
    """Two devices, two profiles, failures of every kind."""
    return make_grid_records(devices=["cpu", "cuda"], executions=["fast", "plain"], failing=0.08, batch_sizes=[64, 512])


@pytest.fixture(scope="module")
def page(records: list[CellRecord], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Their page, read back."""
    folder = tmp_path_factory.mktemp("figures") / "quick"
    out = render([write_folder(folder, records)], folder / "report.html")
    return Page.of(out.read_text(encoding="utf-8"))


def rows_of(page: Page, table: str) -> list[Row]:
    """A table's rows by the titles of its columns: numbers as a sort reads them, else as their text says, else text."""
    titles = [cell.attributes["data-title"] for cell in page.all("th", inside=table)]
    kinds = [cell.attributes["data-kind"] for cell in page.all("th", inside=table)]
    rows: dict[int, list[Any]] = defaultdict(list)
    for cell in page.all("td", inside=table):
        rows[id(cell.parents[-1])].append(cell)
    return [
        {title: value_of(cell, kind) for title, kind, cell in zip(titles, kinds, row, strict=True)}
        for row in rows.values()
    ]


def value_of(cell: Any, kind: str) -> Any:
    if cell.text == "–":
        return None
    if order := cell.attributes.get("data-order"):
        return float(order)
    if kind in ("text", "words", "name", "long", "code", "command", "tag"):
        return cell.text
    text = cell.text.replace(",", "").replace("−", "-")
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def key_of(record: CellRecord) -> Key:
    cell = record.cell
    parts = (cell.architecture, cell.optimizer, cell.batch_size, cell.device, cell.execution)
    return tuple(str(getattr(part, "label", part)) for part in parts)


def key_in(row: Row) -> Key:
    batch = f"{row['batch']:.0f}"
    return (row["architecture"], row["optimizer"], batch, row["device"], row["execution"])


def by_settings(records: Iterable[CellRecord], statuses: Iterable[str]) -> dict[Key, list[CellRecord]]:
    """Measured runs, twins apart."""
    found: dict[Key, list[CellRecord]] = defaultdict(list)
    for record in records:
        if record.cell.repeat == 0 and record.status in statuses:
            found[key_of(record)].append(record)
    return found


def rate(record: CellRecord) -> float:
    return sum(epoch.examples for epoch in record.epochs) / sum(epoch.train_seconds for epoch in record.epochs)


def last_accuracy(record: CellRecord) -> float | None:
    return record.epochs[-1].test_accuracy if record.epochs else None


def first_at_target(record: CellRecord) -> EpochMeasurement | None:
    return next((epoch for epoch in record.epochs if (epoch.test_accuracy or 0) >= TARGET), None)


def seconds_to_target(record: CellRecord) -> float:
    first = first_at_target(record)
    return math.inf if first is None else sum(epoch.train_seconds for epoch in record.epochs[: first.epoch])


def middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def same(shown: float | None, right: float | None, *, rel: float = 1e-8, absolute: float = 0.0) -> bool:
    if right is None or shown is None:
        return shown == right
    if math.isinf(right):
        return shown == UNREACHED
    return shown == pytest.approx(right, rel=rel, abs=absolute)


RATE = {"rel": 5.1e-3}
"""Three digits, where the text itself is what a sort reads."""
PERCENT = {"rel": 0.0, "absolute": 5.1e-5}


def test_the_leaderboard(page: Page, records: list[CellRecord]) -> None:
    settings = by_settings(records, RESULTS)
    rows = rows_of(page, "leaderboard")
    assert {key_in(row) for row in rows} == set(settings)
    times = [row["time to target"] for row in rows]
    assert times == sorted(times)
    assert [row["#"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        runs = settings[key_in(row)]
        reached = [first for run in runs if (first := first_at_target(run))]
        cold = [first.cold_seconds if (first := first_at_target(run)) else math.inf for run in runs]
        times_here = [seconds_to_target(run) for run in runs]
        assert same(row["time to target"], math.sqrt(math.prod(times_here)) if len(runs) == 2 else median(times_here))
        assert row["reached"] == len(reached)
        assert same(row["test accuracy"], middle(map(last_accuracy, runs)), **PERCENT)
        assert same(row["examples/s"], middle(rate(run) for run in runs if run.epochs), **RATE)
        if math.isfinite(median(cold)):
            assert same(row["from cold"], median(cold))
        lost = sum(run.status == "diverged" for run in runs)
        assert (row.get("diverged seeds") or 0) == lost


def test_throughput(page: Page, records: list[CellRecord]) -> None:
    settings = by_settings(records, ["finished", "out_of_memory"])
    rows = rows_of(page, "throughput-table")
    assert {key_in(row) for row in rows} == set(settings)
    for row in rows:
        rates = [rate(run) for run in settings[key_in(row)] if run.status == "finished"]
        if len(rates) >= 3:
            assert same(row["training examples/s"], median(rates), **RATE)
            assert same(row["low"], min(rates), **RATE)
            assert same(row["high"], max(rates), **RATE)
            assert row["interval"] == f"range of {len(rates)}"


def test_accuracy_by_batch(page: Page, records: list[CellRecord]) -> None:
    settings = by_settings(records, ["finished", "diverged"])
    medians = {key: middle(map(last_accuracy, runs)) for key, runs in settings.items()}
    rows = rows_of(page, "accuracy-by-batch")
    assert {key_in(row) for row in rows} == set(settings)
    for row in rows:
        key = key_in(row)
        series = {other: value for other, value in medians.items() if other[:2] + other[3:] == key[:2] + key[3:]}
        best = max(series, key=lambda other: series[other] or 0)
        assert same(row["test accuracy"], medians[key], **PERCENT)
        assert row["best batch"] == float(best[2])
        assert same(row["points against best batch"], (medians[key] or 0) - (series[best] or 0), absolute=1e-9)


def test_learning_curves(page: Page, records: list[CellRecord]) -> None:
    found: dict[tuple[str, ...], list[EpochMeasurement]] = defaultdict(list)
    for record in records:
        if record.cell.repeat == 0 and record.status in RESULTS:
            for epoch in record.epochs:
                found[(*key_of(record)[:4], str(epoch.epoch))].append(epoch)
    shown = Counter((*key_in({**row, "execution": ""})[:4], f"{row['epoch']:.0f}") for row in rows_of(page, "curves"))
    assert set(shown) == set(found)
    assert sum(row["seeds"] for row in rows_of(page, "curves")) == sum(map(len, found.values()))


def test_every_run(page: Page, records: list[CellRecord]) -> None:
    by_id = {record.cell_id: record for record in records}
    rows = rows_of(page, "runs")
    assert sorted(row["cell"] for row in rows) == sorted(by_id)
    for row in rows:
        record = by_id[row["cell"]]
        assert row["status"] == record.status.replace("_", " ")
        assert same(row["test accuracy"], last_accuracy(record), **PERCENT)
        assert same(row["examples/s"], rate(record) if record.epochs else None, **RATE)
        reached = seconds_to_target(record)
        assert same(row["time to target"], None if math.isinf(reached) else reached)
        if record.epochs:
            assert same(row["training"], sum(epoch.train_seconds for epoch in record.epochs))


def test_what_failed(page: Page, records: list[CellRecord]) -> None:
    rows = rows_of(page, "failures-table")
    right = Counter(record.status.replace("_", " ") for record in records if record.status != "finished")
    assert Counter(row["status"] for row in rows) == right


@pytest.mark.parametrize("table", ["speed-ups-table", "levers-table"])
def test_ratios_of_speeds(page: Page, records: list[CellRecord], table: str) -> None:
    settings = by_settings(records, ["finished"])
    sides: dict[str, Callable[[Row], tuple[Key, Key]]] = {
        "speed-ups-table": lambda row: (
            (row["architecture"], row["optimizer"], f"{row['batch']:.0f}", row["device"]),
            (row["architecture"], row["optimizer"], f"{row['batch']:.0f}", row["over"]),
        ),
        "levers-table": lambda row: (
            (row["architecture"], row["optimizer"], f"{row['batch']:.0f}", row["device"], row["lever"]),
            (row["architecture"], row["optimizer"], f"{row['batch']:.0f}", row["device"], row["profile"]),
        ),
    }
    rows = [row for row in rows_of(page, table) if row.get("clock", "steady") == "steady"]
    assert rows
    for row in rows:
        first, second = sides[table](row)
        column = "speed-up" if table == "speed-ups-table" else "throughput ratio"
        ends = [""] if len(first) == 5 else ["fast", "plain"]  # the table of devices may leave the execution out
        right = [
            (min(len(runs[0]), len(runs[1])), median(map(rate, runs[0])) / median(map(rate, runs[1])))
            for end in ends
            if all(runs := [settings[(*side, end)[:5]] for side in (first, second)])
        ]
        assert any(row["n"] == n and same(row[column], ratio) for n, ratio in right)


def test_noise(page: Page, records: list[CellRecord]) -> None:
    for row in rows_of(page, "noise-table"):
        own = [item for item in records if item.cell.device == row["device"] and item.status == "finished"]
        assert row["runs"] == len(own)
        assert row["quiet"] == sum(not item.noise.flags for item in own if item.noise)


def test_classes(page: Page, records: list[CellRecord]) -> None:
    done = [item for item in records if item.status == "finished" and item.cell.repeat == 0]
    best = max(done, key=lambda item: last_accuracy(item) or 0)
    assert best.model is not None
    assert best.model.confusion is not None
    for row, counts in zip(rows_of(page, "classes-table"), best.model.confusion, strict=True):
        assert row["examples"] == sum(counts)
        assert row["errors"] == sum(counts) - counts[int(row["class"])]


def test_the_pareto_front(page: Page, records: list[CellRecord]) -> None:
    points = []
    for key, runs in by_settings(records, RESULTS).items():
        for number in (1, 2):
            there = [run for run in runs if len(run.epochs) >= number]
            if there:
                seconds = median(sum(epoch.train_seconds for epoch in run.epochs[:number]) for run in there)
                points.append((seconds, 1 - median(run.epochs[number - 1].test_accuracy or 0 for run in there), key))
    front, least = [], math.inf
    for seconds, error, key in sorted(points):
        if error < least:
            front.append((seconds, error, key[:4]))
            least = error
    shown = [(row["training time"], row["test error"], row) for row in rows_of(page, "pareto-table")]
    assert [item[0] for item in shown] == pytest.approx([item[0] for item in front])
    assert [item[1] for item in shown] == pytest.approx([item[1] for item in front], abs=5.1e-5)


def test_optimizers(page: Page, records: list[CellRecord]) -> None:
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for key, runs in by_settings(records, ["finished", "diverged"]).items():
        found[key[:4]].append(middle(map(last_accuracy, runs)) or 0)
    for row in rows_of(page, "optimizers"):
        medians = found[row["architecture"], row["optimizer"], f"{row['batch']:.0f}", row["device"]]
        assert any(same(row["test accuracy"], value, **PERCENT) for value in medians)
