"""What a run leaves to read: report, tables and figures on disk, and the last lines in the terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.errors.layers import missing
from mnistbench.errors.redaction import without_credentials
from mnistbench.results.folder import ResultsFolder
from mnistbench.run.progress import outcome
from mnistbench.words import markdown
from mnistbench.words.wording import accuracy_text, percent, plural, records_and_sessions

if TYPE_CHECKING:
    from rich.console import Console

    from mnistbench.run.run import RunSummary

SHOWN, NARROW, ROOM_FOR_ALL = 8, 80, 66
"""Rows of the table of best cells; its width in a file or a pipe; and from which width on a terminal has room for a
name beside all figures."""


def write_outcome(
    folders: Sequence[ResultsFolder],
    *,
    out: Path | None = None,
    figures: Path | None = None,
    tensorboard: Path | None = None,
) -> Path:
    """Write the report with the tables beside it, and, where asked for, figures and TensorBoard's event files.

    Returns:
        The report's path.
    """
    from mnistbench.report.page import render

    page = render(folders, out or folders[0].report_file, figures=figures)
    if tensorboard is not None:
        from mnistbench.tracking.tensorboard import write_events

        for folder, name in zip(folders, _distinct_names(folders), strict=True):
            write_events(folder.records(), tensorboard / name)
    return page


def _distinct_names(folders: Sequence[ResultsFolder]) -> list[str]:
    """The folders' names; where two have the same, with as many of the folders above as tell them apart."""
    paths = [folder.path.resolve() for folder in folders]

    def name(path: Path, depth: int = 1) -> str:
        short = path.parts[-depth:]
        alike = any(other != path and other.parts[-depth:] == short for other in paths)
        return name(path, depth + 1) if alike else "-".join(short).strip("/")

    return [name(path) for path in paths]


def print_outcome(
    summary: RunSummary, command: str, tracking_uri: str | None = None, left_out: str | None = None
) -> None:
    """The last lines of a run: the best cells, counts by status, what to read, where the report is.

    Args:
        summary: of the run.
        command: that goes on with it, for a run that was interrupted or has failed cells.
        tracking_uri: as the command line gave it.
        left_out: what the run could not do here, and where it can be done.
    """
    console = console_for_tables()
    print_best(summary.results, console)
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in summary.counts.items() if count)
    console.print(f"cells: {counts or 'none'}; {summary.kept} kept from before, {summary.ran} run now", markup=False)
    if summary.speed is not None:
        console.print(summary.speed, markup=False)
    for warning in [*_warnings(summary, command, tracking_uri), *([left_out] if left_out else [])]:
        console.print(f"note: {warning}", markup=False, soft_wrap=True)
    if summary.results.models.is_dir():
        folder = summary.results.path
        console.print(f"models kept: `status {folder} --cells` names them", markup=False, soft_wrap=True)
    if summary.results.report_file.is_file():
        console.print(f"report: {summary.results.report_file}", markup=False, soft_wrap=True)
    if summary.tracking is not None and not summary.not_mirrored and not summary.not_mirrored_sessions:
        from mnistbench.tracking import default_uri, ui_command

        console.print(f"in MLflow: {ui_command(tracking_uri or default_uri())}", markup=False, soft_wrap=True)


def typed_again(typed: Sequence[str]) -> str:
    """The command line that was typed, for a shell: in the place of a secret stands the variable that carries it.

    Args:
        typed: the program, then its arguments.
    """
    program, *arguments = typed
    return " ".join([program, *(_without_secret(argument) for argument in arguments)])


def _without_secret(argument: str) -> str:
    flag, between, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if without_credentials(value) == value:
        return shlex.quote(argument)
    carriers = sorted(name for name, content in os.environ.items() if content == value)
    return f'{flag}{between}"${carriers[0] if carriers else "MLFLOW_TRACKING_URI"}"'


def _warnings(summary: RunSummary, command: str, tracking_uri: str | None) -> list[str]:
    lines = list(summary.warnings)
    if summary.added:
        lines.append(f"{plural(len(summary.added), 'cell')} came into the grid since the last run")
    if summary.dropped:
        lines.append(
            f"{plural(len(summary.dropped), 'cell')} left the grid: records stay on disk, but leave the report"
        )
    if summary.not_mirrored or summary.not_mirrored_sessions:
        reason = f" ({summary.not_mirrored_reason})" if summary.not_mirrored_reason else ""
        to = f" --experiment {shlex.quote(summary.experiment)}" if summary.experiment else ""
        at = f" --tracking-uri {_without_secret(tracking_uri)}" if tracking_uri else ""
        again = f"sync {shlex.quote(str(summary.results.path))}{at}{to}"
        lacking = records_and_sessions(summary.not_mirrored, summary.not_mirrored_sessions)
        lines.append(f"not in MLflow: {lacking}{reason}; `{again}` mirrors what is missing")
    if summary.failed:
        why = "the report says why, and " if summary.results.report_file.is_file() else ""
        lines.append(f"{plural(summary.failed, 'cell')} failed; {why}`{command}` tries again")
    if summary.interrupted is not None:
        lines.append(f"interrupted with {plural(summary.left, 'cell')} left; `{command}` goes on")
    return lines


def console_for_tables() -> Console:
    """Standard output; wider than a terminal where it goes to a file or a pipe, so that nothing is folded."""
    from rich.console import Console

    console = Console(emoji=False, highlight=False)
    return console if console.is_terminal else Console(emoji=False, highlight=False, width=max(console.width, 120))


def print_best(results: ResultsFolder, console: Console) -> None:
    """The first rows of each target's leaderboard, and which seeds are one run.

    Nothing if no cell has finished, or where the libraries of the report are not installed.
    """
    if missing("report"):
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mnistbench.report import inventory, labels
    from mnistbench.report.frame import targets_in
    from mnistbench.report.page import read_study
    from mnistbench.report.sections.first import leaderboard, texts_of

    study = read_study([results])
    board = leaderboard(study.frame, study.blocks).frame
    if board.empty:
        return
    for (group, target), rows in board.groupby(["group", "target_accuracy"], dropna=False, sort=False):
        aimed = targets_in(study.frame) != []
        way = f" to {accuracy_text(float(str(target)))}" if aimed else ", by test accuracy"
        where = f" on {group}" if board["group"].nunique() > 1 else ""
        table = Table(
            title=Text(markdown.one_line(f"Best so far{way}{where}")),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        table.add_column("rank", no_wrap=True)
        table.add_column("trained", overflow="fold")
        names = ["to target"] * aimed + ["accuracy", "examples/s", "seeds"]
        if console.is_terminal and console.width < ROOM_FOR_ALL:
            del names[1:]
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows.sort_values("order").head(SHOWN).to_dict("records"):
            texts = texts_of(row)
            table.add_row(*(Text(markdown.one_line(texts[name])) for name in ("rank", "trained", *names)))
        console.print(table, width=console.width if console.is_terminal else NARROW)
    for sentence in labels.shared(study.frame):
        console.print(markdown.one_line(sentence), markup=False)
    for sentence in [*inventory.equal_seed_sentences(study.runs), *inventory.output_sentences(study.runs)]:
        console.print(markdown.one_line(f"note: {sentence}"), markup=False, soft_wrap=True)


def print_cells(results: ResultsFolder, console: Console) -> None:
    """Every record: the id that `predict`, `evaluate` and `verify` take, what it trained, what it reached and kept."""
    from rich.table import Table
    from rich.text import Text

    table = Table("cell id", "trained", "outcome", "models kept")
    for record in results.records():
        kept = len(record.model.weights) if record.model else 0
        accuracy = record.epochs[-1].test_accuracy if record.epochs else None
        ended = outcome(record) if record.status != "finished" or accuracy is None else percent(accuracy, 2)
        cells = (record.cell_id, record.cell.label, ended, str(kept or "–"))
        table.add_row(*(Text(markdown.one_line(text), overflow="fold") for text in cells))
    console.print(table)
