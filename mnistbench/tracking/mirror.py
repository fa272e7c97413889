"""Mirror a results folder into MLflow: while a grid runs (`Mirror`), and afterwards (`sync`).

The results folder is the truth and MLflow its mirror: a tracking server that is down, slow or locked costs a bounded
wait and never a result. Mirroring the same record or session of speed twice changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import override

from mnistbench.errors import UserError
from mnistbench.files.whole import read_regular
from mnistbench.grid.yaml import plain, read_document
from mnistbench.results.index import cells_by_status
from mnistbench.results.ownership import PAGE, SUMMARY, TABLE, is_free, is_grid_of_ours
from mnistbench.results.records import CellRecord
from mnistbench.results.targets import targets_asked
from mnistbench.tracking.address import checked, default_uri, named_experiment, place, reason, shown, waiting_helps
from mnistbench.tracking.identity import Owner
from mnistbench.tracking.journal import Journal, done_at
from mnistbench.tracking.server import Server, prepare
from mnistbench.tracking.sources import RunSource, of_record, sessions_of
from mnistbench.train.watcher import Ending, Remarks, Watcher

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder

WAIT_SECONDS = 25.0
"""Longest wait that one record or session may cost; a locked sqlite database answers after 20 s."""
PATIENCE_SECONDS = 60.0
"""How long `sync` waits for a server that has answered before and went away."""
SUMMARY_FILES = {
    "results.csv": TABLE, "epochs.csv": TABLE, "speed.csv": TABLE, "summary.md": SUMMARY, "report.html": PAGE,
}  # fmt: skip
"""Files of a report, with what in them says that a report wrote them."""


class NoAnswer(Exception):
    """The server let a call wait for longer than it may cost."""


class SyncedSessions(NamedTuple):
    """Sessions of speed, counted as `SyncResult` counts records."""

    mirrored: int = 0
    already: int = 0
    failed: int = 0


@dataclass(frozen=True)
class SyncResult:
    """What mirroring a results folder came to.

    Attributes:
        mirrored: records that were mirrored by this session.
        already: records that were there before.
        failed: records that are not there.
        reason: why, in one line without credentials; None if all went well.
        waiting_helps: whether the same may go well later, with nothing mended here.
        note: what is worth saying of the experiment that was used: where it has another name than was asked for.
        sessions: of speed; those that gained blocks since are mirrored anew.
    """

    mirrored: int
    already: int
    failed: int
    reason: str | None = None
    note: str | None = None
    waiting_helps: bool = False
    sessions: SyncedSessions = field(default_factory=SyncedSessions)


class Mirror(Watcher):
    """Writes the records and sessions of speed of one results folder to one experiment.

    Its methods never raise because of the server: after the first failure `write` gives up, so that an absent server
    costs its wait once; what is missing then is left to `finish` and `sync`.

    Attributes:
        address: the server, fit to be shown.
        experiment: the one that the user named; None for the folder's own.
        reason: why it gave up, fit to be shown; None while all is well.
    """

    def __init__(
        self,
        uri: str | None,
        results: ResultsFolder,
        grid: str,
        *,
        experiment: str | None = None,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            uri: tracking URI; None is `default_uri()`.
            results: the folder whose journal says what is mirrored.
            grid: its name; the folder's own experiment is called so where no other's is.
            experiment: the one that the user named in its place, which other folders may share; None is
                `$MLFLOW_EXPERIMENT_NAME`, if that is set.
            wait_seconds: longest wait for one record.

        Raises:
            UserError: for a URI that MLflow cannot use, or an empty name.
        """
        self._uri = checked(uri or default_uri())
        self._results = results
        self._grid = grid
        self.experiment = named_experiment(experiment)
        self._name = self.experiment or grid
        self._wait_seconds = wait_seconds
        self._server: Server | None = None
        self._journal: Journal | None = None
        self._mirrored: set[str] = set()
        self._failure: Exception | None = None
        self._summary_failed = False
        self.address = shown(self._uri)
        self._place = place(self._uri, self._name)

    @property
    def reason(self) -> str | None:
        """Why it gave up."""
        if self._failure is None:
            return None
        why = reason(self._failure, self._uri)
        return f"the report could not be written to MLflow: {why}" if self._summary_failed else why

    def open(self) -> bool:
        """Reach the server, making the sqlite database if there is none; False if it cannot be used.

        Call it before the first cell, so that neither mlflow's import nor a migration falls between two cells.
        """
        if self._server is None and self._failure is None:
            try:
                prepare(self._uri)
            except Exception as error:
                self._failure = error
            else:
                self._attempt(self._connect, self._wait_seconds)
        return self._failure is None

    def write(self, record: CellRecord) -> bool:
        """Mirror a record that was just made. True if it is on the server, or `skipped`: no run, nothing to show."""
        return record.status == "skipped" or (self.open() and self._write(self._source(record)))

    def finish(self) -> SyncResult:
        """Mirror what the folder holds and the server does not, then the report; call it when that is written.

        A server that failed is tried once more, in case it came back; one that hung is not.
        """
        if not isinstance(self._failure, NoAnswer):
            self._failure = None
        return self._mirror_all(patience_seconds=0.0)

    @override
    def begin(self, cells: int, kept: int) -> None:
        self.open()  # mlflow's import and a new database's migrations fall before the first cell, not between two

    @override
    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        if not interrupted:
            self.write(record)

    @override
    def end(self, ending: Ending | None) -> Remarks | None:
        """Mirror what is left; no server is asked if nothing changed and the journal says that all is there."""
        if ending is None:
            return None
        sessions = {source.key for source in sessions_of(self._results, self._grid)}
        if not ending.changed and self.has_all(ending.record_ids | self._results.attempt_ids() | sessions):
            return Remarks(tracking=self.address, experiment=self.experiment)
        result = self.finish()
        warnings = [] if result.note is None else [result.note]
        if not result.failed and not result.sessions.failed and result.reason:
            warnings.append(f"{result.reason}; `sync {self._results.path}` does it again")
        return Remarks(
            warnings=tuple(warnings),
            tracking=self.address,
            experiment=self.experiment,
            not_mirrored=result.failed,
            not_mirrored_sessions=result.sessions.failed,
            not_mirrored_reason=result.reason,
        )

    def has_all(self, keys: Set[str]) -> bool:
        """Whether the journal says that all of these records and sessions are mirrored; no server is asked.

        Args:
            keys: record_ids, and keys of sessions (`RunSource`).
        """
        return keys <= done_at(self._results.mirrored_file, self._place)

    def _mirror_all(self, patience_seconds: float) -> SyncResult:
        records, sessions = _all_records(self._results), sessions_of(self._results, self._grid)
        sources = [*map(self._source, records), *sessions]
        patiently = partial(self._patiently, patience_seconds)
        if (
            self.open()
            and patiently(lambda: self._settle(sources))
            and all(patiently(partial(self._write, source)) for source in sources)
        ):
            self._summary_failed = not patiently(self._write_summary)
        return SyncResult(
            *self._counts(record.record_id for record in records),
            self.reason,
            self.note,
            self._failure is not None and waiting_helps(self._failure),
            SyncedSessions(*self._counts(source.key for source in sessions)),
        )

    @cached_property
    def _targets(self) -> Sequence[float] | None:
        return targets_asked(self._results)

    def _source(self, record: CellRecord) -> RunSource:
        return of_record(record, self._results, self._targets)

    def _patiently(self, patience_seconds: float, step: Callable[[], bool]) -> bool:
        """Repeat a step until it succeeds or the server has been away for so long."""
        until = time.monotonic() + patience_seconds
        while not step():
            # After a call that hung, one more could overtake it and make a second run.
            if isinstance(self._failure, NoAnswer) or time.monotonic() >= until:
                return False
            time.sleep(1.0)
            self._failure = None
        return True

    def _connect(self) -> None:
        owner = None if self.experiment else Owner(self._results)
        server = Server(self._uri, self._name, owner)
        self._journal = Journal.read(self._results.mirrored_file, server.key, self._place)
        self._server = server

    def _settle(self, sources: Sequence[RunSource]) -> bool:
        """Look up what is on the server, whatever the journal says: runs are deleted there, or were not noted here."""
        server, journal = self._reached()
        keys = {source.key for source in sources}

        def look_up() -> None:
            runs = server.runs_of(sources, journal.done.values())
            for key in keys:
                run = runs.get(key)
                if run is None or not run.whole:
                    journal.forget(key)  # it may have been deleted there
                if run is None:
                    continue
                if not run.whole:
                    journal.created[key] = run.run_id
                elif journal.done.get(key) != run.run_id or key in journal.doubtful:
                    journal.complete(key, run.run_id)
            for orphan in journal.open - keys:
                journal.complete(orphan, server.close_as_killed(orphan))

        return self._attempt(look_up, self._wait_seconds + len(sources) / 100)

    def _write(self, source: RunSource) -> bool:
        server, journal = self._reached()
        key = source.key

        def mirror() -> None:
            run_id = journal.created.get(key)
            if run_id is None:
                run = None
                if key in journal.open:
                    run = server.runs_of([source]).get(key)
                    server.doubtful[key] = source
                else:
                    journal.intend(key)
                run_id = run.run_id if run else server.create_or_find_run(source)
                journal.created[key] = run_id
            server.fill_run(run_id, source)
            journal.complete(key, run_id, doubtful=key in server.doubtful)
            self._mirrored.add(key)

        return key in journal.done or self._attempt(mirror, self._wait_seconds)

    def _write_summary(self) -> bool:
        server, journal = self._reached()
        counts, files = cells_by_status(self._results), _files_of_ours(self._results)

        def write() -> None:
            server.settle_doubts(journal.done.values())
            server.write_summary(counts, files)

        return self._attempt(write, self._wait_seconds)

    def _counts(self, keys: Iterable[str]) -> tuple[int, int, int]:
        """How many are mirrored now, were there before, and are not there."""
        wanted = set(keys)
        done = self._journal.done.keys() if self._journal else done_at(self._results.mirrored_file, self._place)
        there = wanted & done
        return len(there & self._mirrored), len(there - self._mirrored), len(wanted) - len(there)

    @property
    def note(self) -> str | None:
        """Where the experiment has another name than was asked for, which, and why."""
        if self._server is None or not self._server.taken:
            return None
        return (
            f"the experiment {self._name!r} {self._server.taken}: these records are in {self._server.name!r};"
            f" --experiment NAME puts them beside others'"
        )

    def _reached(self) -> tuple[Server, Journal]:
        assert self._server is not None and self._journal is not None
        return self._server, self._journal

    def _attempt(self, work: Callable[[], None], seconds: float) -> bool:
        """Do it within that time; if it fails or hangs, remember why and say False."""
        try:
            _within(seconds, work)
        except Exception as error:
            self._failure = error
            if isinstance(error, NoAnswer) and self._server:
                self._server.given_up.set()
        return self._failure is None


def sync(
    results: ResultsFolder,
    uri: str | None = None,
    *,
    experiment: str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> SyncResult:
    """Mirror what a server does not have yet of a results folder, once, and its report.

    Args:
        results: the folder; it is locked meanwhile.
        uri: tracking URI; None is `default_uri()`.
        experiment: one to share with other folders; None is `$MLFLOW_EXPERIMENT_NAME`, else the folder's own, which is
            named after the grid.
        patience_seconds: how long to wait for a server that answered and then went away.

    Raises:
        UserError: for a URI that MLflow cannot use, and if a runner holds the folder.
    """
    mirror = Mirror(uri, results, grid_name(results), experiment=experiment)
    with results.lock():
        return mirror._mirror_all(patience_seconds)


def grid_name(results: ResultsFolder) -> str:
    """The grid's name as its resolved file says it, else the folder's."""

    try:
        grid = plain(read_document(read_regular(results.grid_file).decode(), "grid.yaml"))
        return str(grid["name"])
    except (OSError, UnicodeDecodeError, UserError, KeyError, TypeError):
        return results.name


def _files_of_ours(results: ResultsFolder) -> list[Path]:
    """The grid and the report, and none of the user's own files of the same names."""
    files = [results.grid_file] if is_grid_of_ours(results.grid_file) else []
    for name, sign in SUMMARY_FILES.items():
        places = [results.path / name, results.path / f"report-{name}"]
        files += [place for place in places if place.is_file() and is_free(place, sign)][:1]
    return files


def _all_records(results: ResultsFolder) -> list[CellRecord]:
    """Every attempt in the folder, whether it counts or not; `skipped` cells never ran."""
    records = [content for _, content in results.scan() if isinstance(content, CellRecord)] + results.attempts()
    return [record for record in records if record.status != "skipped"]


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do it in a thread, and stop waiting when the time is up: a server may dribble a byte a second for ever.

    Raises:
        NoAnswer: if it takes longer.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True, name="mirror")
    thread.start()
    try:
        thread.join(seconds)
    except BaseException:
        thread.join(1.0)  # Ctrl-C: let the run be closed, if the server is well
        raise
    if not outcome:
        raise NoAnswer
    if outcome[0] is not None:
        raise outcome[0]
