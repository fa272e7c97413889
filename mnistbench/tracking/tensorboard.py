"""Curves by epoch as TensorBoard event files, written from records (the extra `tensorboard`).

One folder per record, named after its cell, so that TensorBoard shows each as a run. Writing again replaces the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.results.measures import MEASURES, by_epoch
from mnistbench.results.records import CellRecord


def write_events(records: Iterable[CellRecord], directory: Path) -> list[Path]:
    """Write the curves of `MEASURES` of each record that trained at least one epoch, named as in MLflow.

    Args:
        records: their epochs carry the times of the points, so the curves lie where training took place.
        directory: gets one folder per record: `<architecture>-<optimizer>-<batch size>-<device>-<seed>-<cell id>`, and
            the beginning of the record's id where a cell has several.

    Returns:
        The folders written.

    Raises:
        UserError: if the extra is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install 'mnistbench[tensorboard]'") from None

    written = []
    trained = [record for record in records if record.epochs]
    of_cell = Counter(record.cell_id for record in trained)
    for record in trained:
        # A merged folder has a record of one cell from each machine.
        own = f"-{record.record_id[:8]}" if of_cell[record.cell_id] > 1 else ""
        folder = directory / f"{_folder_name(record)}{own}"
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        writer = EventFileWriter(str(folder))
        for so_far, epoch in zip(by_epoch(record), record.epochs, strict=True):
            values = {measure.by_epoch: measure.value(so_far) for measure in MEASURES if measure.by_epoch}
            summary = Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
            )
            moment = datetime.fromisoformat(epoch.ended_at).timestamp()
            writer.add_event(Event(wall_time=moment, step=epoch.epoch, summary=summary))
        writer.close()
        written.append(folder)
    return written


def _folder_name(record: CellRecord) -> str:
    """Tells the runs apart in TensorBoard's list; a plug-in's `module:Name` is made safe for a file name."""
    cell = record.cell
    parts = [cell.architecture.name, cell.optimizer.name, str(cell.batch_size), cell.device, f"seed{cell.seed}"]
    name = "-".join([*parts, record.cell_id])
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
