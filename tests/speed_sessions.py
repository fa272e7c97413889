"""Sessions of blocks made up for tests: settings with given rates, timed in cycles with noise, in no time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synthetic import START, make_environment

from mnistbench.cell import Cell
from mnistbench.report.blocks import blocks_frame
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import Environment
from mnistbench.results.speed import SpeedBlock, SpeedSession, SpeedSetting, SpeedWriter, TimedSession


def make_session(
    rates: Mapping[Cell, float],
    *,
    cycles: int = 16,
    spread: float = 0.05,
    drift: float = 0.05,
    seed: int = 0,
    started_at: datetime = START,
    environment: Environment | None = None,
    equivalence: str | None = "passed",
    disturbed: Mapping[tuple[int, Cell], str] | None = None,
    missing: Iterable[tuple[int, Cell]] = (),
    **changes: Any,
) -> TimedSession:
    """One session: each cell's setting once a cycle, at its rate (examples/s), with noise of its own and of the cycle.

    Args:
        disturbed: the causes of blocks by (cycle, cell).
        missing: (cycle, cell) of blocks that were never taken.
    """
    random = np.random.default_rng(seed)
    environment = environment or make_environment()
    about = SpeedSession(
        machine=environment.machine_id,
        build=environment.torch,
        data="d1f3",
        seed=seed,
        cycles=cycles,
        started_at=started_at.isoformat(),
        environment=environment,
        **changes,
    )
    steps = 4
    settings = {
        cell.without_seed(): SpeedSetting(setting=cell.without_seed(), cell=cell, equivalence=equivalence, steps=steps)
        for cell in rates
    }
    blocks: dict[tuple[int, str], SpeedBlock] = {}
    skipped = set(missing)
    for cycle in range(cycles):
        shared = random.normal(0, drift)
        for position, index in enumerate(random.permutation(len(rates))):
            cell, rate = list(rates.items())[index]
            factor = float(np.exp(shared + random.normal(0, spread)))
            if (cycle, cell) in skipped:
                continue
            blocks[cycle, cell.without_seed()] = SpeedBlock(
                cycle=cycle,
                position=position,
                setting=cell.without_seed(),
                pid=1000 + position,
                steps=steps,
                examples=steps * cell.batch_size,
                seconds=steps * cell.batch_size / (rate * factor),
                cause=(disturbed or {}).get((cycle, cell)),
                wall_seconds=0.3,
            )
    return TimedSession(f"{started_at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}", about, settings, blocks)


def make_blocks(rates: Mapping[Cell, float], **options: Any) -> pd.DataFrame:
    """`blocks_frame` of one such session."""
    return blocks_frame([make_session(rates, **options)])


def sessions_at(rates: Sequence[Mapping[Cell, float]], *, hours: Sequence[int], **options: Any) -> list[TimedSession]:
    """Sessions at these hours, each with rates of its own."""
    return [
        make_session(own, started_at=START + timedelta(hours=hour), seed=hour, **options)
        for own, hour in zip(rates, hours, strict=True)
    ]


def write_session(folder: ResultsFolder, session: TimedSession) -> Path:
    """Write it as a run does, a line at a time."""
    with SpeedWriter(folder, session.about, name=session.name) as writer:
        for setting in session.settings.values():
            writer.append(setting)
        for block in session.blocks.values():
            writer.append(block)
    return writer.path
