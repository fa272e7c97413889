"""Several results folders made into one: each record once, the same cell of two machines twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mnistbench.errors import UserError
from mnistbench.files.whole import move_whole, write_whole, writing
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import refuse_newer
from mnistbench.results.records import RESULTS, CellRecord, dump
from mnistbench.results.speed import merged_files, write_sessions
from mnistbench.results.targets import targets_asked
from mnistbench.results.this_machine import recognized


def merge_folders(sources: Sequence[ResultsFolder], target: ResultsFolder) -> int:
    """Fill a new folder with every record that the sources hold, whether it counts or not, and with its model; the
    blocks of speed go with them, a session's file as it is.

    Of one cell on one machine and build the latest result counts (`one_per_build`), and the others become attempts; so
    does the record of a cell that its own folder's grid has lost and another's has. The first machine's record of a
    cell lies in `cells/<cell_id>.json`, any other's in `cells/<cell_id>@<machine>.json`. Cells that a source's grid has
    and nobody ran stay asked for. All is put together in `.<name>.merging` beside the target, and then renamed: a merge
    that is killed leaves no target, and is repeated. Files that are no records stay in their folders.

    Returns:
        How many records count in the new folder.

    Raises:
        UserError: if the target is there already, a record is of a newer mnistbench, or two different records carry one
            record_id or two different sessions of blocks one name; nothing is written.
    """
    place = target.path.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir()) or place.samefile(Path.cwd())):
        raise UserError(f"{target.path}: is no folder, not empty, or the working folder; merge into a new folder")
    cell_ids, targets = asked((source, source.records()) for source in sources)
    asked_for = set(cell_ids)
    holders: dict[str, tuple[CellRecord, ResultsFolder]] = {}
    counting: dict[str, CellRecord] = {}
    for source in sources:
        refuse_newer(source)
        wanted = source.cell_ids()
        in_cells = [record for _, record in source.scan() if isinstance(record, CellRecord)]
        for record in [*in_cells, *source.attempts()]:
            known, holder = holders.setdefault(record.record_id, (record, source))
            if known != record:
                raise UserError(
                    f"record {record.record_id} in {source.path} is not the one in {holder.path}, and a record never"
                    " changes once written: take out the folder that was edited"
                )
        for record in in_cells:
            if wanted is None or record.cell_id in wanted or record.cell_id not in asked_for:
                counting[record.record_id] = record
    blocks = merged_files(sources)
    chosen, _ = one_per_build(counting.values())
    chosen_ids = {record.record_id for record in chosen}
    draft = ResultsFolder(place.with_name(f".{place.name}.merging"))
    draft.create()
    with draft.lock():
        _empty(draft)
        for record, _ in holders.values():
            if record.record_id not in chosen_ids:
                write_whole(draft.attempt_file(record), dump(record))
            _copy_models(record, sources, draft)
        for path, record in _named(chosen, draft.cells):
            write_whole(path, dump(record))
        write_sessions(draft, blocks)
        draft.write_asked(cell_ids, targets)
        grid_file = next((source.grid_file for source in sources if source.grid_file.is_file()), None)
        if grid_file is not None:
            write_whole(draft.grid_file, grid_file.read_bytes())
    move_whole(draft.path, place)
    return sum(record.cell_id in asked_for for record in chosen)


def _empty(draft: ResultsFolder) -> None:
    """Take out what a merge that was killed left in the folder that it made."""
    with writing(draft.path):
        for folder in (draft.cells, draft.attempts_folder, draft.models, draft.speed):
            if folder.exists():
                shutil.rmtree(folder)
        for folder in (draft.cells, draft.attempts_folder):
            folder.mkdir()


class _Build(NamedTuple):
    place: tuple[object, ...]
    gpu: str | None


def one_per_build(records: Iterable[CellRecord]) -> tuple[list[CellRecord], list[CellRecord]]:
    """Of each cell on each machine, GPU, torch build and protocol the latest result, else attempt; and the rest.

    The same seed run again is the same repeat. An attempt that never got to say where it ran counts only where nothing
    else is known of its cell.
    """
    by_cell: dict[str, dict[_Build | None, list[CellRecord]]] = {}
    for record in records:
        where = record.environment
        build = _Build((recognized(where.machine_id), where.torch, record.protocol), where.device_id) if where else None
        by_cell.setdefault(record.cell_id, {}).setdefault(build, []).append(record)
    chosen, rest = [], []
    for builds in by_cell.values():
        unplaced = builds.pop(None, []) if len(builds) > 1 else []
        for build in [build for build in builds if build is not None and build.gpu is None]:
            # An attempt that was killed could not say which GPU it was on.
            same = [other for other in builds if other is not None and other.gpu and other.place == build.place]
            if same:
                builds[same[0]] += builds.pop(build)
        for group in builds.values():
            *earlier, best = sorted(group, key=_standing)
            chosen.append(best)
            rest += earlier
        rest += unplaced
    return chosen, rest


def _standing(record: CellRecord) -> tuple[bool, bool, str]:
    """Sorts what counts behind what does not: results, those that are up to date, the latest."""
    return record.status in RESULTS, record.outdated is None, record.started_at


def asked(folders: Iterable[tuple[ResultsFolder, Sequence[CellRecord]]]) -> tuple[list[str], list[float]]:
    """What the grids of several folders ask, each question once: ids of cells, and target accuracies.

    Args:
        folders: each with its records, which stand for a grid that the folder does not know.
    """
    cell_ids: set[str] = set()
    targets: set[float] = set()
    for folder, records in folders:
        cell_ids |= folder.cell_ids() or {record.cell_id for record in records}
        named = targets_asked(folder)
        if named is None:
            named = tuple(target for record in records for target in record.cell.training.targets)
        targets.update(named)
    return sorted(cell_ids), sorted(targets)


def _named(records: Iterable[CellRecord], folder: Path) -> Iterable[tuple[Path, CellRecord]]:
    taken: set[str] = set()
    for record in records:
        name, number = record.cell_id, 1
        while name in taken:
            name = f"{record.cell_id}@{machine_of(record)}{f'-{number}' if number > 1 else ''}"
            number += 1
        taken.add(name)
        yield folder / f"{name}.json", record


def machine_of(record: CellRecord) -> str:
    """The first digits of the machine's hash; `unknown` for an attempt that never got to say."""
    machine_id = recognized(record.environment.machine_id) if record.environment else ""
    return "".join(letter for letter in machine_id[:8] if letter.isalnum()) or "unknown"


def _copy_models(record: CellRecord, sources: Iterable[ResultsFolder], target: ResultsFolder) -> None:
    for folder in (source.models for source in sources):
        models = folder / record.record_id
        if models.is_dir() and models.resolve().parent == folder.resolve():
            with writing(target.models):
                shutil.copytree(models, target.models / record.record_id, ignore=_links)
            return


def _links(folder: str, names: list[str]) -> list[str]:
    """What is not copied: in a folder of somebody else's, a link may name any file of whoever merges it."""
    return [name for name in names if (Path(folder) / name).is_symlink()]
