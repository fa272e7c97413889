"""The command line: which commands there are, and how they end.

The commands themselves stand in `cli`, thin, with heavy imports inside each, so that `--help` is instant.

Exit status: 0 complete, 1 some cells failed, 2 bad usage or grid, 3 internal error, 5 a regression found by
`compare --fail-on`, 6 undecided there, 128 + the signal's number if interrupted (130 Ctrl-C, 143 SIGTERM).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typing_extensions import override

from mnistbench.axes.plugins import where_in_plugin
from mnistbench.cell import __version__
from mnistbench.cli import look as looking
from mnistbench.cli import models, reports
from mnistbench.cli import run as grids
from mnistbench.errors import UserError
from mnistbench.errors.problems import message_of, shown
from mnistbench.errors.redaction import without_credentials
from mnistbench.files.homeless import ensure_home
from mnistbench.run.worker import is_out_of_memory

COMPLETE, FAILED_CELLS, BAD_USAGE, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 3, 130


def _program() -> str:
    """What this program was started as, for a shell: a command that is printed can be copied."""
    started = Path(sys.argv[0])
    if (started.parent.name, started.name) == ("mnistbench", "__main__.py"):
        return f"{_as_typed(sys.orig_argv[0])} -m mnistbench"
    return _as_typed(sys.argv[0]) if started.name == "mnistbench" else "python -m mnistbench"


def _as_typed(path: str) -> str:
    name = Path(path).name
    return name if shutil.which(name) == path else shlex.quote(path)


PROGRAM = _program()


def _plain(parameters: list[Any]) -> list[Any]:
    """Parameters of which the help says nothing behind a switch, where typer says `<bool>`."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    @override
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class _Group(TyperGroup):
    @override
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: [bold]doctor[/], then [bold]run quick[/]. Each command has its own --help, with examples.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mnistbench {__version__}")
        raise typer.Exit


@app.callback()
def mnistbench(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """What does training cost here, and what does it reach?

    Trains a grid of architectures × optimizers × batch sizes × devices × seeds, and answers with numbers to trust.
    """


def _example(*lines: str) -> str:
    return "\n\n".join([f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {PROGRAM} {line}" for line in lines)])


RUN, LOOK, COMPARE, MODELS = "Run a grid", "Look", "Report and compare", "Kept models"

for panel, command, name, examples in (
    (
        RUN,
        grids.run,
        "run",
        ["run grid.yaml", "run quick", "run grid.yaml --only architecture=lenet5 --only batch_size=64..512"],
    ),
    (RUN, grids.plan, "plan", ["plan grid.yaml", "plan grid.yaml --budget 30m"]),
    (RUN, grids.init, "init", ["init", "init levers"]),
    (RUN, grids.status, "status", ["status results/quick"]),
    (RUN, grids.sync, "sync", ["sync results/quick --tracking-uri http://tracking.example:5000"]),
    (LOOK, looking.show, "show", ["show lenet5", "show mlp --set hidden=[256,128] --dataset digits"]),
    (LOOK, looking.doctor, "doctor", ["doctor"]),
    (LOOK, looking.list_, "list", ["list optimizers", "list grids"]),
    (
        COMPARE,
        reports.report,
        "report",
        ["report results/quick", "report results/laptop results/server --out both.html"],
    ),
    (COMPARE, reports.compare, "compare", ["compare results/before results/after --fail-on slower=5%"]),
    (COMPARE, reports.merge, "merge", ["merge results/laptop results/server --out results/both"]),
    (MODELS, models.predict, "predict", ["predict 9f2c seven.png photo.jpg"]),
    (MODELS, models.evaluate, "evaluate", ["evaluate 9f2c", "evaluate 9f2c --dataset digits"]),
    (MODELS, models.verify, "verify", ["verify 9f2c"]),
):
    app.command(name, cls=_Command, rich_help_panel=panel, epilog=_example(*examples))(command)

data_app = typer.Typer(cls=_Group, no_args_is_help=False, help="What data lies where; fetch it; draw samples of it.")
data_app.callback(invoke_without_command=True)(looking.data)
data_app.command("list", cls=_Command, epilog=_example("data list"))(looking.data_list)
data_app.command("fetch", cls=_Command, epilog=_example("data fetch mnist fashion_mnist"))(looking.data_fetch)
data_app.command("show", cls=_Command, epilog=_example("data show mnist --out samples.png"))(looking.data_show)
app.add_typer(data_app, name="data", rich_help_panel=LOOK)

results_app = typer.Typer(cls=_Group, no_args_is_help=True, help="Results folders made from a tracking server.")
results_app.callback()(reports.results)
results_app.command("from-mlflow", cls=_Command, epilog=_example("results from-mlflow quick --out results/quick"))(
    reports.from_mlflow
)
app.add_typer(results_app, name="results", rich_help_panel=COMPARE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and say in one clear line what was wrong with its input.

    Args:
        arguments: without the program's name; those of this process if left out.

    Returns:
        The exit status.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        ensure_home()
        status = app(typed, prog_name=PROGRAM, standalone_mode=False, obj=[PROGRAM, *typed])
        sys.stdout.flush()
    except (UserError, TyperException) as error:
        if text := str(error) if isinstance(error, UserError) else _usage(error, typed):
            print(f"error: {without_credentials(text)}", file=sys.stderr)
        return BAD_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # `mnistbench list … | head`: typer would end it with status 1
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        sys.stderr.close()
        return COMPLETE
    except Exception as error:
        return _said(error)
    return status if isinstance(status, int) else COMPLETE


def _said(error: Exception) -> int:
    """Say what kept the command from its end that nobody has put into words before; returns the exit status."""
    if isinstance(error, OSError) and _output_is_gone():
        with contextlib.suppress(OSError):
            print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return BAD_USAGE
    if is_out_of_memory(error):
        why = str(error) or type(error).__name__
        print(f"error: no memory is left: {why}. What was measured is kept.", file=sys.stderr)
        return BAD_USAGE
    if where := where_in_plugin(error):
        message = shown(" ".join(f"{type(error).__name__}: {message_of(error)}".split()), longest=500)
        print(f"error: {without_credentials(message)} ({where})", file=sys.stderr)
        return BAD_USAGE
    print(without_credentials("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print("error: a bug in mnistbench, not in your input. What was measured is kept.", file=sys.stderr)
    return INTERNAL_ERROR


def _output_is_gone() -> bool:
    """Whether standard output refuses what was printed (a full disk, a terminal that is gone); it is let go then."""
    try:
        print()  # what failed before may be forgotten
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
        return True
    return False


def _usage(error: TyperException, typed: Sequence[str]) -> str:
    """The parser's message in one line, with the help that would answer it; "" where that help has been shown."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"{PROGRAM} {shlex.quote(typed[0])}"
    message = error.format_message().strip().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (see `{path} --help`)" if message else ""
