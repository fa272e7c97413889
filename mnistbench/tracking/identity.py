"""Which results folder an experiment belongs to. A grid's name is not unique: an id that is minted once is.

The id lies in the folder and is a tag of the experiment. No mlflow here.
"""

from __future__ import annotations

import re
import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from mnistbench.files.whole import read_regular, write_whole
from mnistbench.results.records import CellRecord
from mnistbench.tracking.journal import named_in
from mnistbench.tracking.sources import session_identities

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder

FILE_NAME = ".grid_id"


class Owner:
    """A results folder, as a tracking server needs to know it. What it holds is read when it is asked for."""

    def __init__(self, results: ResultsFolder) -> None:
        self._results = results

    @cached_property
    def grid_id(self) -> str:
        """Tag of the experiments that are this folder's own."""
        return grid_id(self._results)

    @cached_property
    def record_ids(self) -> set[str]:
        """Of all records that are, or were, in the folder, and the sessions of speed as `identity_in` names them."""
        there = {content.record_id for _, content in self._results.scan() if isinstance(content, CellRecord)}
        others = self._results.attempt_ids() | session_identities(self._results)
        return there | others | named_in(self._results.mirrored_file)[0]

    @cached_property
    def experiment_keys(self) -> set[str]:
        """The experiments that its journal names (`Server.key`)."""
        return named_in(self._results.mirrored_file)[1]


def grid_id(results: ResultsFolder) -> str:
    """The id in the folder; it is minted where there is none.

    A copy of the folder has the same id. `merge` makes a folder that has none: other folders' records are in it, which
    are not to get into the experiment of one of them.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        kept = read_regular(results.path / FILE_NAME).decode().strip()
    except (OSError, UnicodeDecodeError):
        kept = ""
    if not is_grid_id(kept):
        kept = uuid.uuid4().hex
        write_grid_id(results, kept)
    return kept


def write_grid_id(results: ResultsFolder, identity: str) -> None:
    """Keep an id in the folder: that of the experiment which the folder was read back from.

    Raises:
        UserError: if the folder cannot be written.
    """
    write_whole(results.path / FILE_NAME, identity + "\n")


def is_grid_id(text: str) -> bool:
    """Whether it is an id as minted here; one from a server becomes part of a search, and is not trusted to be one."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None
