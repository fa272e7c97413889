"""What only shows when a whole grid is known: patterns that match nothing, batches larger than the data, a loss that
does not fit the data or the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mnistbench.cell import Component, Training, canonical_json
from mnistbench.data.datasets import sizes, spec_of
from mnistbench.errors.problems import Place, Problems
from mnistbench.grid.product import AXES, Axes, Entry, GridFile, excluded_by, size

NEEDED_OUTPUTS = {"nll": ("head", "log_softmax"), "bce": ("output", "sigmoid")}


def check_together(grid: GridFile, problems: Problems, *, may_exclude_nothing: bool) -> None:
    """Check the parts of a grid against each other.

    Args:
        grid: whose parts are right, each by itself.
        problems: takes what is wrong.
        may_exclude_nothing: overrides have made the grid smaller, and patterns may have lost what they matched.
    """
    devices = ("auto",) if grid.axes.devices == "auto" else grid.axes.devices
    if not may_exclude_nothing:
        _check_excluded(grid, problems, devices)
    if not grid.count():
        problems.add(Place(grid.source, 1, 1), "no cell is left: `exclude` leaves out all of them")
    _check_included(grid, problems, devices)
    before = len(problems)
    for dataset in (grid.dataset, grid.fallback):
        if dataset is not None and (classes := _known_classes(dataset)) is not None:
            check_losses(grid, dataset.name, classes, problems)
    if len(problems) == before:  # of a loss that does not fit the data, no network's output is to be mended
        _check_outputs(grid, problems)


def check_batches(grid: GridFile, dataset: str, train_examples: int, problems: Problems) -> None:
    """Check batch sizes and the validation split against the size of the data."""
    for axes in (grid.axes, *grid.include):
        for training in axes.values("training"):
            held_out = int(training.options.get("validation_examples", 0))
            left = train_examples - held_out
            if left <= 0:
                message = (
                    f"{held_out:,} validation examples leave none of the {train_examples:,} of {dataset} to train on"
                )
                end = "; `tune` holds them out, and takes its own number as `validation_examples`" if grid.tune else ""
                problems.add(axes.trainings[0].place, message + end)
            for batch in axes.batch_sizes:
                if batch != "full" and batch > left > 0:
                    problems.add(
                        grid.batch_size_places.get(batch, Place(grid.source)),
                        f"batch size {batch:,} is larger than the {left:,} training examples of {dataset}; "
                        "write `full` for all of them",
                    )


def _check_excluded(grid: GridFile, problems: Problems, devices: Sequence[str]) -> None:
    for pattern in grid.exclude:
        known = replace(pattern, device=None) if grid.axes.devices == "auto" else pattern
        if not excluded_by(grid.axes, known, devices):
            problems.add(pattern.place, "this entry of `exclude` leaves out nothing: no cell is like it")


def _check_included(grid: GridFile, problems: Problems, devices: Sequence[str]) -> None:
    if not grid.include:
        return
    there = {axis: {_trained(axis, value) for value in grid.axes.values(axis, devices)} for axis in AXES}
    for axes in grid.include:
        if grid.tune and (used := sorted(set(axes.seeds) & set(grid.tune.seeds))):
            problems.add(axes.place, f"seed {used[0]} is one of `tune`'s; an entry of `include` is measured on others")
        for point in axes.product(devices):
            inside = all(_trained(axis, value) in there[axis] for axis, value in point.items())
            if inside and not any(pattern.matches(point) for pattern in grid.exclude):
                problems.add(axes.place, "this entry of `include` is in the grid already; leave it out")
                break


def _trained(axis: str, value: Any) -> Any:
    """What tells cells apart on this axis: two targets that only the analysis reads do not."""
    return canonical_json(Training(**value.options).hashed_settings()) if axis == "training" else value


def check_known_sizes(grid: GridFile, problems: Problems) -> None:
    """Check batches against data whose size is known without reading it; other data is checked when it is there."""
    for dataset in (grid.dataset, grid.fallback):
        known = sizes(dataset) if dataset is not None and ":" not in dataset.name else None
        if dataset is not None and known is not None:
            check_batches(grid, dataset.name, known[0], problems)


def check_losses(grid: GridFile, dataset: str, classes: int, problems: Problems) -> None:
    """Check the losses against the number of outputs that a dataset asks for; 1 is one output for a 0/1 label."""
    said: set[Place] = set()
    for axes in (grid.axes, *grid.include):
        place = axes.trainings[0].place  # that of the grid where an `include` says none
        for training in axes.values("training"):
            loss = _loss(training)
            if place in said or (loss == "bce") == (classes == 1) or not _is_left(grid, axes, training):
                continue
            if classes == 1:
                way = "write `loss: bce`, with networks of `output: sigmoid`, or `task: classes` for the table"
                message = f"the loss {loss} needs an output for each class, and {dataset} has one in all: {way}"
            else:
                message = f"the loss bce needs one output for a label of 0 or 1, and {dataset} has {classes} classes"
            said.add(place)
            problems.add(place, message)


def _known_classes(dataset: Component) -> int | None:
    """Outputs that a dataset asks for, where that is known without reading it."""
    if ":" in dataset.name:
        return None
    if dataset.name == "csv":  # of `task: classes` the number is read later
        return 1 if dataset.options.get("task", "binary") == "binary" else None
    return spec_of(dataset).classes


def _check_outputs(grid: GridFile, problems: Problems) -> None:
    """A loss against the networks' last layer: the wrong one trains without complaint, and badly."""
    for axes in (grid.axes, *grid.include):
        wrong = (
            (entry, component, training)
            for entry in axes.architectures
            for component in entry.components()
            for training in axes.values("training")
            if ":" not in entry.name and _lacks_output(entry, component, _loss(training))
        )
        said = set()
        for entry, component, training in wrong:
            loss = _loss(training)
            if (entry.place, loss) in said or not _is_left(grid, axes, training, component, entry):
                continue
            said.add((entry.place, loss))
            option, value = NEEDED_OUTPUTS[loss]
            problems.add(entry.place, f"the loss {loss} needs `{option}: {value}`, which `{component.label}` has not")


def _loss(training: Component) -> str:
    return Training(**training.options).loss.name  # type: ignore[arg-type]  # options are those of `training:`


def _lacks_output(entry: Entry, network: Component, loss: str) -> bool:
    if loss not in NEEDED_OUTPUTS:
        return False
    option, value = NEEDED_OUTPUTS[loss]
    return entry.declaration.complete(network.options).get(option) != value


def _is_left(
    grid: GridFile, axes: Axes, training: Component, network: Component | None = None, entry: Entry | None = None
) -> bool:
    """Whether `exclude` leaves any cell of this training, and of this network of an entry."""
    if axes is not grid.axes:
        return True  # what is included is not excluded
    only = replace(axes, trainings=(_entry_of(training, axes.trainings[0]),))
    if network is not None and entry is not None:
        only = replace(only, architectures=(_entry_of(network, entry),))
    return size(only, grid.exclude, 0, ("auto",) if axes.devices == "auto" else axes.devices) > 0


def _entry_of(component: Component, entry: Entry) -> Entry:
    """An entry that stands for this one of its components."""
    return replace(entry, values={key: (value,) for key, value in component.options.items()})
