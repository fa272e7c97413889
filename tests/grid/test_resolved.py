"""A resolved grid travels as JSON to a machine that has neither YAML reader nor pydantic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.resolved import read_resolved, write_resolved

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    grid = Grid.load(ROOT / "grid.yaml")
    write_resolved(grid, grid.cells(grid.dataset, 60_000, ["cpu", "cuda"]), tmp_path / "cells.json")
    return tmp_path / "cells.json"


def test_what_was_written_is_read(written: Path) -> None:
    grid = Grid.load(ROOT / "grid.yaml")
    resolved = read_resolved(written)
    assert resolved.cells == grid.cells(grid.dataset, 60_000, ["cpu", "cuda"])
    assert (resolved.name, resolved.dataset, resolved.fallback) == (grid.name, grid.dataset, grid.fallback)
    assert resolved.to_yaml() == grid.to_yaml()


def test_it_is_read_selected_and_ordered_without_yaml(written: Path) -> None:
    code = f"""
import sys
for name in ("ruamel", "ruamel.yaml", "mlflow", "torch", "pandas"):
    sys.modules[name] = None
from pathlib import Path
from mnistbench.grid.grid import rounds
from mnistbench.grid.resolved import read_resolved
from mnistbench.grid.select import select, shard
cells = read_resolved(Path({str(written)!r})).cells
chosen = select(cells, ["batch_size=64..512", "optimizer.nesterov=false"])
print(len(chosen), len(shard(cells, 1, 1)), len(rounds(cells, 0)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["30", "78", "3"], done.stderr


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_cell_changed_by_hand_is_refused(written: Path) -> None:
    cells = json.loads(written.read_text())["cells"]
    cells[3]["batch_size"] = 65
    change(written, cells=cells)
    with pytest.raises(UserError, match="has other settings than its id"):
        read_resolved(written)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", 3, None])
def test_a_name_that_is_no_folder_is_refused(written: Path, name: object) -> None:
    change(written, name=name)
    with pytest.raises(UserError, match="is damaged"):
        read_resolved(written)


@pytest.mark.parametrize("length", range(0, 4000, 97))
def test_a_truncated_file_is_refused(written: Path, length: int) -> None:
    written.write_text(written.read_text()[:length])
    with pytest.raises(UserError, match=r"cells\.json: is no resolved grid"):
        read_resolved(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolved_grid": 99}, "is of version 99"),
        ({"cells": 3}, "is damaged"),
        ({"cells": [3]}, "is damaged"),
        ({"cells": [{}]}, "is damaged"),
        ({"dataset": 3}, "is damaged"),
        ({"on_missing_device": "perhaps"}, "is damaged"),
        ({"yaml": None}, "is damaged"),
    ],
)
def test_a_file_of_another_shape_is_refused(written: Path, changes: dict[str, Any], message: str) -> None:
    change(written, **changes)
    with pytest.raises(UserError, match=message):
        read_resolved(written)


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 100_000, "{}", "nan", "\0"])
def test_what_is_no_resolved_grid_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="is no resolved grid: `plan --resolved` writes one"):
        read_resolved(tmp_path / "x.json")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_resolved(path)
    grid = Grid.load(ROOT / "grid.yaml")
    with pytest.raises(UserError, match="cannot be written"):
        write_resolved(grid, [], tmp_path / "none" / "x.json")
