"""A record beside its rerun: what counts as the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make_cell, make_record

from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.results.records import CellRecord
from mnistbench.run.verify import compare, rerun_and_compare


def with_train_loss(record: CellRecord, factor: float, revision: int) -> CellRecord:
    """The same but for the training losses and the code that made it."""
    epochs = [replace(epoch, train_loss=(epoch.train_loss or 0.0) * factor) for epoch in record.epochs]
    return record.with_changes(epochs=epochs, training_revision=revision)


@pytest.mark.parametrize(("factor", "revision", "same"), [(1 + 1e-9, 2, False), (1 + 1e-9, 1, True), (1.01, 1, False)])
def test_losses_of_an_older_release_are_compared_up_to_rounding(factor: float, revision: int, same: bool) -> None:
    """It summed each batch's losses where this one takes their mean; weights and other figures must be equal."""
    record = make_record().with_changes(training_revision=2)
    found = compare(with_train_loss(record, factor, revision), record)
    assert found.same is same
    assert any("older release" in line for line in found.lines) is (revision == 1)


@pytest.mark.slow
def test_a_cell_that_cannot_be_trained_here_is_an_error_and_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose plug-in was not named: nothing was compared, so nothing differs."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path))
    cell = make_cell(dataset=Component(name="sum3", options={"rows": 60}), architecture=Component(name="mine:Net"))
    record = make_record(cell).with_changes(data=None)
    with pytest.raises(UserError, match=r"could not be trained again \(failed\).*mine:Net"):
        rerun_and_compare(record)
