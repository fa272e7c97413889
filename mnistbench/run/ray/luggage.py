"""What travels to the nodes: this package and the user's plug-ins, as one small folder of sources."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import mnistbench
from mnistbench.axes.plugins import is_of_installation, own_modules
from mnistbench.errors import UserError

_NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.pyc", ".git")


def pack(plugins: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Copy what a cell's process imports into a folder that becomes the working folder of every node.

    Modules that were installed (such as torch) do not travel: each node has its own.

    Args:
        plugins: modules and `.py` files as the command line named them, loaded already.

    Returns:
        The plug-ins' names as they are loaded there.

    Raises:
        UserError: if two plug-ins would lie in the same place.
    """
    (source,) = mnistbench.__path__
    shutil.copytree(source, folder / "mnistbench", ignore=_NOT_SOURCES)
    return tuple(_pack_one(name, folder) for name in plugins)


def _pack_one(name: str, folder: Path) -> str:
    is_file = name.endswith(".py")
    module = Path(name).stem if is_file else name
    others = {each.partition(".")[0] for each in (*own_modules(module), module)}
    if is_file:
        _copy(Path(name), folder / Path(name).name)
        others.remove(module)
    for other in others:
        top = sys.modules[other]
        source = Path(next(iter(getattr(top, "__path__", [])), None) or str(top.__file__))
        if not is_of_installation(source):
            _copy(source, folder / source.name)
    return Path(name).name if is_file else name


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        if not target.exists():  # another module of the same package brought it
            shutil.copytree(source, target, ignore=_NOT_SOURCES)
    elif target.exists() and target.read_bytes() != source.read_bytes():
        raise UserError(f"--plugin {source}: another file of the name {source.name} travels already; rename one")
    else:
        shutil.copyfile(source, target)
