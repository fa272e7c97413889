"""`show`, `doctor`, `list`, `data`: look at what a grid can name and at what this machine has."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mnistbench.axes.plugins import load_plugins, where_in_plugin
from mnistbench.cell import Component
from mnistbench.cli.flags import DataDir, Plugin, TrackingUri, option, read_path
from mnistbench.errors import UserError
from mnistbench.errors.layers import require
from mnistbench.errors.problems import did_you_mean, message_of, shown
from mnistbench.grid import ready
from mnistbench.kept import inspect as inspection
from mnistbench.kept.inspect import Check, matrix_product, torch_build, versions
from mnistbench.results.this_machine import kept_id_file, machine_id, system_id
from mnistbench.run.progress import PlainLines
from mnistbench.words.wording import plural

if TYPE_CHECKING:
    from mnistbench.data.download import Progress as Downloaded

NAMES = ("architectures", "optimizers", "schedules", "losses", "datasets", "executions", "grids")
"""What can be listed: an axis of a grid, in the plural, or the ready grids."""


def show(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Its name, or module:Name with --plugin.")],
    settings: Annotated[list[str] | None, option("--set", "An option: activation=tanh.", None, "KEY=VALUE")] = None,
    dataset: Annotated[str, typer.Option(help="The data whose shape it gets.")] = "mnist",
    plugin: Plugin = None,
) -> None:
    """Layers of a network, with output shapes, parameters and FLOPs per example."""
    from rich.console import Console
    from rich.table import Table

    from mnistbench.axes import architectures
    from mnistbench.data.datasets import spec_of
    from mnistbench.grid.read import component_from_text

    plugins = load_plugins(plugin or ())
    component = component_from_text("architecture", network, settings or [], plugins)
    spec = spec_of(Component(name=dataset))
    try:
        summary = inspection.summarize(architectures.build(component, spec, plugins), spec)
    except UserError:
        raise
    except Exception as error:
        if ":" not in component.name or where_in_plugin(error):  # which is said of errors from its own lines
            raise
        said = shown(" ".join(message_of(error).split()), longest=300)
        raise UserError(f"{component.label} on {spec.name}: {type(error).__name__}: {said}") from error
    table = Table(title=f"{component.label} on {spec.name}", title_justify="left", show_footer=True)
    table.add_column("layer", "all")
    table.add_column("what it does")
    table.add_column("output shape")
    table.add_column("parameters", f"{summary.parameters:,}", justify="right")
    table.add_column("FLOPs forward", f"{summary.forward_flops:,}", justify="right")
    for layer in summary.layers:
        shape = " × ".join(str(side) for side in layer.output_shape)
        shared = f"{layer.shared:,} shared" if layer.shared else ""
        own = f"{layer.parameters:,}" if layer.parameters or not shared else ""
        parameters = " + ".join(part for part in (own, shared) if part)
        table.add_row(layer.name, layer.kind, shape, parameters, f"{layer.flops:,}")
    console = Console(emoji=False)
    console.print(table)
    console.print(
        f"{summary.parameters:,} parameters; training costs {summary.train_flops:,} FLOPs per example"
        " (forward and backward; a multiply-add counts as two)"
    )


def doctor(data_dir: DataDir = None, tracking_uri: TrackingUri = None) -> int:
    """Check devices with a small matrix product each, the torch build, data and tracking."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None)
    checks = list(doctor_checks(data_dir=data_dir, tracking_uri=tracking_uri))
    for check in checks:
        table.add_row("[green]✓[/]" if check.ok else "[red]✗[/]", check.name, escape(check.found))
    console = Console(emoji=False)
    console.print(table)
    return 0 if all(check.ok for check in checks) else 1


def list_(
    names: Annotated[str | None, typer.Argument(metavar="NAMES", help=f"One of {', '.join(NAMES)}.")] = None,
) -> None:
    """Names that a grid file may use, with their options and defaults; the ready grids, with their questions."""
    from rich.console import Console
    from rich.text import Text

    from mnistbench.grid.options import TABLES, Axis, declaration

    if names not in NAMES:
        close = did_you_mean(names or "", NAMES)
        raise UserError(f"list: say what to list, one of {', '.join(NAMES)}{close}")
    console = Console(emoji=False, highlight=False)

    def say(text: str, begin: str = " " * 4) -> None:
        """A text that goes on below its own beginning."""
        print(textwrap.fill(text, console.width, initial_indent=begin, subsequent_indent=" " * len(begin)))

    if names == "grids":
        for name in ready.names():
            console.print(Text(name, style="bold"))
            for line in ready.header(name):
                say(line)
        return
    axis = cast("Axis", "loss" if names == "losses" else names.removesuffix("s"))
    for name in TABLES[axis]:
        declared = declaration(axis, name)
        console.print(Text(name, style="bold"))
        say(declared.summary)
        begins = {
            f"    {each.name}: {'(must be given)' if each.written_default is None else each.written_default}": each
            for each in declared.options.values()
        }
        width = max(map(len, begins), default=0) + 3
        for begin, each in begins.items():
            say(each.expected, begin.ljust(width))
        print()


def data(context: typer.Context, data_dir: DataDir = None) -> None:
    """What data lies where on this machine; `data fetch` downloads, `data show` draws samples."""
    if context.invoked_subcommand is None:
        data_list(data_dir)


def data_list(data_dir: DataDir = None) -> None:
    """What data lies where on this machine."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mnistbench.data import datasets

    table = Table("dataset", "here?", "where", title="Data on this machine", title_justify="left")
    for place in datasets.survey(data_dir):
        table.add_row(place.name, "[green]yes[/]" if place.found else "no", escape(place.where))
    Console(emoji=False).print(table)


def data_fetch(
    names: Annotated[list[str], typer.Argument(metavar="DATASET…", help="mnist, fashion_mnist, kmnist, …")],
    data_dir: DataDir = None,
) -> None:
    """Download what is not here yet, verify it, and unpack it into the user's cache."""
    from mnistbench.data import datasets

    for name in names:
        with download_bar() as progress:
            prepared = datasets.prepare(Component(name=name), data_dir=data_dir, progress=progress)
        print(
            f"{name}: {prepared.spec.train_examples:,} + {prepared.spec.test_examples:,} examples, {prepared.found_in}"
        )


def data_show(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Any dataset of images.")] = "mnist",
    out: Annotated[
        Path | None, option("--out", "PNG to write.", None, "FILE", read=read_path, default="<DATASET>.png")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=400, help="How many.")] = 40,
    seed: Annotated[int, typer.Option(help="Draws the choice.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw sample training images with their labels into a PNG file."""
    require("report", "data show")

    target = out or Path(f"{name}.png")
    draw_samples(Component(name=name), target, count=count, seed=seed, data_dir=data_dir)
    print(f"{plural(count, 'image')} of {name}: {target}")


def doctor_checks(*, data_dir: Path | None = None, tracking_uri: str | None = None) -> Iterator[Check]:
    """Each check as soon as it is done; none raises, and none writes."""
    from mnistbench.axes import devices
    from mnistbench.data import datasets

    yield from versions()
    yield torch_build()
    yield _machine()
    for device in devices.available():
        memory = f", {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else ""
        yield Check(name=f"device {device.name}", found=f"{device.model}{memory}")
        yield matrix_product(device.name)
    for place in datasets.survey(data_dir):
        yield Check(name=f"data {place.name}", found=place.where if place.found else "not here yet")
    yield _tracking(tracking_uri)


def _machine() -> Check:
    """Makes no id where there is none yet."""

    if system_id() is not None:
        return Check(name="machine id", found=machine_id())
    try:
        where = f"in {kept_id_file()}"
    except (RuntimeError, UserError):
        where = "nowhere, for want of a home folder: it stays until the next boot (set MNISTBENCH_CACHE)"
    return Check(name="machine id", found=f"this system has none of its own; a random one is kept {where}")


def _tracking(uri: str | None) -> Check:
    from mnistbench.tracking.address import checked, default_uri, shown

    try:
        return Check(name="tracking", found=shown(checked(uri or default_uri())))
    except UserError as error:
        return Check(name="tracking", found=str(error), ok=False)


def draw_samples(
    dataset: Component, target: Path, *, count: int = 40, seed: int = 0, data_dir: Path | None = None
) -> None:
    """Draw `count` training images, chosen by the seed, each under its label, and write them to `target`.

    Raises:
        UserError: if the dataset has no images, or the picture cannot be written.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from mnistbench.data import datasets
    from mnistbench.data.arrays import load

    prepared = datasets.prepare(dataset, data_dir=data_dir)
    spec = prepared.spec
    if not spec.is_image:
        raise UserError(f"{spec.name} is a table of {spec.input_shape[0]} numbers a row: there are no images to draw")
    arrays = load(prepared.directory)
    chosen = np.random.default_rng(seed).choice(len(arrays.train_labels), size=count, replace=False)
    columns = min(10, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * 0.9, rows * 1.15), layout="constrained")
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(arrays.train_inputs[index], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(spec.class_names[int(arrays.train_labels[index])], fontsize=9, parse_math=False)
        axes.set_axis_off()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib cannot write
        raise UserError(f"{target}: the picture cannot be written ({error})") from None


@contextmanager
def download_bar() -> Iterator[Downloaded]:
    """A bar per file in a terminal, one line per file elsewhere; on standard error, so that output can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    console = Console(emoji=False, stderr=True)
    if not console.is_terminal:
        yield PlainLines().download
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield move
