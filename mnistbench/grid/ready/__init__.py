"""The ready grids that come with the package, each for one question; its header says which, and how long it takes."""

from __future__ import annotations

import re
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.errors.problems import nearest
from mnistbench.files.whole import write_whole

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the ready grids, `quick` first."""
    return sorted((file.stem for file in FOLDER.glob("*.yaml")), key=lambda name: (name != "quick", name))


def header(name: str) -> list[str]:
    """The sentences of a grid's header: its question first, then how long it takes and what else is worth knowing.

    A sentence that goes on in the next line of the file is one line here.
    """
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    text = "\n".join(line.removeprefix("#").strip() for line in lines[:end])
    return re.sub(r"(?<![.?!:])\n", " ", text).splitlines()


def grid_file(given: Path) -> Path:
    """What `run` was given: a file, or the name of a ready grid. A file of that name goes first.

    Raises:
        UserError: for a name without suffix and folder that is neither.
    """
    if given.suffix or len(given.parts) > 1 or given.exists():
        return given
    if given.name not in names():
        raise UserError(f"{given}: neither a file nor a ready grid{nearest(given.name, names())}; see `list grids`")
    return FOLDER / f"{given.name}.yaml"


def write(name: str, folder: Path) -> list[Path]:
    """Write a ready grid into a folder, to be edited, with the table that it reads if it reads one.

    Returns:
        The files that were written, the grid first.

    Raises:
        UserError: if there is no such grid, or a file would be replaced.
    """
    if name not in names():
        raise UserError(f"there is no ready grid {name!r}{nearest(name, names())}; see `list grids`")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    sources = [FOLDER / f"{name}.yaml", *(file for file in FOLDER.glob("*.csv") if f"path: {file.name}" in text)]
    targets = [folder / source.name for source in sources]
    if there := [target for target in targets if target.exists()]:
        raise UserError(f"{there[0]}: is there already, and was not replaced")
    for source, target in zip(sources, targets, strict=True):
        write_whole(target, source.read_bytes())
    return targets
