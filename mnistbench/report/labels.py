"""Short names for settings in one frame: the parts that tell them apart; and what all of them share, said once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

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
_WHERE_NOTHING_DIFFERS = ("architecture", "optimizer", "batch")
_SAID_BY_KIND = ("schedule", "execution")
_COMPONENTS = ("architecture", "optimizer")
_TUNED = "lr=tuned"


def labels(frame: pd.DataFrame, key: str = "settings", *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """A label for each value of the column `key`, unique, for example `adam · batch 512`.

    A part stands in it where it differs within the frame; `shared` says the others.

    Args:
        frame: of `results_frame`.
        key: `settings`, or `any_batch`, `any_device`, `any_execution`, `any_optimizer`.
        without: parts to leave out (`batch`, `device`, `execution`, `optimizer`, `schedule`, …), as `key` does.
    """
    frame = shortened(frame)
    first = frame.drop_duplicates(key).set_index(key)
    left = [part for part in _PARTS if part not in without]
    shown = [part for part in left if frame[_PARTS[part]].nunique() > 1]
    shown = shown or [part for part in _WHERE_NOTHING_DIFFERS if part in left]
    named = {
        str(index): " · ".join(_text(part, row, key) for part in shown)
        for index, row in zip(first.index, first.to_dict("records"), strict=True)
    }
    counts = pd.Series(named, dtype="str").value_counts()
    return {index: text if counts[text] == 1 else f"{text} [{index[:6]}]" for index, text in named.items()}


def _text(part: str, row: Mapping[Hashable, Any], key: str) -> str:
    text = str(row[_PARTS[part]])
    if part == "batch":
        return f"batch {text}"
    if part == "optimizer" and key == "settings" and _TUNED in row["optimizer_whole"] and ", lr " not in text:
        return f"{text}, lr {row['lr']:g}"
    return text.replace("=", " ") if part == "training" else text


def shortened(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with networks and optimizers named by what tells them apart; asking twice changes nothing.

    Options that all entries of one name share are left out: `sgd, momentum 0.9` beside `sgd`. A learning rate that was
    picked is named where it belongs to one batch size: `muon, lr 0.02`. `…_whole` has what the label was.
    """
    if "optimizer_whole" in frame:
        return frame
    short = {}
    for axis in _COMPONENTS:
        names = short_names(frame[axis], frame[f"{axis}_label"])
        short[f"{axis}_label"] = frame[f"{axis}_label"].map(names).astype("str")
        short[f"{axis}_whole"] = frame[f"{axis}_label"]
    if frame["batch_size"].nunique() == 1:
        optimizer = short["optimizer_label"]
        tuned = frame["optimizer_label"].str.contains(_TUNED, regex=False)
        short["optimizer_label"] = optimizer.mask(tuned, optimizer + ", lr " + frame["lr"].map("{:g}".format))
    return frame.assign(**short)


def short_names(names: pd.Series[str], whole: pd.Series[str]) -> dict[str, str]:
    """Each label as its name with the options that differ among the labels of that name."""
    short: dict[str, str] = {}
    for name, own in whole.groupby(names, sort=False):
        options = {label: _options(str(name), label) for label in own.unique()}
        common = set.intersection(*(set(parsed) for parsed in options.values()))
        named = {
            label: ", ".join([str(name), *(option.replace("=", " ", 1) for option in parsed if option not in common)])
            for label, parsed in options.items()
        }
        short |= named if len(set(named.values())) == len(named) else {label: label for label in named}
    return short


def _options(name: str, label: str) -> list[str]:
    """The options of a label as they stand in it: `["lr=0.1", "momentum=0.9"]` of `sgd(lr=0.1, momentum=0.9)`."""
    inside = label.removeprefix(name).removeprefix("(").removesuffix(")")
    return inside.split(", ") if inside else []


def shared(frame: pd.DataFrame) -> list[str]:
    """What labels leave out, in sentences: parts that never differ, and options that belong to a name."""
    frame = shortened(frame)
    columns = {part: f"{part}_whole" if part in _COMPONENTS else column for part, column in _PARTS.items()}
    same = [part for part, column in columns.items() if frame[column].nunique() == 1]
    first = frame.assign(**{_PARTS[part]: frame[columns[part]] for part in same}).iloc[0].to_dict()
    named = [f"{part} {first[_PARTS[part]]}" if part in _SAID_BY_KIND else _text(part, first, "") for part in same]
    said = [f"The same in all: {' · '.join(named)}."] if same else []
    options = [
        f"{name} has {', '.join(option.replace('=', ' ', 1) for option in common)}"
        for axis in _COMPONENTS
        if axis not in same
        for name, own in frame[f"{axis}_whole"].groupby(frame[axis], sort=False)
        if (common := _common_options(str(name), own.unique()))
    ]
    if options:
        said.append(f"{'; '.join(options)}.")
    if "optimizer" not in same:
        said.append(f"Settings of the optimizers: {', '.join(sorted(set(frame['tuning'])))}.")
    return said


def _common_options(name: str, whole: Iterable[str]) -> list[str]:
    first, *others = (_options(name, label) for label in whole)
    return [option for option in first if option != _TUNED and all(option in other for other in others)]
