"""Grid axis: datasets. Finds, verifies, downloads or makes them, and says where the prepared arrays lie.

The keyword options of each function in `DATASETS` are what a grid may say about that dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mnistbench.axes.options import Fraction, PositiveInt, Seed
from mnistbench.axes.plugins import Plugins, flag_for
from mnistbench.cell import Component
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data import digits as digits_
from mnistbench.data import images
from mnistbench.data.arrays import load, notes_on_labels
from mnistbench.data.cache import entry_directory, read_entry
from mnistbench.data.csv import CsvSource
from mnistbench.data.download import Progress
from mnistbench.data.images import DataNotFound
from mnistbench.data.plugin import PluginSource
from mnistbench.data.sources import MadeSource, OfficialSource, Search, Source
from mnistbench.data.tables import SUM3_CLASSES, sum3_arrays
from mnistbench.errors import UserError
from mnistbench.errors.problems import nearest
from mnistbench.files.cache_folder import cache_folder


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A dataset that is ready to be mapped into memory.

    Attributes:
        component: the dataset really used; `sha256` is set for a CSV's content and for a plug-in's arrays.
        directory: for `load`; lies in the user's cache.
        sha256: of the arrays.
        fallback: the grid's fallback stands in for the dataset that was asked for; `reason` says why.
        found_in: where the data came from, in words.
        warnings: what the user should see although it works.
    """

    component: Component
    directory: Path
    spec: DataSpec
    sha256: str
    fallback: bool = False
    found_in: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


def mnist(*, normalize: bool = False) -> Source:
    """Handwritten digits: 60,000 + 10,000 grey images of 28×28 (LeCun, Cortes, Burges 1998)."""
    return OfficialSource(images.MNIST)


def fashion_mnist(*, normalize: bool = False) -> Source:
    """Pieces of clothing, in MNIST's shape (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)."""
    return OfficialSource(images.FASHION_MNIST)


def kmnist(*, normalize: bool = False) -> Source:
    """Cursive Japanese characters, in MNIST's shape (Clanuwat et al. 2018, arXiv:1812.01718)."""
    return OfficialSource(images.KMNIST)


def digits(*, normalize: bool = False) -> Source:
    """Handwritten digits in MNIST's shape that need no download: scikit-learn's, under small seeded affine warps."""
    names = [str(digit) for digit in range(digits_.CLASSES)]
    shape = (1, digits_.SIDE, digits_.SIDE)
    spec = DataSpec("digits", shape, digits_.CLASSES, digits_.TRAIN_EXAMPLES, digits_.TEST_EXAMPLES, names)
    return MadeSource(spec, 1, {}, digits_.make_digits, "made from the digits inside scikit-learn")


def sum3(*, rows: PositiveInt = 10_000, test_fraction: Fraction = 0.3, data_seed: Seed = 0) -> Source:
    """Synthetic rows of three uniform features; the class tells whether their sum is below 1, from 1 to 2, or above."""
    test = round(rows * test_fraction)
    spec = DataSpec("sum3", (3,), len(SUM3_CLASSES), rows - test, test, SUM3_CLASSES)
    options = {"rows": rows, "test_fraction": float(test_fraction), "data_seed": data_seed}
    return MadeSource(spec, 1, options, lambda: sum3_arrays(rows, test_fraction, data_seed), "made from its seed")


DATASETS: dict[str, Callable[..., Source]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "digits": digits,
    "sum3": sum3,
    "csv": CsvSource,
}


def prepare(
    component: Component,
    *,
    data_dir: Path | None = None,
    fallback: Component | None = None,
    download: bool = True,
    progress: Progress | None = None,
    base: Path | None = None,
    plugins: Plugins | None = None,
) -> PreparedData:
    """Bring a dataset into the user's cache, as arrays to be mapped; takes milliseconds once it is there.

    Args:
        component: the dataset asked for.
        data_dir: looked in before `$MNISTBENCH_DATA`, `./data` and the user's cache; only read.
        fallback: stands in if the dataset is nowhere and cannot be downloaded; not if it is there but unfit.
        download: whether the mirrors may be asked.
        progress: called with what is being done, bytes done, bytes in all or None.
        base: the grid file's folder, where the relative path of a CSV is looked for first.
        plugins: for a dataset named `module:Name`.

    Raises:
        DataNotFound: with all places that were looked in and the ways out.
        UserError: if the data is unfit for use, or the cache cannot be written.
    """
    search = Search(data_dir=data_dir, base=base, download=download, progress=progress)
    try:
        return _prepare(component, search, plugins)
    except DataNotFound as error:
        if fallback is None:
            raise
        prepared = _prepare(fallback, search, plugins)
        warnings = tuple(dict.fromkeys([*error.warnings, *prepared.warnings]))
        return replace(prepared, fallback=True, reason=str(error), warnings=warnings)


def spec_of(component: Component, *, plugins: Plugins | None = None) -> DataSpec:
    """Shape and classes of a dataset; reads data only where they are not known before (CSV, plug-ins).

    Mean and std are those of the training images only in what `prepare` gives.

    Raises:
        UserError: as `prepare`.
    """
    return _source(component, plugins).spec or prepare(component, plugins=plugins).spec


def sizes(component: Component) -> tuple[int, int] | None:
    """Training and test examples, without reading; None for a CSV or a plug-in, which only `prepare` knows.

    Raises:
        UserError: if there is no such dataset.
    """
    spec = None if ":" in component.name else _source(component, None).spec
    return (spec.train_examples, spec.test_examples) if spec else None


def cached_sha256(component: Component) -> str | None:
    """Checksum of a dataset's arrays if they are in the user's cache; None too for a CSV or a plug-in.

    Raises:
        UserError: if there is no such dataset.
    """
    source = None if ":" in component.name else _source(component, None)
    if not isinstance(source, OfficialSource | MadeSource):
        return None
    entry = read_entry(entry_directory(source.entry_name))
    return entry.sha256 if entry else None


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """What is known of a dataset on this machine.

    Attributes:
        found: it can be used without a network.
        where: places, with what is damaged or incomplete there.
    """

    name: str
    found: bool
    where: str


def survey(data_dir: Path | None = None) -> list[Surveyed]:
    """Look for every dataset that has no path of its own, verifying the checksums of files; changes nothing."""
    rows = []
    for name, declare in DATASETS.items():
        if name == "csv":
            continue
        source = declare()
        if isinstance(source, OfficialSource):
            rows.append(_survey_official(source, Search(data_dir=data_dir)))
        else:
            rows.append(Surveyed(name=name, found=True, where="made here, no download needed"))
    return rows


def _survey_official(source: OfficialSource, search: Search) -> Surveyed:
    files, said, is_whole = source.files, [], False
    for place in search.places():
        seen = files.find(place)
        if seen.state == "incomplete":
            said.append(f"{place.where}: incomplete, without {', '.join(seen.missing)}")
        elif seen.state == "whole":
            try:
                files.verify(place)
                is_whole = True
                said.append(place.where)
            except images.Damaged as error:
                said.append(f"{place.where}: damaged: {error}")
    if read_entry(entry_directory(source.entry_name)):
        is_whole = True
        said.append(f"prepared in the cache ({cache_folder()})")
    return Surveyed(name=files.name, found=is_whole, where="; ".join(said) or "not here; `data fetch` downloads it")


def _prepare(component: Component, search: Search, plugins: Plugins | None) -> PreparedData:
    if component.name == "csv":
        search = replace(search, expected_sha256=component.sha256)
    opened = _source(component, plugins).open(search)
    options = dict(component.options)
    if component.name == "csv":
        options["path"] = _without_folders(Path(str(options["path"])), search.base)
    return PreparedData(
        component=replace(component, options=options, sha256=opened.sha256),
        directory=opened.entry.directory,
        spec=opened.entry.spec,
        sha256=opened.entry.sha256,
        found_in=opened.found_in,
        warnings=(*opened.warnings, *notes_on_labels(load(opened.entry.directory))),
    )


def _source(component: Component, plugins: Plugins | None) -> Source:
    if ":" in component.name:
        if plugins is None:
            raise UserError(f"dataset {component.name} is a plug-in: add {flag_for(component.name.partition(':')[0])}")
        function = plugins.find(component.name)
        if not callable(function):
            raise UserError(f"dataset {component.name}: must be a function that returns arrays")
        return PluginSource(component.name, function, component.options)
    if component.name not in DATASETS:
        raise UserError(f"unknown dataset `{component.name}`{nearest(component.name, list(DATASETS))}")
    if component.name == "csv" and "path" not in component.options:
        raise UserError("dataset csv: only a grid can say which table: `dataset: {name: csv, path: table.csv}`")
    try:
        return DATASETS[component.name](**component.options)
    except TypeError as error:
        raise UserError(f"dataset {component.name}: {error}") from None


def _without_folders(path: Path, base: Path | None) -> str:
    """The path as a record may show it: an absolute one names the user's folders, so its relative part has to do."""
    if not path.expanduser().is_absolute():
        return str(path)
    for folder in (base, Path.cwd()):
        if folder is not None and path.is_relative_to(folder.absolute()):
            return str(path.relative_to(folder.absolute()))
    return path.name
