"""`predict`, `evaluate`, `verify`: use a model that a run kept, and check that a cell comes out the same again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mnistbench.cli.flags import DataDir, In, Plugin, Source, TrackingUri
from mnistbench.errors import UserError
from mnistbench.kept.find import find_record_file, record_in
from mnistbench.words.markdown import one_line
from mnistbench.words.wording import percent


def predict(
    source: Source,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Images of any size and colour, or CSV files of rows.")
    ],
    *,
    folder: In = None,
    tracking_uri: TrackingUri = None,
    plugin: Plugin = None,
) -> None:
    """What a kept model sees in images (any size and colour, dark on light or light on dark), or in rows of a table.

    A file that cannot be read is said, and costs the others nothing.
    """
    from rich.console import Console
    from rich.table import Table

    from mnistbench import load_model

    model = load_model(source, results=folder, tracking_uri=tracking_uri, plugins=plugin or ())
    for warning in model.warnings:
        print(f"note: {warning}", file=sys.stderr)
    table = Table("image" if model.spec.is_image else "row", "it is", "probability", "or else")
    names = model.class_names
    errors: list[UserError] = []
    for file in files:
        try:
            predictions = model.predict(file)
        except UserError as error:
            errors.append(error)
            continue
        for prediction in predictions:
            ranked = sorted(range(len(names)), key=lambda label: -prediction.probabilities[label])
            second = f"{names[ranked[1]]} ({percent(prediction.probabilities[ranked[1]])})"
            table.add_row(prediction.source, prediction.name, percent(prediction.probability), second)
    if table.row_count:
        Console(emoji=False, markup=False).print(table)
    if errors:
        raise UserError("\n".join(map(str, errors)))


def evaluate(
    source: Source,
    *,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Another dataset of the same shape.")] = None,
    folder: In = None,
    data_dir: DataDir = None,
    tracking_uri: TrackingUri = None,
    plugin: Plugin = None,
) -> None:
    """Accuracy of a kept model on test data, with its confusion matrix."""
    from rich.console import Console
    from rich.table import Table

    from mnistbench import load_model

    model = load_model(source, results=folder, tracking_uri=tracking_uri, plugins=plugin or ())
    for warning in model.warnings:
        print(f"note: {warning}", file=sys.stderr)
    evaluation = model.evaluate(dataset, data_dir=data_dir)
    table = Table("true ╲ said", *model.class_names, title="Confusion", title_justify="left")
    for name, row in zip(model.class_names, evaluation.confusion, strict=False):
        table.add_row(name, *(str(count) for count in row))
    console = Console(emoji=False, markup=False)
    console.print(table)
    fallback = " (a fallback: the dataset asked for was not to be had)" if evaluation.fallback else ""
    console.print(f"{model.cell.architecture.label} on {evaluation.dataset}{fallback}")
    console.print(f"accuracy {percent(evaluation.accuracy, 2)} on {evaluation.examples:,} test examples")


def verify(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="First digits of a cell id, or a record file.")],
    *,
    folder: In = None,
    data_dir: DataDir = None,
    plugin: Plugin = None,
) -> int:
    """Run a cell again, with the same choices, and say whether weights and metrics came out the same."""
    from rich.console import Console

    from mnistbench.run.verify import rerun_and_compare

    record = record_in(find_record_file(cell, folder=folder))
    console = Console(emoji=False)
    console.print(one_line(f"{record.cell_id}: {record.cell.label}"), markup=False)
    verdict = rerun_and_compare(record, data_dir=data_dir, plugins=tuple(plugin or ()))
    for line in verdict.lines:
        console.print(f"  {line}")
    console.print("the same, bit for bit" if verdict.same else "not the same", style="green" if verdict.same else "red")
    return 0 if verdict.same else 1
