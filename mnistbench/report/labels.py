"""Short names for settings in one frame: the parts that tell them apart, and no others."""

from __future__ import annotations

import pandas as pd

_PARTS = {
    "dataset": "dataset_label",
    "architecture": "architecture_label",
    "optimizer": "optimizer_label",
    "schedule": "schedule_label",
    "training": "training_label",
    "batch": "batch_size",
    "device": "device",
    "execution": "execution_label",
}
_ALWAYS = {"architecture", "optimizer", "batch"}


def labels(frame: pd.DataFrame, key: str = "settings", *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """A label for each value of the column `key`, unique, for example `lenet5 · adam · batch 512 · cpu`.

    Architecture, optimizer and batch size always stand in it, other parts where they differ within the frame.

    Args:
        frame: of `results_frame`.
        key: `settings`, or `any_batch`, `any_device`, `any_execution`, `any_optimizer`.
        without: parts to leave out (`batch`, `device`, `execution`, `optimizer`, `schedule`, …), as `key` does.
    """
    first = frame.drop_duplicates(key).set_index(key)
    shown = [
        part
        for part, column in _PARTS.items()
        if part not in without and (part in _ALWAYS or frame[column].nunique() > 1)
    ]
    named = {
        str(index): " · ".join(_text(part, row[_PARTS[part]]) for part in shown)
        for index, row in zip(first.index, first.to_dict("records"), strict=True)
    }
    counts = pd.Series(named, dtype="str").value_counts()
    return {index: text if counts[text] == 1 else f"{text} [{index[:6]}]" for index, text in named.items()}


def _text(part: str, value: object) -> str:
    return f"batch {value}" if part == "batch" else str(value)
