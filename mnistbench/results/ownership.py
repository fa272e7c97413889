"""What in a folder is ours: the mark of a results folder, the names of records, and the files that a run writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mnistbench.files.whole import PART, read_regular, write_whole

MARK = ".mnistbench.json"
"""A file of this name says that a folder is a results folder, and that what a run writes there is no stranger's."""
MARK_VERSION = 1
GRID_HEADER = "# Written by mnistbench: the grid as it was resolved for the last run in this folder.\n"
_GRID_KEYS = ("name:", "on_missing_device:", "twins:", "include:")
"""Keys that a grid file of ours has always spelled out, also before it had a header."""
SUMMARY_END = "<!-- written by mnistbench -->\n"
PAGE = re.compile(rb'<meta name="generator" content="mnistbench ')
SUMMARY = re.compile(rb"<!-- written by mnistbench -->\s*\Z|^## Where it ran$", re.MULTILINE)
TABLE = re.compile(rb"\A(cell_id|session),|\A\s*\Z")
"""What in a file says that a report wrote it: a page, a summary (those of older releases too), a CSV file."""
_RECORD_FILE = re.compile(r"[0-9a-f]{16}(@[\w-]+|\.\d+\.[\w-]+)?\.json")
_PART_FILE = re.compile(rf"\.(?P<name>.+)\.\d+{re.escape(PART)}")
_FILES = {MARK, "grid.yaml", "grid.resolved.yaml", "cells.json", ".index.json", ".holder.json", "results.csv"}
_FILES |= {"epochs.csv", "report.html", "summary.md", "report-results.csv", "report-epochs.csv", "report-summary.md"}
_FILES |= {"speed.csv", "report-speed.csv"}


def is_marked(folder: Path) -> bool:
    """Whether a run of ours has marked the folder as its own."""
    try:
        plain = json.loads(read_regular(folder / MARK))
        return isinstance(plain, dict) and type(plain.get("results_folder")) is int
    except (OSError, ValueError, RecursionError):
        return False


def write_mark(folder: Path) -> None:
    """Mark the folder as a results folder.

    Raises:
        UserError: if it cannot be written.
    """
    write_whole(folder / MARK, json.dumps({"results_folder": MARK_VERSION, "made_by": "mnistbench"}))


def is_empty(folder: Path) -> bool:
    """Whether nothing is in the folder, or only a mark that a killed run was about to write."""
    return all(_part_of(path) == MARK for path in folder.iterdir())


def is_record_name(path: Path) -> bool:
    """Whether a file in `cells/` or `attempts/` is named as a run of ours names it; its content may be damaged."""
    return _RECORD_FILE.fullmatch(path.name) is not None


def is_grid_of_ours(path: Path) -> bool:
    """Whether a grid file is one that a run wrote: it has our header, or all keys and no comment."""
    try:
        text = read_regular(path).decode().replace("\r\n", "\n")  # git writes these line ends on Windows
    except (OSError, ValueError):
        return False
    lines = text.splitlines()
    plain = all(any(line.startswith(key) for line in lines) for key in _GRID_KEYS)
    return text.startswith(GRID_HEADER) or (plain and not any(line.lstrip().startswith("#") for line in lines))


def is_free(path: Path, sign: re.Pattern[bytes]) -> bool:
    """Whether a file of a report may be written here: nothing is there, or what an earlier report wrote."""
    try:
        return not path.is_symlink() and (
            not path.exists() or (path.is_file() and bool(sign.search(path.read_bytes())))
        )
    except OSError:
        return False


def is_part_of_ours(path: Path) -> bool:
    """Whether it is a half-written record, or half-written file of a run, that a killed process of ours left."""
    name = _part_of(path)
    return name is not None and (name in _FILES or _RECORD_FILE.fullmatch(name) is not None)


def _part_of(path: Path) -> str | None:
    """The name of the file that this one was to become; None if it is no half-written file."""
    match = _PART_FILE.fullmatch(path.name)
    return match["name"] if match else None
