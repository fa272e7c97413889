"""Find a cell's record or its kept weights by what a user has at hand: a file, some digits of a cell id, a run id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.results import folder as results
from mnistbench.results.records import CellRecord

Download = Callable[[str], Iterable[Path]]
"""From an MLflow run id to its weights files, fetched."""

RESULTS = Path("results")
RUN_ID = re.compile(r"[0-9a-f]{32}")
CELL_ID = re.compile(r"[0-9a-f]{1,16}")


def find_weights(source: str, *, folder: Path | None, download: Download | None) -> Path:
    """The weights file that `source` means: a `.safetensors` file, a record file, a cell id's beginning, a run id.

    Where a run kept several epochs, it is the last one.

    Args:
        source: what the user gave.
        folder: the folder where a cell id is looked for; every folder in `results/` if None.
        download: fetches the weights files of an MLflow run; None where there is no MLflow to ask.

    Raises:
        UserError: if there is none, or the beginning fits several cells.
    """
    path = Path(source)
    if path.suffix == ".json" and path.with_suffix(".safetensors").is_file():
        path = path.with_suffix(".safetensors")  # its settings were named
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if path.is_file() and path.suffix != ".json":
        raise UserError(f"{path}: a kept model is a .safetensors file: give that, its record's file or its cell's id")
    if download is not None and RUN_ID.fullmatch(source) and not path.exists():
        downloaded = sorted(download(source))
        if not downloaded:
            raise UserError(f"MLflow run {source} has no kept model among its artifacts")
        return downloaded[-1]
    record_file = find_record_file(source, folder=folder)
    record = record_in(record_file)
    if record.model is None or not record.model.weights:
        if (said := record.checks.get("kept_model", "")).startswith("not kept"):
            raise UserError(f"cell {record.cell_id}: its model was {said}")
        raise UserError(
            f"cell {record.cell_id} kept no model; add `training: {{save_model: last}}` to its grid and run it again"
        )
    weights = folder_of(record_file) / record.model.weights[-1]
    if not weights.resolve().is_relative_to(folder_of(record_file)):
        raise UserError(f"{record_file}: it names a model outside its results folder")
    if not weights.is_file():
        raise UserError(f"{weights}: the weights of cell {record.cell_id} are gone")
    return weights


def find_record_file(source: str, *, folder: Path | None = None) -> Path:
    """The record file that `source` means: a path, or the beginning of a cell id in a results folder.

    Raises:
        UserError: if there is none, or the beginning fits several cells.
    """
    path = Path(source)
    if path.is_file():
        return path
    if not CELL_ID.fullmatch(source):
        raise UserError(
            f"{source}: neither a file nor the beginning of a cell id; `status DIR --cells` prints those of a results "
            "folder"
        )
    folders = [folder] if folder is not None else _results_folders()
    found = sorted(file for place in folders for file in (place / "cells").glob(f"{source}*.json"))
    if not found:
        places = ", ".join(str(place) for place in folders) or f"{RESULTS}/"
        raise UserError(f"no cell {source}… in {places}; name the folder with --in, or give a file")
    if len(found) > 1:
        shown = ", ".join(str(file) for file in found[:4])
        if len({file.name for file in found}) == 1:
            raise UserError(f"{source}… is in {len(found)} folders ({shown}): name one with --in")
        raise UserError(f"{source}… is the beginning of {len(found)} cells ({shown}): give more digits, or use --in")
    return found[0]


def record_in(path: Path) -> CellRecord:
    """One record, from its file.

    Raises:
        UserError: if it cannot be read.
    """
    found = results.read_record(path)
    if isinstance(found, str):
        raise UserError(f"{path}: {found}")
    return found


def folder_of(record_file: Path) -> Path:
    """The results folder that holds this record file (`<folder>/cells/<cell_id>.json`)."""
    return record_file.resolve().parent.parent


def _results_folders() -> list[Path]:
    return sorted(cells.parent for depth in ("*/cells", "*/*/cells") for cells in RESULTS.glob(depth))
