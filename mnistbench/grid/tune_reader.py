"""Reads the `tune:` of a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mnistbench.axes.options import NonNegativeInt, Positive, PositiveInt, Seed
from mnistbench.errors.problems import nearest, shown
from mnistbench.grid.axes import Axes
from mnistbench.grid.declared import Declaration, Declared, found, options_of
from mnistbench.grid.entries import Entry, EntryReader
from mnistbench.grid.tune import Tuning
from mnistbench.grid.yaml import Fields, Items, Node


def _tune(
    *,
    learning_rates: list[Positive],
    trials: PositiveInt = 1,
    seeds: list[Seed] = [1000],  # noqa: B006 (a declaration; it is never called)
    validation_examples: PositiveInt = 10_000,
    seed: NonNegativeInt = 0,
) -> None:
    """Declares the options of `tune:`; `learning_rates` may also be a mapping from optimizers to such lists."""


TUNE = Declaration("tune", options_of(_tune))


def read_tuning(node: Node | None, axes: Axes, reader: EntryReader) -> Tuning | None:
    """The tuning that a grid asks for; None if it asks for none, or for something that is noted as a problem.

    Args:
        node: what stands at `tune`.
        axes: of the grid: its optimizers get the rates, its seeds must be fresh.
        reader: notes problems.
    """
    if node is None:
        return None
    problems, before = reader.problems, len(reader.problems)
    if not isinstance(node, Fields):
        problems.add(
            node.place, f"`tune` must be a mapping such as `{{learning_rates: [0.1, 0.01]}}`, found {found(node)}"
        )
        return None
    for key in node.fields:
        if key not in TUNE.options:
            problems.add(node.key_places[key], f"unknown key `{shown(key)}`{nearest(key, list(TUNE.options))}")
    values = {key: _value(node, option, reader) for key, option in TUNE.options.items() if key != "learning_rates"}
    rates = _learning_rates(node, axes, reader)
    _check(node, axes, reader, values, rates)
    if len(problems) > before:
        return None
    shortest = min(map(len, rates.values()))
    return Tuning(
        learning_rates={name: tuple(values) for name, values in rates.items()},
        trials=values["trials"] if "trials" in node.fields else shortest,
        seeds=tuple(values["seeds"]),
        validation_examples=values["validation_examples"],
        seed=values["seed"],
    )


def with_validation(trainings: tuple[Entry, ...], tune: Tuning) -> tuple[Entry, ...]:
    """The grid's training with what `tune` holds out: trials and measured cells train on the same examples."""
    held_out = {"validation_examples": [tune.validation_examples]}
    return tuple(replace(entry, values={**entry.values, **held_out}) for entry in trainings)


def _value(node: Fields, option: Declared, reader: EntryReader) -> Any:
    given = node.fields.get(option.name)
    return option.plain_default if given is None else reader.value(given, option)


def _learning_rates(node: Fields, axes: Axes, reader: EntryReader) -> dict[str, list[float]]:
    """The rates by optimizer; one list stands for all of them."""
    given = node.fields.get("learning_rates")
    option = TUNE.options["learning_rates"]
    names = list(dict.fromkeys(entry.name for entry in axes.optimizers))
    if given is None:
        reader.problems.add(node.place, f"`tune` needs `learning_rates`: {option.expected}, or one list per optimizer")
        return {}
    if not isinstance(given, Fields):
        rates = _rates(given, option, reader)
        return dict.fromkeys(names, rates)
    for name in given.fields:
        if name not in names:
            place = given.key_places[name]
            reader.problems.add(place, f"`{shown(name)}` is no optimizer of this grid{nearest(name, names)}")
    for name in names:
        if name not in given.fields:
            reader.problems.add(given.place, f"`learning_rates` has none for `{name}`: each optimizer gets its trials")
    return {name: _rates(item, option, reader) for name, item in given.fields.items()}


def _rates(node: Node, option: Declared, reader: EntryReader) -> list[float]:
    rates: list[float] | None = reader.value(node, option)
    if rates is not None and not rates:
        reader.problems.add(node.place, "`learning_rates` is an empty list")
    if rates and isinstance(node, Items):
        for number, item in enumerate(node.items):
            if rates[number] in rates[:number]:
                reader.problems.add(item.place, f"{found(item)} is in `learning_rates` twice; keep one")
    return rates or []


def _check(
    node: Fields, axes: Axes, reader: EntryReader, values: dict[str, Any], rates: dict[str, list[float]]
) -> None:
    """Equal trials for all, fresh seeds, one way of saying how much is held out."""
    problems = reader.problems
    lengths = {name: len(values) for name, values in rates.items()}
    if "trials" in node.fields and values["trials"]:
        for name, length in lengths.items():
            if 0 < length < values["trials"]:
                problems.add(
                    node.fields["trials"].place,
                    f"`trials` is {values['trials']}, and `{name}` has {length} learning rates to try",
                )
    elif len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        problems.add(
            node.fields["learning_rates"].place,
            f"each optimizer must get as many learning rates as the others ({said}); or say how many with `trials`",
        )
    if used := sorted(set(values["seeds"] or ()) & set(axes.seeds)):
        place = node.fields["seeds"].place if "seeds" in node.fields else node.place
        problems.add(place, f"seed {used[0]} is one of the grid's own; what the trials pick is measured on fresh seeds")
    if values["seeds"] == []:
        problems.add(node.fields["seeds"].place, "`seeds` is an empty list")
    for entry in axes.optimizers:
        if "lr" in entry.values:
            problems.add(entry.place, f"`{entry.name}` says an `lr`, and `tune` picks it; keep one of the two")
    for training in axes.trainings:
        held_out = training.values.get("validation_examples", ())
        if held_out and list(held_out) != [values["validation_examples"]]:
            problems.add(training.place, "`training.validation_examples` is not that of `tune`; leave it to `tune`")
