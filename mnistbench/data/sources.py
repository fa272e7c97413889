"""How official files and made datasets get into the cache; a CSV file does so in `csv.py`, a plug-in in `plugin.py`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mnistbench.cell import canonical_json
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays
from mnistbench.data.cache import CacheEntry, entry_directory, find_or_make, read_entry, writing_to
from mnistbench.data.download import NotFetched, Progress
from mnistbench.data.images import (
    CLASSES,
    SIDE,
    TEST_EXAMPLES,
    TRAIN_EXAMPLES,
    Damaged,
    DataFolder,
    DataNotFound,
    ImageFiles,
    is_folder,
)
from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where to look, and what may be done to get the data.

    Attributes:
        data_dir: looked in first; the user named it, so what is damaged in it is always said.
        base: folder that a relative path of a CSV file starts from (the grid's); the working folder comes after it.
        expected_sha256: of the CSV file's content, where a record tells it.
    """

    data_dir: Path | None = None
    base: Path | None = None
    download: bool = True
    progress: Progress | None = None
    expected_sha256: str | None = None

    def places(self) -> list[DataFolder]:
        """Folders in the order in which they are looked in."""
        named = os.environ.get("MNISTBENCH_DATA")
        places = [DataFolder("--data", self.data_dir)] if self.data_dir else []
        if named:
            places.append(DataFolder("$MNISTBENCH_DATA", Path(named).expanduser()))
        return [*places, DataFolder("./data", Path("data")), DataFolder("the cache folder", cache_folder())]

    def say(self, what: str) -> None:
        """Tell the user what takes time."""
        if self.progress:
            self.progress(what, 0, None)

    def find_or_make(self, entry_name: str, make: Callable[[], Arrays]) -> CacheEntry:
        """The cache's entry, with a word if another process is at it."""
        return find_or_make(entry_name, make, lambda: self.say(f"another process prepares {entry_name}: waiting"))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A dataset in the cache.

    Attributes:
        found_in: where it came from, in words.
        sha256: of what its name cannot vouch for.
        warnings: what the user should know although it works.
    """

    entry: CacheEntry
    found_in: str
    sha256: str | None = None
    warnings: tuple[str, ...] = ()


class Source(Protocol):
    """A dataset with its options."""

    @property
    def spec(self) -> DataSpec | None:
        """Description without mean and std, if it is known before the data is read."""
        ...

    def open(self, search: Search) -> Opened:
        """Bring it into the cache, unless it is there.

        Raises:
            DataNotFound: if it is nowhere; other UserErrors if it is not fit for use.
        """
        ...


@dataclass(frozen=True)
class OfficialSource:
    """Four IDX files whose checksums are known."""

    files: ImageFiles

    @property
    def spec(self) -> DataSpec | None:
        """What the official files hold."""
        names = list(self.files.class_names)
        return DataSpec(self.files.name, (1, SIDE, SIDE), CLASSES, TRAIN_EXAMPLES, TEST_EXAMPLES, names)

    @property
    def entry_name(self) -> str:
        """Names the content by its checksums."""
        return f"{self.files.name}-{short_hash([file.md5 for file in self.files.files])}"

    def open(self, search: Search) -> Opened:
        """From the cache, a folder, or a mirror."""
        warnings = []
        if search.data_dir is not None:
            if not is_folder(search.data_dir):
                raise UserError(f"--data {search.data_dir}: there is no such folder")
            place = DataFolder("--data", search.data_dir)
            state = self.files.find(place).state
            if state == "absent":
                name = self.files.name
                warnings.append(f"--data {search.data_dir}: {name} is not in it (docs/data.md says where it would be)")
            elif state == "whole":
                try:
                    self.files.verify(place)
                except Damaged as error:
                    warnings.append(f"not used, since damaged:\n{error}")
        if entry := read_entry(entry_directory(self.entry_name)):
            return Opened(entry=entry, found_in="the cache, verified earlier", warnings=tuple(warnings))
        found_in = "the cache, prepared by another process"

        def make() -> Arrays:
            nonlocal found_in
            arrays, found_in = self._read_anywhere(search, warnings)
            return arrays

        entry = search.find_or_make(self.entry_name, make)
        return Opened(entry=entry, found_in=found_in, warnings=tuple(dict.fromkeys(warnings)))

    def _read_anywhere(self, search: Search, warnings: list[str]) -> tuple[Arrays, str]:
        looked, incomplete = [], []
        for place in search.places():
            seen = self.files.find(place)
            if seen.state == "whole":
                search.say(f"reading {self.files.name}")
                try:
                    return self.files.read(place), place.where
                except Damaged as error:
                    looked.append(f"{place.where}: damaged: {error}")
                    warnings.append(f"not used, since damaged:\n{error}")
            elif seen.state == "incomplete":
                looked.append(f"{place.where}: incomplete, without {', '.join(seen.missing)}")
                incomplete.append(f"not used, since incomplete:\n{place.folder} lacks {', '.join(seen.missing)}")
            elif not is_folder(place.folder):
                looked.append(f"{place.where}: no such folder")
            else:
                looked.append(f"{place.where}: no {self.files.folder}/raw with its files")
        if not search.download:
            looked.append("download: not tried")
        else:
            try:
                with writing_to(cache_folder()):
                    host = self.files.download(cache_folder(), search.progress)
                return self.files.read(DataFolder("the cache folder", cache_folder())), f"downloaded from {host}"
            except (NotFetched, Damaged) as error:
                looked.extend(f"download: {line}" for line in str(error).splitlines())
        raise DataNotFound(self._nowhere(looked), [*warnings, *incomplete])

    def _nowhere(self, looked: list[str]) -> str:
        name, folder = self.files.name, self.files.folder
        return "\n".join(
            [
                f"{name} is not to be had. Looked in:",
                *(f"  {line}" for line in looked),
                "Ways out:",
                f"  with a network: `data fetch {name}`",
                f"  without: copy its four .gz files into ./data/{folder}/raw, or point --data or MNISTBENCH_DATA at a"
                f" folder that holds {folder}/raw",
                f"  or train on images that need no download: `dataset: digits`,"
                f" or `dataset: {{name: {name}, fallback: digits}}`",
            ]
        )


@dataclass(frozen=True)
class MadeSource:
    """A dataset that is computed.

    Attributes:
        version: goes up when the same options give other data.
        options: those that the data depends on.
    """

    spec: DataSpec
    version: int
    options: Mapping[str, Any]
    make: Callable[[], Arrays]
    origin: str

    @property
    def entry_name(self) -> str:
        """Names the content by what it is made from."""
        options = f"-{short_hash(dict(self.options))}" if self.options else ""
        return f"{self.spec.name}-v{self.version}{options}"

    def open(self, search: Search) -> Opened:
        """Make it once."""

        def make() -> Arrays:
            search.say(f"making {self.spec.name}")
            return self.make()

        entry = search.find_or_make(self.entry_name, make)
        return Opened(entry=entry, found_in=self.origin)


def short_hash(plain: Any) -> str:
    """Of plain data: the beginning of its SHA-256."""
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:16]
