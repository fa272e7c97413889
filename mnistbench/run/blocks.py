"""Takes the speed of a grid's settings: cycles of short blocks, each in a fresh process (docs/measurement.md).

Before the first cycle, each setting is settled once: kernels are chosen, and the equivalence gate is asked. A cycle
then takes every setting once, in an order of its own. What a session took lies in its file under `speed/`; a run that
was killed goes on with a session of its own, which takes what is lacking.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mnistbench.cell import Cell
from mnistbench.results.records import CellRecord, utc_now
from mnistbench.results.speed import SpeedBlock, SpeedSession, SpeedSetting, SpeedWriter, new_session_name
from mnistbench.results.this_machine import machine_id, torch_build
from mnistbench.run.cycles import TRIES, CyclePlan
from mnistbench.run.executors import ProcessExecutor
from mnistbench.run.session import Session
from mnistbench.train.job import Job
from mnistbench.words.wording import plural, rough_time

if TYPE_CHECKING:  # which would load torch
    from mnistbench.train.block import BlockMeasurement, SettledSetting

FIRST_LOOK = 10
"""Cycles that a judgement needs at least; with a budget, they come before the seeds, and the others after them."""
BLOCK_TIMEOUT_SECONDS = 300.0
"""Of a block with its set-up, where the user gives none: a compiled network takes a minute to be ready."""


@contextmanager
def time_speed(session: Session, plan: CyclePlan | None) -> Iterator[None]:
    """Time what is lacking before the cells run; with a budget, ten cycles before them and the others after them.

    Both parts are one session, and so one look at the differences (docs/statistics.md).
    """
    if plan is None or not plan.is_open or session.ends:
        yield
        return
    session.watchers.say(plan.line())
    first = plan.cycles
    if session.deadline is not None:
        first = min(first, FIRST_LOOK)
        seconds = plan.seconds * first / plan.cycles
        if session.deadline - time.monotonic() < seconds:
            session.warn(
                f"{first} cycles take about {rough_time(seconds)}, longer than the budget: no speeds will be ranked"
            )
    session.executor.prepare(plan.cells)
    taking = SpeedTaking(session=session, plan=plan)
    try:
        taking.settle()
        taking.take(first)
        yield
        taking.take(plan.cycles - taking.cycles)
    finally:
        taking.end()
        session.blocks = taking.taken
        session.speed_line = taking.line()


@dataclass(kw_only=True)
class SpeedTaking:
    """A session of blocks while it is taken.

    Attributes:
        taken: blocks with a time; of these, those with a cause, which count as missing, are `busy`.
        cycles: whole ones so far.
    """

    session: Session
    plan: CyclePlan
    taken: int = 0
    busy: int = 0
    cycles: int = 0
    settled: dict[str, tuple[Cell, SettledSetting]] = field(default_factory=dict)
    _errors: dict[str, int] = field(default_factory=dict)
    _writer: SpeedWriter | None = None
    _seed: int = 0
    _files: ExitStack = field(default_factory=ExitStack)

    def settle(self) -> None:
        """Choose kernels and ask the gate for each setting, and begin the session's file."""
        session = self.session
        failed: list[tuple[SpeedSetting, SpeedBlock | None]] = []
        for number, cell in enumerate(self.plan.cells, start=1):
            if session.ends:
                return
            session.watchers.speed(f"settling setting {number} of {len(self.plan.cells)}: {_label(cell)}")
            answer = _executor(session).settle_setting(self._job(cell))
            key = cell.without_seed()
            if isinstance(answer, CellRecord):
                if answer.status == "killed" and session.interruption.signum is not None:
                    return
                reason = f"{answer.error.type}: {answer.error.message}" if answer.error else answer.status
                session.warn(f"{_label(cell)}: its speed cannot be timed: {reason}")
                block = _block(0, 0, key, 0, answer)
                failed.append((SpeedSetting(setting=key, cell=cell, steps=0), block))
            elif answer.equivalence.startswith("failed"):
                session.warn(f"{_label(cell)}: its speed is not timed: the equivalence gate {answer.equivalence}")
                failed.append((_setting(cell, answer), None))
            else:
                self.settled[key] = cell, answer
        self._begin_file(failed)

    def take(self, cycles: int) -> None:
        """Take so many more cycles, until the session ends."""
        for _ in range(cycles):
            deadline = self.session.deadline
            if self._writer is None or not self.settled or (deadline and time.monotonic() >= deadline):
                return
            if not self._take_cycle(self._writer, self.cycles):
                return
            self.cycles += 1
            self.session.watchers.speed(f"cycle {self.cycles} of {self.plan.cycles} is timed")

    def line(self) -> str:
        """What was taken and what is missing."""
        missing = self.plan.cycles * len(self.plan.cells) - self.taken
        parts = [f"{plural(self.taken, 'block')} in {plural(self.cycles, 'cycle')}"]
        parts += [f"{missing} missing"] if missing else []
        parts += [f"{self.busy} disturbed"] if self.busy else []
        return f"speed: {', '.join(parts)}"

    def end(self) -> None:
        """Close the session's file."""
        self._files.close()
        self._writer = None

    def _begin_file(self, failed: Sequence[tuple[SpeedSetting, SpeedBlock | None]]) -> None:
        session = self.session
        name = new_session_name()
        self._seed = int(name.rpartition("-")[2], 16) % 2**31
        places = [answer.environment for _, answer in self.settled.values()]
        environment = next((place for place in places if place.device_id), next(iter(places), None))
        about = SpeedSession(
            machine=machine_id(),
            build=torch_build(),
            data=session.data.sha256,
            seed=self._seed,
            cycles=self.plan.cycles,
            started_at=utc_now(),
            environment=environment,
        )
        self._writer = self._files.enter_context(SpeedWriter(session.results, about, name=name))
        for setting, block in failed:
            self._writer.append(setting)
            if block is not None:
                for cycle in range(TRIES):
                    self._writer.append(replace(block, cycle=cycle))
        for cell, answer in self.settled.values():
            self._writer.append(_setting(cell, answer))

    def _take_cycle(self, writer: SpeedWriter, cycle: int) -> bool:
        """Whether the cycle was taken to its end."""
        for position, key in enumerate(_order(sorted(self.settled), self._seed, cycle)):
            session = self.session
            if session.ends:
                return False
            cell, settled = self.settled[key]
            began = time.monotonic()
            job = replace(self._job(cell), resolved=settled.resolved)
            measured = _executor(session).time_block(job, settled.steps)
            if isinstance(measured, CellRecord) and measured.status == "killed" and session.interruption.signum:
                return False
            block = _block(cycle, position, key, settled.steps, measured)
            writer.append(replace(block, wall_seconds=time.monotonic() - began))
            self._count(cell, key, block)
        return True

    def _count(self, cell: Cell, key: str, block: SpeedBlock) -> None:
        if block.error is None:
            self.taken += 1
            self.busy += not block.is_clean
            return
        self._errors[key] = self._errors.get(key, 0) + 1
        if self._errors[key] >= TRIES:
            self.session.warn(f"{_label(cell)}: its speed is not timed any more: {block.error}")
            del self.settled[key]

    def _job(self, cell: Cell) -> Job:
        session = self.session
        plugins = session.options.plugins
        return Job(
            cell=cell,
            record_id=str(uuid.uuid4()),
            data_directory=session.data_directory,
            data=session.data,
            plugins=plugins.needed_by(cell) if plugins else (),
            timeout_seconds=session.options.timeout_seconds or BLOCK_TIMEOUT_SECONDS,
        )


def _executor(session: Session) -> ProcessExecutor:
    assert isinstance(session.executor, ProcessExecutor)
    return session.executor


def _order(settings: list[str], seed: int, cycle: int) -> Iterator[str]:
    random.Random(f"{seed}/{cycle}").shuffle(settings)
    yield from settings


def _setting(cell: Cell, answer: SettledSetting) -> SpeedSetting:
    return SpeedSetting(
        setting=cell.without_seed(),
        cell=cell,
        resolved=dict(answer.resolved),
        equivalence=answer.equivalence,
        steps=answer.steps,
    )


def _block(cycle: int, position: int, key: str, steps: int, measured: BlockMeasurement | CellRecord) -> SpeedBlock:
    if isinstance(measured, CellRecord):
        error = measured.error
        reason = f"{error.type}: {error.message}" if error else measured.status
        return SpeedBlock(
            cycle=cycle, position=position, setting=key, steps=steps, examples=0, seconds=None, error=reason
        )
    return SpeedBlock(cycle=cycle, position=position, setting=key, **vars(measured))


def _label(cell: Cell) -> str:
    return cell.label.rpartition(" · seed ")[0]
