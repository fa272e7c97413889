"""`show`, `doctor`, `list`, `data`: look at what a grid can name and at what this machine has."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, cast

import typer

from mnistbench.cli.flag_values import path
from mnistbench.cli.flags import DataDir, Plugin, TrackingUri
from mnistbench.errors import UserError
from mnistbench.errors.layers import require
from mnistbench.errors.problems import did_you_mean
from mnistbench.words.wording import plural

NAMES = ("architectures", "optimizers", "schedules", "datasets", "executions", "grids")
"""What can be listed: an axis of a grid, in the plural, or the ready grids."""


def show(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Its name, or module:Name with --plugin.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option: activation=tanh.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="The data whose shape it gets.")] = "mnist",
    plugin: Plugin = None,
) -> None:
    """Layers of a network, with output shapes, parameters and FLOPs per example."""
    from rich.console import Console
    from rich.table import Table

    from mnistbench.axes import architectures
    from mnistbench.axes.plugins import load_plugins
    from mnistbench.cell import Component
    from mnistbench.data.datasets import spec_of
    from mnistbench.grid.read import component_from_text
    from mnistbench.kept import inspect as inspection

    plugins = load_plugins(plugin or [])
    component = component_from_text("architecture", network, settings or [], plugins)
    spec = spec_of(Component(name=dataset))
    summary = inspection.summarize(architectures.build(component, spec, plugins), spec)
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
    console = Console()
    console.print(table)
    console.print(
        f"{summary.parameters:,} parameters; training costs {summary.train_flops:,} FLOPs per example"
        " (forward and backward; a multiply-add counts as two)"
    )


def doctor(data_dir: DataDir = None, tracking_uri: TrackingUri = None) -> int:
    """Check devices with a small matrix product each, the torch build, data and tracking."""
    from rich.console import Console
    from rich.table import Table

    from mnistbench.cli import checkup

    table = Table(show_header=False, box=None)
    checks = list(checkup.checks(data_dir=data_dir, tracking_uri=tracking_uri))
    for check in checks:
        table.add_row("[green]✓[/]" if check.ok else "[red]✗[/]", check.name, check.found)
    console = Console()
    console.print(table)
    return 0 if all(check.ok for check in checks) else 1


def list_(
    names: Annotated[str | None, typer.Argument(metavar="NAMES", help=f"One of {', '.join(NAMES)}.")] = None,
) -> None:
    """Names that a grid file may use, with their options and defaults; the ready grids, with their questions."""
    from rich.console import Console
    from rich.text import Text

    from mnistbench.grid import ready
    from mnistbench.grid.options import TABLES, Axis, declaration

    if names not in NAMES:
        close = did_you_mean(names or "", NAMES)
        raise UserError(f"list: say what to list, one of {', '.join(NAMES)}{close}")
    console = Console(highlight=False)

    def say(text: str, begin: str = " " * 4) -> None:
        """A text that goes on below its own beginning."""
        print(textwrap.fill(text, console.width, initial_indent=begin, subsequent_indent=" " * len(begin)))

    if names == "grids":
        for name in ready.names():
            console.print(Text(name, style="bold"))
            for line in ready.header(name):
                say(line)
        return
    axis = cast(Axis, names.removesuffix("s"))
    for name in TABLES[axis]:
        declared = declaration(axis, name)
        console.print(Text(name, style="bold"))
        say(declared.summary)
        defaults = {
            option: "(must be given)" if option.written_default is None else option.written_default
            for option in declared.options.values()
        }
        width = max((len(option.name) + len(default) for option, default in defaults.items()), default=0)
        for option, default in defaults.items():
            say(option.expected, f"    {option.name}: {default}".ljust(width + 9))
        print()


def data(context: typer.Context, data_dir: DataDir = None) -> None:
    """What data lies where on this machine; `data fetch` downloads, `data show` draws samples."""
    if context.invoked_subcommand is None:
        _print_places(data_dir)


def data_list(data_dir: DataDir = None) -> None:
    """What data lies where on this machine."""
    _print_places(data_dir)


def data_fetch(
    names: Annotated[list[str], typer.Argument(metavar="DATASET…", help="mnist, fashion_mnist, kmnist, …")],
    data_dir: DataDir = None,
) -> None:
    """Download what is not here yet, verify it, and unpack it into the user's cache."""
    from mnistbench.cell import Component
    from mnistbench.cli.screen import download_bar
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
        Path | None, typer.Option(parser=path, metavar="FILE", help="PNG to write.", show_default="<DATASET>.png")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=400, help="How many.")] = 40,
    seed: Annotated[int, typer.Option(help="Draws the choice.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw sample training images with their labels into a PNG file."""
    require("report", "data show")
    from mnistbench.cell import Component
    from mnistbench.cli.samples import draw_samples

    target = out or Path(f"{name}.png")
    draw_samples(Component(name=name), target, count=count, seed=seed, data_dir=data_dir)
    print(f"{plural(count, 'image')} of {name}: {target}")


def _print_places(data_dir: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from mnistbench.data import datasets

    table = Table("dataset", "here?", "where", title="Data on this machine", title_justify="left")
    for place in datasets.survey(data_dir):
        table.add_row(place.name, "[green]yes[/]" if place.found else "no", place.where)
    Console().print(table)
