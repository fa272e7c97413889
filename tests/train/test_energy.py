"""Joules of timed regions: counters that begin anew, that cannot be read, and that are not the cell's own."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from report_pages import Page, write_folder
from synthetic import all_runs, make_cell, make_record

from mnistbench.report.page import render
from mnistbench.results.measures import MEASURES, whole
from mnistbench.results.records import SCHEMA_VERSION, CellRecord, dump
from mnistbench.results.targets import evaluations
from mnistbench.tracking.content import run_content
from mnistbench.train.energy import EnergyMeter, energy_meter

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two sockets as Linux shows them, with what must not be counted beside them."""
    folder = tmp_path / "powercap"
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for zone, name in zones.items():
        (folder / zone).mkdir(parents=True)
        (folder / zone / "name").write_text(f"{name}\n")
        (folder / zone / "max_energy_range_uj").write_text("262143328850\n")
        set_joules(folder, zone, 1000.0)
    return folder


def set_joules(powercap: Path, zone: str, joules: float) -> None:
    (powercap / zone / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_the_sockets_are_added_and_nothing_is_counted_twice(powercap: Path) -> None:
    meter = energy_meter(CPU, "alone", powercap)
    assert meter.source == "rapl"
    before = meter.read()
    set_joules(powercap, "intel-rapl:0", 1030.0)
    set_joules(powercap, "intel-rapl:1", 1004.5)
    for other in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:2", "intel-rapl-mmio:0"):
        set_joules(powercap, other, 9000.0)
    assert meter.between(before, meter.read()) == pytest.approx(34.5)


def test_a_counter_that_begins_anew_loses_nothing(powercap: Path) -> None:
    """It holds some 262 kJ, an hour of a processor's."""
    meter = energy_meter(CPU, "alone", powercap)
    set_joules(powercap, "intel-rapl:1", 262143.0)
    before = meter.read()
    set_joules(powercap, "intel-rapl:1", 10.0)
    assert meter.between(before, meter.read()) == pytest.approx(10.32885)


def test_cells_that_share_the_machine_get_none(powercap: Path) -> None:
    assert energy_meter(CPU, "shared", powercap).source is None


@pytest.mark.parametrize("lost", ["energy_uj", "max_energy_range_uj"])
def test_one_socket_that_cannot_be_read_leaves_all_unknown(powercap: Path, lost: str) -> None:
    """Half the machine is not its energy."""
    (powercap / "intel-rapl:1" / lost).unlink()
    assert energy_meter(CPU, "alone", powercap) == EnergyMeter()


def test_without_counters_it_is_not_measurable(tmp_path: Path) -> None:
    meter = energy_meter(CPU, "alone", tmp_path / "none")
    assert meter.source is None
    assert meter.read() is None
    assert meter.between(None, None) is None


def test_a_counter_that_goes_while_a_cell_trains_leaves_it_unknown(powercap: Path) -> None:
    meter = energy_meter(CPU, "alone", powercap)
    before = meter.read()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("")
    assert meter.between(before, meter.read()) is None


class Nvml(ModuleType):
    """As much of pynvml as is asked: a GPU's counter of millijoules, which a driver that is loaded anew begins anew."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules: int | None = 7_000_000

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1234"
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "GPU-1234"
        if self.millijoules is None:
            raise RuntimeError("Not Supported")
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    played = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", played)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    return played


def test_a_gpu_tells_its_own(nvml: Nvml) -> None:
    meter = energy_meter(GPU, "alone")
    assert meter.source == "nvml"
    before, nvml.millijoules = meter.read(), 7_012_500
    assert meter.between(before, meter.read()) == pytest.approx(12.5)
    before, nvml.millijoules = meter.read(), 3
    assert meter.between(before, meter.read()) is None


def test_a_gpu_without_a_counter_is_not_measurable(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.millijoules = None
    assert energy_meter(GPU, "alone").source is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_meter(GPU, "alone").source is None


def with_joules(*joules: float | None) -> CellRecord:
    """A record of an epoch each, whose third reaches the target of 0.97."""
    record = make_record(make_cell(), accuracies=(0.9, 0.95, 0.98)[: len(joules)])
    epochs = [
        type(epoch)(**{**vars(epoch), "train_joules": value})
        for epoch, value in zip(record.epochs, joules, strict=True)
    ]
    return record.with_changes(epochs=epochs)


def test_energy_is_told_by_1000_examples_and_to_the_target() -> None:
    record = with_joules(30.0, 20.0, 10.0)
    assert CellRecord.from_json(record.to_json()) == record
    (row,) = all_runs([record]).to_dict("records")
    assert row["train_joules"] == 60.0
    assert row["joules_per_1000_examples"] == pytest.approx(60.0 / 180)
    assert row["joules_to_target"] == 60.0
    points = [(point.key, point.value) for point in run_content(record).points if point.key.startswith("energy/")]
    assert points == [
        *(("energy/train_joules", value) for value in (30.0, 50.0, 60.0)),
        ("energy/joules_to_target", 60.0),
    ]


@pytest.mark.parametrize(
    ("source", "seconds", "told"), [("nvml", 0.3, False), ("nvml", 0.4, True), ("rapl", 0.3, True)]
)
def test_a_training_shorter_than_ten_steps_of_its_counter_has_no_energy(
    source: str, seconds: float, told: bool
) -> None:
    """An H200's counter advances every tenth of a second: epochs of 7 ms had 0 J, and were the cheapest of all."""
    record = with_joules(30.0, 20.0, 10.0)
    assert record.environment is not None
    record = record.with_changes(
        environment=replace(record.environment, energy_source=source),
        epochs=[replace(epoch, train_seconds=seconds) for epoch in record.epochs],
    )
    (row,) = all_runs([record]).to_dict("records")
    for name in ("train_joules", "joules_per_1000_examples", "joules_to_target"):
        assert (row[name] > 0) is told
    last = [point for point in run_content(record).points if point.key.startswith("energy/")]
    assert bool(last) is told
    assert [epoch.train_joules for epoch in record.epochs] == [30.0, 20.0, 10.0]


def test_one_epoch_without_a_number_leaves_the_sum_unknown() -> None:
    record = with_joules(30.0, None, 10.0)
    assert [passed.joules for passed in evaluations(record.epochs)] == [30.0, None, None]
    trained = whole(record)
    assert {measure.name: measure.value(trained) for measure in MEASURES if measure.unit == "J"} == {
        "train_joules": None,
        "joules_per_1000_examples": None,
    }


def test_a_record_of_before_says_nothing_and_is_read() -> None:
    plain = make_record().to_json()
    for epoch in plain["epochs"]:
        del epoch["train_joules"]
    del plain["environment"]["energy_source"]
    old = CellRecord.from_json({**plain, "schema_version": 2})
    assert [epoch.train_joules for epoch in old.epochs] == [None, None]
    assert f'"schema_version": {SCHEMA_VERSION}' in dump(old)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["rapl", None])
def test_the_report_shows_energy_or_says_that_it_is_not_measurable(tmp_path: Path, source: str | None) -> None:
    record = with_joules(30.0, 20.0) if source else make_record()
    assert record.environment is not None
    record = record.with_changes(environment=replace(record.environment, energy_source=source))
    page = render([write_folder(tmp_path / "made", [record])], tmp_path / "page.html").read_text()
    assert ("energy per 1,000 examples" in page) is (source is not None)
    assert ("What does it cost in energy? <bdi>No record says" in page) is (source is None)
    assert ("RAPL" in page) is (source is not None)
    assert ("not measurable here" in page) is (source is None)


@pytest.mark.slow
def test_energy_is_told_by_setting_and_device(tmp_path: Path) -> None:
    """Medians over the seeds, the least of each device in the verdict."""
    records = []
    for device, batch, joules in (("cpu", 64, 240.0), ("cpu", 512, 120.0), ("cuda", 512, 30.0)):
        for seed in range(3):
            record = make_record(make_cell(device=device, batch_size=batch, seed=seed), accuracies=(0.98,))
            epochs = [replace(epoch, train_joules=joules * (1 + seed)) for epoch in record.epochs]
            records.append(record.with_changes(epochs=epochs))
    page = Page.of(render([write_folder(tmp_path / "made", records)], tmp_path / "page.html").read_text())
    rows = [row.text for row in page.all("tr", inside="energy")][1:]
    assert [("cuda" in row, "512" in row) for row in rows] == [(True, True), (False, True), (False, False)]
    for row, median, low, high in zip(rows, ["1.00 J", "4.00 J", "8.00 J"], ["500 mJ", "2.00 J", "4.00 J"],
                                      ["1.50 J", "6.00 J", "12.0 J"], strict=True):  # fmt: skip
        assert median in row and low in row and high in row and "range of 3" in row
    (said,) = (text.text for text in page.all("ul", "verdict"))
    assert "The least energy on cuda: 1.00 J per 1,000 examples with batch 512 · cuda (range of 3; 1 setting)." in said
    assert "with batch 512 · cpu (range of 3; 2 settings, and 8.00 J at most)." in said
