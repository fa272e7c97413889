"""One experiment on an MLflow server: the calls that mirroring and reading back are made of.

The only file that imports mlflow, inside its functions, since that takes a second. Every method may raise whatever
MLflow, a database driver or the network raises; `mirror.py` bounds and names it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from mnistbench.errors import UserError
from mnistbench.tracking.address import HTTP, database_uri, sqlite_path
from mnistbench.tracking.content import KIND, SESSION, SPEED, STATUS, WHAT
from mnistbench.tracking.identity import Owner, is_grid_id
from mnistbench.tracking.sources import RunSource, identity_in, tag_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

MODEL_FOLDER = "model"
SUMMARY_RUN = "mnistbench.summary_run"
CELLS = "mnistbench.cells."
"""How a tag of the summary run begins that counts the cells of a status."""
SIZE = "mnistbench.session_bytes"
"""Tag of a session's run: how much of its file is there. Written last."""
GRID, GRID_ID = "mnistbench.grid", "mnistbench.grid_id"
"""Tags of an experiment: the name that was asked for, and whose it is. One that its user named has no `GRID_ID`."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 hang each call on a dead server for 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
ONE_BY_ONE = 20
"""More records than this are found by reading all runs of their time span, a page at a time."""
PAGE = 1000
PAUSE_SECONDS = 0.5
LONGEST_FOLDER_NAME = 240
"""Bytes; file systems take 255. A letter that is not ASCII takes up to 12 in an address."""


class GivenUp(Exception):
    """Nobody waits for this call any more."""


class FoundRun(NamedTuple):
    """A run that a record or a session has; `whole` if nothing of it is missing there."""

    run_id: str
    whole: bool


class Server:
    """An experiment, found or made.

    Attributes:
        key: names the experiment for good, whatever address its server is reached at; a database that was deleted and
            made again has another.
        name: the experiment's own, which is not the one that was asked for where that is taken.
        taken: why not, as the end of a sentence; "" if there is nothing to say.
        doubtful: sources, by key, whose runs were created after an earlier attempt failed or hung.
        given_up: set by whoever stopped waiting, so that a call that hung does not go on behind its back.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        owner: Owner | None = None,
        *,
        create: bool = True,
    ) -> None:
        """Find or make the experiment, after `prepare`.

        Args:
            uri: a checked tracking URI.
            experiment: its name. `quick-2` is used in place of a `quick` that was deleted (its name stays taken) or
                that is not the owner's.
            owner: the folder whose experiment it must be; None for one that the user named, whoever writes there too.
            create: make the experiment if it is missing.

        Raises:
            LookupError: if there is no such experiment and `create` is False; its arguments are the names there are.
            UserError: if its artifacts would not get where the server finds them.
        """
        from mlflow import MlflowClient

        path = sqlite_path(uri)
        self._is_remote = uri.startswith(HTTP)
        self.given_up = threading.Event()
        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        self._artifacts = None if path is None else path.parent / "mlruns"
        self._owner = owner
        self.doubtful: dict[str, RunSource] = {}
        self._folders: dict[str, Path] = {}
        self._database = path
        self._experiment = self._find_or_create(experiment) if create else self._find(experiment)
        self._refuse_unreachable_artifacts(self._experiment)
        self.name = str(self._experiment.name)
        self.taken = self._why_taken(experiment)
        self.key = _key(self._experiment)

    @property
    def grid_id(self) -> str:
        """Whose experiment it is, as its tag says."""
        tag = str(self._experiment.tags.get(GRID_ID, ""))
        return tag if is_grid_id(tag) else ""

    def create_run(self, source: RunSource) -> str:
        """Create the run of a record or a session, still empty, and give its id."""
        content = source.content()
        with _without_retries():
            run = self._client.create_run(
                self._experiment.experiment_id, start_time=content.started, tags=content.tags, run_name=content.name
            )
        run_id = str(run.info.run_id)
        if self._artifacts is not None and run.info.artifact_uri.startswith("file://"):
            self._folders[run_id] = Path(unquote(urlsplit(run.info.artifact_uri).path))
        return run_id

    def create_or_find_run(self, source: RunSource) -> str:
        """Create the run; if that fails, look whether the server has it all the same, and try once more."""
        self._go_on()
        try:
            return self.create_run(source)
        except Exception:
            self.doubtful[source.key] = source
            time.sleep(PAUSE_SECONDS)
            self._go_on()
            run = self.runs_of([source]).get(source.key)
            self._go_on()
            return run.run_id if run else self.create_run(source)

    def fill_run(self, run_id: str, source: RunSource) -> None:
        """Log all that a run shows, its artifact and the folder of kept weights, and close it.

        It may be repeated: the second time changes nothing, unless a session has gained blocks.
        """
        from mlflow.entities import Metric, Param, RunTag

        content = source.content()
        self._go_on()
        self._client.log_batch(
            run_id,
            metrics=[Metric(point.key, point.value, point.timestamp, point.step) for point in content.points],
            params=[Param(key, value) for key, value in content.params.items()],
        )
        self._go_on()
        self._log_data(run_id, source)
        for model in source.kept_models():
            self._go_on()
            self._client.log_artifact(run_id, str(model), MODEL_FOLDER)
        if source.size:
            self._go_on()
            tags = {**content.tags, SIZE: str(source.size)}
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._go_on()
        self._client.set_terminated(run_id, content.status, content.ended)

    def runs_of(self, sources: Sequence[RunSource], done: Iterable[str] = ()) -> dict[str, FoundRun]:
        """The runs that these records and sessions have, by key. A second run of one is deleted.

        Args:
            sources: few are looked up by their start, many by their whole time span.
            done: run_ids to keep where a source has several.
        """
        if not sources:
            return {}
        wanted = {source.identity: source for source in sources}
        keep = set(done)
        starts = [source.started for source in sources]
        few = len(sources) <= ONE_BY_ONE
        spans = sorted({(start, start) for start in starts}) if few else [(min(starts), max(starts))]
        by_key: dict[str, list[FoundRun]] = {}
        for first, last in spans:
            for run in self._runs(f"attributes.start_time >= {first} and attributes.start_time <= {last}"):
                if source := wanted.get(identity_in(run.data.tags)):
                    # Closing it is the last thing that mirroring does. A session's run is closed again as it grows.
                    whole = run.info.status != "RUNNING" and _size(run) >= source.size
                    by_key.setdefault(source.key, []).append(FoundRun(str(run.info.run_id), whole))
        for runs in by_key.values():
            runs.sort(key=lambda it: (it.run_id not in keep, not it.whole, it.run_id))
            for double in runs[1:]:
                self._go_on()
                self._client.delete_run(double.run_id)
        return {key: runs[0] for key, runs in by_key.items()}

    def settle_doubts(self, done: Iterable[str]) -> None:
        """Look again at what is in doubt, and delete their second runs."""
        self.runs_of(list(self.doubtful.values()), done)

    def close_as_killed(self, key: str) -> str:
        """Close the run that was begun for what no longer exists; its id, or "" if there is none."""
        tag, value = tag_of(key)
        for run in self._runs(f"tags.`{tag}` = '{value}'") if _is_plain(value) else ():
            if run.info.status == "RUNNING":
                self._client.set_tag(run.info.run_id, STATUS, "killed")
                self._client.set_terminated(run.info.run_id, "KILLED")
            return str(run.info.run_id)
        return ""

    def write_summary(self, counts: Mapping[str, int], files: Sequence[Path]) -> None:
        """Lay the report and its tables on the experiment's one summary run; the last who writes it wins.

        Args:
            counts: cells by status, which become tags.
            files: artifacts.
        """
        run_id = self._summary_run() or self._create_summary_run()
        tags = {f"{CELLS}{status}": str(number) for status, number in counts.items()}
        there = self._client.get_run(run_id).data.tags
        for gone in [tag for tag in there if tag.startswith(CELLS) and tag not in tags]:
            self._client.delete_tag(run_id, gone)
        for tag, number in tags.items():
            self._client.set_tag(run_id, tag, number)
        for file in files:
            self._go_on()
            self._client.log_artifact(run_id, str(file))

    def mirroring_runs(self, tag: str) -> list[tuple[str, str]]:
        """The runs that mirror records (`RECORD_ID`) or sessions of speed (`SESSION`): run_id and what the tag says."""
        runs = self._runs(f"tags.`{KIND}` = '{SPEED if tag == SESSION else 'cell'}'")
        return [(str(run.info.run_id), run.data.tags.get(tag, "")) for run in runs]

    def successors(self, experiment: str) -> list[str]:
        """Names of other experiments that hold what was to go into one of this name."""
        there = self._client.search_experiments()
        return sorted(item.name for item in there if item.tags.get(GRID) == experiment != item.name)

    def fetch_if_there(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Copy an artifact into a folder, and give its path; None if the run has none of that name."""
        return _fetch(self._client, run_id, name, folder)

    def fetch_grid(self, folder: Path) -> Path | None:
        """The grid file on the summary run, if there is one."""
        run_id = self._summary_run()
        if run_id is None:
            return None
        names = ("grid.resolved.yaml", "grid.yaml")  # in the folder, the second may have been the user's own
        return next((path for name in names if (path := self.fetch_if_there(run_id, name, folder))), None)

    def _log_data(self, run_id: str, source: RunSource) -> None:
        folder = self._folders.pop(run_id, None)
        if folder is not None:  # the client would read the whole run to learn where that is: a quarter of all costs
            folder.mkdir(parents=True, exist_ok=True)
            (folder / source.file).write_bytes(source.data())
            return
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / source.file
            path.write_bytes(source.data())
            self._client.log_artifact(run_id, str(path))

    def _go_on(self) -> None:
        if self.given_up.is_set():
            raise GivenUp

    def _runs(self, condition: str, experiment: Experiment | None = None) -> Iterator[Run]:
        token, there = None, experiment or self._experiment
        while True:
            self._go_on()
            page = self._client.search_runs([there.experiment_id], condition, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _find(self, name: str) -> Experiment:
        """The experiment of that name; where it was deleted, the one that took its place."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "active":
            return experiment
        there = list(self._client.search_experiments())
        successors = [other for other in there if other.tags.get(GRID) == name]
        if len(successors) != 1:
            raise LookupError(*(other.name for other in successors or there))
        return successors[0]

    def _find_or_create(self, name: str) -> Experiment:
        from mlflow.exceptions import MlflowException

        if (own := self._own_experiment(name)) is not None:
            return own
        for number in count(1):
            candidate = name if number == 1 else f"{name}-{number}"
            experiment = self._client.get_experiment_by_name(candidate)
            if experiment is None:
                try:
                    return self._create_experiment(candidate, name)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    experiment = self._client.get_experiment_by_name(candidate)  # another process was faster
            if experiment is not None and experiment.lifecycle_stage == "active" and self._may_use(experiment, name):
                return experiment
        raise AssertionError("unreachable")

    def _refuse_unreachable_artifacts(self, experiment: Experiment) -> None:
        """MLflow's client writes to a local path on its own disk, whoever named that path, and says nothing.

        Raises:
            UserError: if the server's own disk is meant, or a place outside the sqlite database's folder.
        """
        location = urlsplit(experiment.artifact_location)
        if location.scheme not in ("", "file"):
            return
        path = Path(unquote(location.path) if location.scheme else experiment.artifact_location)
        said = f"the experiment {experiment.name!r} keeps its artifacts in {path}"
        if self._is_remote:
            raise UserError(
                f"{said}, a folder of the server's own disk, which cannot be reached from here: start the server with"
                " --serve-artifacts and without --default-artifact-root, then delete that experiment or name another"
                " with --experiment"
            )
        folder = None if self._database is None else self._database.parent.resolve()
        if folder is not None and not path.resolve().is_relative_to(folder):
            raise UserError(
                f"{said}, outside the database's folder: put the database where it was, or name another experiment"
                " with --experiment"
            )

    def _why_taken(self, name: str) -> str:
        experiment = None if self.name == name else self._client.get_experiment_by_name(name)
        if experiment is None:  # it is the one, or it was given another name there
            return ""
        return "is another folder's" if experiment.lifecycle_stage == "active" else "was deleted there"

    def _own_experiment(self, name: str) -> Experiment | None:
        """By its tag, so that it is found under the name that somebody gave it in MLflow, too."""
        if self._owner is None:
            return None
        there = self._client.search_experiments(filter_string=f"tags.`{GRID_ID}` = '{self._owner.grid_id}'")
        return min(
            (other for other in there if other.tags.get(GRID) == name),
            key=lambda other: (other.name != name, int(other.creation_time or 0)),
            default=None,
        )

    def _may_use(self, experiment: Experiment, name: str) -> bool:
        """Whether records may be put there; one of an earlier release, which has no tag, becomes the owner's."""
        grid_id = experiment.tags.get(GRID_ID)
        if self._owner is None:
            return bool(experiment.name == name) or (grid_id is None and experiment.tags.get(GRID) == name)
        if grid_id is not None:
            return bool(grid_id == self._owner.grid_id) and experiment.tags.get(GRID) == name
        record_ids = self._record_ids(experiment)
        if record_ids <= self._owner.record_ids and (record_ids or experiment.name == name):
            self._client.set_experiment_tag(experiment.experiment_id, GRID, name)
            self._client.set_experiment_tag(experiment.experiment_id, GRID_ID, self._owner.grid_id)
            return True
        # Machines that shared it under the earlier release go on doing so: nothing is mirrored a second time.
        return _key(experiment) in self._owner.experiment_keys

    def _record_ids(self, experiment: Experiment) -> set[str]:
        """Of all its runs but the summary, sessions of speed among them; "" stands for runs that are none of ours."""
        return {
            identity_in(run.data.tags) for run in self._runs("", experiment) if run.data.tags.get(KIND) != "summary"
        }

    def _create_experiment(self, name: str, grid: str) -> Experiment:
        location = None if self._artifacts is None else (self._artifacts / _folder_name(name)).as_uri()
        tags = {
            "mlflow.note.content": (
                f"The grid `{grid}`, by mnistbench: one run per record, one per session of speed, and a summary run."
            ),
            "mlflow.experimentKind": "custom_model_development",  # some UIs choose their pages by it
            GRID: grid,
        }
        if self._owner is not None:
            tags[GRID_ID] = self._owner.grid_id
        experiment_id = self._client.create_experiment(name, artifact_location=location, tags=tags)
        self._experiment = self._client.get_experiment(experiment_id)
        try:
            self._refuse_unreachable_artifacts(self._experiment)
        except UserError:  # leave the name free: an experiment keeps its place, also on a server that was mended
            self._client.rename_experiment(experiment_id, f"{name} (no artifacts, {experiment_id})")
            self._client.delete_experiment(experiment_id)
            raise
        # Only one process can make an experiment: if it makes the summary run too, there is only one of that as well.
        self._create_summary_run()
        return self._experiment

    def _summary_run(self) -> str | None:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment(self._experiment.experiment_id)
        run_id = experiment.tags.get(SUMMARY_RUN)
        if run_id is None:
            return None
        try:
            return str(run_id) if self._client.get_run(run_id).info.lifecycle_stage == "active" else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # it was deleted for good, by `mlflow gc`

    def _create_summary_run(self) -> str:
        text = "The report of all cells, as artifacts: `report.html`, `summary.md`, and its tables as CSV files."
        tags = {KIND: "summary", WHAT: "summary", "mlflow.note.content": text, "mlflow.source.name": "mnistbench"}
        run = next(self._runs(f"tags.`{KIND}` = 'summary'"), None)  # of a process that was killed here
        if run is None:
            with _without_retries():
                run = self._client.create_run(self._experiment.experiment_id, tags=tags, run_name="summary")
        self._client.set_terminated(run.info.run_id, "FINISHED")
        self._client.set_experiment_tag(self._experiment.experiment_id, SUMMARY_RUN, run.info.run_id)
        return str(run.info.run_id)


def download_model(uri: str, run_id: str, folder: Path) -> Path | None:
    """Copy a run's kept models into a folder; None if it has none."""
    from mlflow import MlflowClient

    return _fetch(MlflowClient(tracking_uri=uri), run_id, MODEL_FOLDER, folder)


def _fetch(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    if name not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    return Path(client.download_artifacts(run_id, name, str(folder)))


def prepare(uri: str, *, create: bool = True) -> None:
    """Load mlflow, and make a sqlite database that is missing, which takes seconds on this machine's own disk.

    Waits are bounded, telemetry is off and MLflow's loggers are quiet; what the user's environment says goes first.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (it sets its loggers up on import)

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = sqlite_path(uri)
    if path is not None and create:
        make_database(path)


def make_database(path: Path) -> None:
    """Make MLflow's sqlite database if it is missing: whole or not at all, and by one process only.

    MLflow's own first use migrates through some 70 steps in place; of four processes that do so at once three fail,
    and one that is killed in between leaves a database that cannot be opened.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        if not path.exists():
            for left_by_the_dead in path.parent.glob(f".{path.name}.*.part*"):
                left_by_the_dead.unlink()
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            # MLflow's client would put the folder's name into its SQL as it is, quotes and colons too.
            root = (path.parent / "mlruns").absolute().as_uri()
            SqlAlchemyStore(database_uri(part), root)  # type: ignore[no-untyped-call]
            part.replace(path)
        lock.unlink(missing_ok=True)  # from now on nobody needs it: the database is there


@contextmanager
def _without_retries() -> Iterator[None]:
    """Send once: a create that is sent again after its answer was lost makes a second run."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ[name]
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = before


def _folder_name(experiment: str) -> str:
    """For an experiment's artifacts: its name as an address has it, or a hash where no folder's name is so long."""
    quoted = quote(experiment, safe=" ")
    return quoted if len(quoted) <= LONGEST_FOLDER_NAME else hashlib.sha256(experiment.encode()).hexdigest()[:32]


def _key(experiment: Experiment) -> str:
    return f"{experiment.experiment_id}-{experiment.creation_time}"


def _size(run: Run) -> int:
    """How much of a session's file is there."""
    text = run.data.tags.get(SIZE, "")
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def _is_plain(record_id: str) -> bool:
    return record_id.replace("-", "").isalnum()
