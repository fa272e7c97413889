"""What a user asks of a run beside the grid: the flags that `run`, `plan` and the Python API share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnistbench.axes.plugins import Plugins
from mnistbench.errors import UserError
from mnistbench.results.folder import ResultsFolder
from mnistbench.run.executors import Executor


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a grid is run.

    Attributes:
        out: results folder; `results/<name>` if left out.
        data_dir: where data is looked for first.
        plugins: what `load_plugins` gave.
        only: conditions such as `architecture=lenet5`, see `grid.select`.
        shard: `(2, 5)` runs the second of five parts; each part has whole settings, with all their seeds.
        budget_seconds: start no new round after this time.
        executor: `process`, `inline`, `ray`, or one of your own.
        ray_address: `auto`, `host:port` or `ray://host:port`; a Ray on this machine if left out.
        timeout_seconds: longest for one cell.
        fail_fast: start no more cells after one that failed.
        force: run cells again that have a result; earlier attempts are kept.
        speed: time the settings in cycles of blocks, as the grid asks; records only if not.
        rerun_noisy: replace rounds in which noise was seen, once (rule 12).
        own_process: whether this process is the run's alone, as with the command line: signals then end the run, which
            returns with `interrupted` set, and a second one leaves the process.

    Raises:
        UserError: for plug-ins that are named, and not loaded; for a Ray's address where another executor is named.
    """

    out: Path | str | None = None
    data_dir: Path | None = None
    plugins: Plugins | None = None
    only: Sequence[str] = ()
    shard: tuple[int, int] | None = None
    budget_seconds: float | None = None
    executor: str | Executor = "process"
    ray_address: str | None = None
    timeout_seconds: float | None = None
    fail_fast: bool = False
    force: bool = False
    speed: bool = True
    rerun_noisy: bool = False
    own_process: bool = False

    def __post_init__(self) -> None:
        if self.plugins is not None and not isinstance(self.plugins, Plugins):
            raise UserError("plugins: give what `mnistbench.axes.plugins.load_plugins` makes of their names")
        if self.ray_address is not None and self.executor != "ray":
            raise UserError("--ray-address needs --executor ray")

    def results(self, grid_name: str) -> ResultsFolder:
        """The results folder of a grid."""
        return ResultsFolder(self.out if self.out is not None else Path("results") / grid_name)
