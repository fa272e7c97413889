"""What a large batch costs, which optimizer is robust, how cells learned, which classes go wrong (rules 10, 18)."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit
from mnistbench.analysis.frames import Record


def accuracy_by_batch(frame: pd.DataFrame) -> Exhibit:
    """Test accuracy by batch size, less the series' best batch.

    Columns: group, settings, label, series (all but the batch size), architecture_label, optimizer_label, device,
    batch_size, lr_scaling (`none`, `linear`, `sqrt`), n, test_accuracy (median of the last epoch), low, high
    (range or interval), interval (text), values (list), drop (median less that of the best batch: ≤ 0, a share),
    best_batch, diverged (number of seeds that diverged).
    """
    raise NotImplementedError


def worst_drops(frame: pd.DataFrame, *, limit: int = 20) -> Exhibit:
    """The largest losses of accuracy against the best batch of the same series.

    Columns: group, series, architecture_label, optimizer_label, device, lr_scaling, batch_size, best_batch,
    test_accuracy, best_accuracy, drop (≤ 0, a share), n, diverged.
    """
    raise NotImplementedError


def optimizer_ranking(frame: pd.DataFrame) -> Exhibit:
    """Optimizers by test accuracy within the same architecture, batch size and device.

    Columns: group, architecture_label, batch_size, device, optimizer_label, schedule_label, tuning (`as given` or
    `tuned over k trials`), rank (1 + number proven better; NA below 10 seeds), order, n, test_accuracy (median), low,
    high, interval, seconds_to_target (median), reached, diverged.
    """
    raise NotImplementedError


def learning_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Loss and accuracy by epoch, medians over seeds.

    Columns: group, settings, label, architecture_label, optimizer_label, batch_size, device, epoch, n, and for each of
    train_loss, test_loss, train_accuracy, test_accuracy: the median, with `_low` and `_high` (range over seeds).
    """
    raise NotImplementedError


def confusion(records: Iterable[Record], frame: pd.DataFrame) -> Exhibit:
    """Confusion matrix of the best cell (highest test accuracy at the last epoch), in long form.

    Columns: true, predicted (class numbers), count, share (of the true class). `notes[0]` names the cell. Per-class
    errors are `per_class(exhibit.frame)`.
    """
    raise NotImplementedError


def per_class(confusions: pd.DataFrame) -> pd.DataFrame:
    """Errors by class from the frame of `confusion`.

    Columns: true, examples, errors, error (share), most_confused_with (class number or None), times.
    """
    raise NotImplementedError
