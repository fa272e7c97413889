"""Find a cell's record or its kept weights by what a user has at hand: a file, some digits of a cell id, a run id."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.records import CellRecord

RESULTS = Path("results")
RUN_ID = re.compile(r"[0-9a-f]{32}")
CELL_ID = re.compile(r"[0-9a-f]{1,16}")


def find_weights(source: str, *, results: Path | None = None, tracking_uri: str | None = None) -> Path:
    """The weights file that `source` means: a `.safetensors` file, a record file, a cell id's beginning, a run id.

    Where a run kept several epochs, it is the last one.

    Raises:
        UserError: if there is none, or the beginning fits several cells.
    """
    path = Path(source)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if RUN_ID.fullmatch(source) and not path.exists():
        return _downloaded(source, tracking_uri)
    record_file = find_record_file(source, results=results)
    record = read_record(record_file)
    if record.model is None or not record.model.weights:
        raise UserError(
            f"cell {record.cell_id} kept no model; add `training: {{save_model: last}}` to its grid and run it again"
        )
    weights = folder_of(record_file) / record.model.weights[-1]
    if not weights.is_file():
        raise UserError(f"{weights}: the weights of cell {record.cell_id} are gone")
    return weights


def find_record_file(source: str, *, results: Path | None = None) -> Path:
    """The record file that `source` means: a path, or the beginning of a cell id in a results folder.

    Raises:
        UserError: if there is none, or the beginning fits several cells.
    """
    path = Path(source)
    if path.is_file():
        return path
    if not CELL_ID.fullmatch(source):
        raise UserError(f"{source}: neither a file nor a cell id; `list cells DIR` prints the ids of a results folder")
    folders = [results] if results is not None else _results_folders()
    found = sorted(file for folder in folders for file in (folder / "cells").glob(f"{source}*.json"))
    if not found:
        places = ", ".join(str(folder) for folder in folders) or f"{RESULTS}/"
        raise UserError(f"no cell {source}… in {places}; name the folder with --in, or give a file")
    if len(found) > 1:
        shown = ", ".join(str(file) for file in found[:4])
        raise UserError(f"{source}… is the beginning of {len(found)} cells ({shown}): give more digits, or use --in")
    return found[0]


def read_record(path: Path) -> CellRecord:
    """One record, from its file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return CellRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a record ({error})") from None


def folder_of(record_file: Path) -> Path:
    """The results folder that holds this record file (`<folder>/cells/<cell_id>.json`)."""
    return record_file.resolve().parent.parent


def _results_folders() -> list[Path]:
    return sorted(cells.parent for depth in ("*/cells", "*/*/cells") for cells in RESULTS.glob(depth))


def _downloaded(run_id: str, tracking_uri: str | None) -> Path:
    from mnistbench import tracking

    folder = Path(tempfile.mkdtemp(prefix="mnistbench-model-"))
    weights = sorted(tracking.download_weights(run_id, tracking_uri, folder))
    if not weights:
        raise UserError(f"MLflow run {run_id} has no kept model among its artifacts")
    return weights[-1]
