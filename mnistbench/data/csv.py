"""Read a user's CSV file as a dataset; whatever is wrong with it is said with file and line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import json
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mnistbench.axes.options import Fraction, Seed
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays, listed, notes_on_repeats
from mnistbench.data.images import is_file, is_folder
from mnistbench.data.sources import Opened, Search, short_hash
from mnistbench.data.tables import held_out_rows, stratified, table_arrays
from mnistbench.errors import UserError
from mnistbench.errors.problems import shown
from mnistbench.words.wording import plural

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
"""Of a number as Excel writes it in many countries."""
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
"""Of a whole number as Excel writes it in other countries; `1,234` may be either."""
SEPARATOR = re.compile(r"sep=(.)(\r\n|\r|\n)", re.IGNORECASE)
"""The line by which Excel is told what separates the columns."""
PACKED = {
    b"\x1f\x8b": "packed by gzip",
    b"PK\x03\x04": "a zip or Excel file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
}
"""What files that hold a table in another form begin with."""
LARGEST = float(np.finfo(np.float32).max)
MAX_PROBLEMS = 10
MAX_CLASSES = 1000
MAX_CSV_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class CsvTable:
    """How a CSV file is read. Columns are named, or numbered from 0 (negative: from the end).

    Attributes:
        index_column: numbers the rows and is left out.
        label: the last column unless named.
        features: all other columns unless named.
        task: `binary`: a label of 0 or 1, for one sigmoid output; `classes`: any labels, one output each.
        stratified: take the test rows from each class alike, and leave each class a row to train on.
        standardize: shift and scale each feature to mean 0 and deviation 1 of the training part.
        header: whether the first row names the columns.
    """

    index_column: int | str | None = None
    label: int | str | None = None
    features: list[int | str] | None = None
    test_fraction: Fraction = 0.3
    split_seed: Seed = 0
    task: Literal["binary", "classes"] = "binary"
    stratified: bool = False
    standardize: bool = False
    header: bool = True
    delimiter: str = ","


@dataclass(frozen=True, kw_only=True)
class CsvSource(CsvTable):
    """A table of your own: numeric features, and a label of 0 or 1 (`task: binary`) or of classes.

    Columns are named, or numbered from 0. The label is the last column and the features are all others, unless named.
    `stratified` takes the test rows from each class alike.
    """

    path: str
    version = 3
    spec = None  # not known before the file is read

    def open(self, search: Search) -> Opened:
        """Read the file, and parse it unless the same content was parsed before."""
        path = self._find(search)
        content = read_csv_bytes(path)
        sha256 = hashlib.sha256(content).hexdigest()
        if search.expected_sha256 and sha256 != search.expected_sha256:
            raise UserError(
                f"{path}: has changed since: its SHA-256 is {sha256[:16]}…, not {search.expected_sha256[:16]}…"
            )
        options = {**vars(self), "version": self.version, "sha256": sha256}  # `path`, too, since notes name the file
        entry = search.find_or_make(f"csv-{short_hash(options)}", lambda: read_table(content, self, self.path))
        return Opened(entry=entry, found_in=str(path), sha256=sha256, warnings=entry.notes)

    def _find(self, search: Search) -> Path:
        path = Path(self.path).expanduser()
        folders = [search.base] if search.base else []
        folders += [Path(), *(place.folder for place in search.places()[:-1])]
        for folder in folders:
            if is_file(folder / path):
                return folder / path
        if is_folder(path):
            raise UserError(f"csv: {path} is a folder, not a CSV file")
        if path.is_absolute():
            raise UserError(f"csv: there is no file {path}")
        looked = ", ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
        raise UserError(f"csv: there is no file {path} (looked in {looked}); name its folder with --data")


def read_csv_bytes(path: Path) -> bytes:
    """The content of a CSV file.

    Raises:
        UserError: if it is no regular file, too large, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise UserError(f"{path}: not a regular file")
        if path.stat().st_size > MAX_CSV_BYTES:
            raise UserError(f"{path}: larger than {MAX_CSV_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


@dataclass
class CsvProblems:
    """What is wrong with a file, gathered so that all of it is said at once."""

    source: str
    lines: list[str] = field(default_factory=list)

    def add(self, message: str, line: int | None = None) -> None:
        """Note a problem, with its line where it has one."""
        text = f"{self.source}:{line}: {message}" if line else f"{self.source}: {message}"
        self.lines.append(shown(text, longest=1000))

    def refuse_ragged(self, rows: Sequence[Sequence[str]], lines: Sequence[int], width: int) -> None:
        """Raise UserError if there are problems, or rows of another width."""
        for row, line in zip(rows, lines, strict=True):
            if len(row) != width:
                self.add(f"{len(row)} values, expected {width}", line)
        self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise UserError with the first few problems and the number of the others."""
        if self.lines:
            more = len(self.lines) - MAX_PROBLEMS
            rest = [f"{self.source}: and {more:,} more like these"] if more > 0 else []
            raise UserError("\n".join(self.lines[:MAX_PROBLEMS] + rest))


def read_table(content: bytes, table: CsvTable, source: str) -> Arrays:
    """Read a CSV file's content.

    Args:
        source: the file's name, for messages.

    Raises:
        UserError: with file and line of everything that is wrong: not a text, empty, ragged, a missing or non-numeric
            value, a constant or unknown column, labels that do not fit the task.
    """
    names, rows, lines = _read_rows(content, table, source)
    label, features, index = _choose_columns(names, table, source)
    problems = CsvProblems(source)
    values = _numbers(rows, lines, [(column, names[column]) for column in features], problems)
    texts, spellings = _one_spelling([row[label] for row in rows])
    labels, class_names = _labels(texts, lines, table.task, names[label], problems)
    problems.raise_if_any()
    constant = (values == values[0]).all(axis=0)
    if constant.all():
        problems.add("every feature has the same value in all rows: there is nothing to learn")
    problems.raise_if_any()
    notes = _notes_on_features(values, labels, [names[column] for column in features], constant)
    notes += [
        f"column `{names[column]}` counts the rows and is used as a feature; if it is only an index, "
        f"say `index_column: {_in_yaml(names[column]) if table.header else column}`"
        for place, column in enumerate(features)
        if index is None and len(values) > 2 and _numbers_rows(values[:, place])
    ]
    notes += [f"label `{names[label]}`: {note}" for note in spellings]
    if not table.header and _are_places([cell.strip() for cell in rows[0]]):
        notes.append("the first row numbers the columns, and is trained on: say `header: true` if it is none")
    order = np.random.RandomState(table.split_seed).permutation(len(rows))
    held_out = held_out_rows(len(rows), table.test_fraction, source)
    train, test = order[held_out:], order[:held_out]
    if table.stratified:
        train, test = stratified(order, labels, table.test_fraction, source)
    means, deviations = np.zeros(0), np.zeros(0)
    if table.standardize:
        means, deviations = values[train].mean(axis=0), values[train].std(axis=0)
        # Rounding gives 0.1, 0.1, 0.1 a deviation of 1e-17.
        unchanging = (values[train] == values[train[0]]).all(axis=0)
        means[unchanging], deviations[unchanging] = values[train[0], unchanging], 1
        values = (values - means) / deviations
    stored = values.astype(np.float32)
    for place, column in enumerate(features):
        if not constant[place] and (stored[:, place] == stored[0, place]).all():
            way = "rescale it" if table.standardize else "say `standardize: true`"
            problems.add(
                f"column `{names[column]}` has the same value in all rows once it is float32 (7 digits), as networks"
                f" take it; {way}, or leave it out of `features`"
            )
    problems.raise_if_any()
    arrays = table_arrays(
        "csv",
        stored,
        labels,
        class_names,
        train=train,
        test=test,
        classes=1 if table.task == "binary" else None,
    )
    spec = replace(
        arrays.spec,
        columns=[names[column] for column in features],
        column_means=means.tolist(),
        column_deviations=deviations.tolist(),
    )
    notes += notes_on_repeats(arrays)
    return replace(arrays, spec=spec, notes=tuple(f"{source}: {note}" for note in notes))


def _notes_on_features(
    values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], names: list[str], constant: npt.NDArray[np.bool_]
) -> list[str]:
    """What looks unintended: features that tell nothing, and those that tell the label."""
    notes = []
    if constant.any():
        said = listed([names[place] for place in np.flatnonzero(constant)])
        notes.append(f"{plural(int(constant.sum()), 'column')} with the same value in all rows: {said}")
    classes = np.unique(labels)
    if len(values) < 3 * len(classes):
        return notes  # so few rows are alike by chance
    total = labels.astype(np.float64)
    for place in reversed(range(values.shape[1])):
        total += values[:, place]
        if not np.isin(values[:, place], (0, 1)).all() or total.max() > 1:
            break
        if (total == 1).all() and place < values.shape[1] - 1:
            said = listed(names[place:])
            notes.append(f"{said} and the label add up to 1 in each row: write them as one column, `task: classes`")
            break
    alike = ~constant
    for label in classes:
        members = values[labels == label]
        alike &= (members == members[0]).all(axis=0)
    if alike.any():
        said = listed([names[place] for place in np.flatnonzero(alike)])
        notes.append(f"in each class all values are the same of {said}: leave out what only repeats the label")
    return notes


def _numbers_rows(column: npt.NDArray[np.float64]) -> bool:
    """Whether the values are whole numbers that follow each other, in any order: rows are often shuffled."""
    return bool(np.ptp(column) == len(column) - 1 and (np.diff(np.sort(column)) == 1).all())


def _in_yaml(name: str) -> str:
    """A column's name as a grid file has to say it."""
    return name if name.isidentifier() else json.dumps(name, ensure_ascii=False)


def read_rows(
    content: bytes, spec: DataSpec, source: str, *, header: bool = True, delimiter: str = ","
) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Read rows for a model of a table: columns by their names in any order, else as they stand.

    Args:
        content: of a CSV file; a column that the model does not take, such as the label, may be in it.
        spec: of the data that the model was trained on.
        source: the file's name, for messages.
        header: whether the file that it was trained on named its columns.

    Returns:
        Numbers [rows, features], and the line on which each row ends.

    Raises:
        UserError: with file and line of everything that is wrong.
    """
    rows, lines = _parse(_decode(content, source), delimiter, source)
    problems = CsvProblems(source)
    names, width, columns = [name.strip() for name in rows[0]], spec.input_shape[0], spec.columns
    named = header and bool(columns)
    places = list(range(len(names)))
    if len(names) != width and not named and columns and len(names) > max(map(int, columns)):
        places = [int(name) for name in columns]
    if named:
        has_header = set(columns) <= set(names) or any(_number(name) is None for name in names)
    else:  # a row with a label in words, or with a missing value, is a row
        has_header = all(_number(names[place]) is None and names[place].lower() not in MISSING for place in places)
    if has_header:
        rows, lines = rows[1:], lines[1:]
    hint = f"; columns must be separated by {delimiter!r}, as in training" if len(names) == 1 < width else ""
    if named and has_header:
        if missing := [name for name in columns if name not in names]:
            expected = f"the model was trained on {', '.join(columns)}{hint}"
            problems.add(f"there is no column {', '.join(missing)}; {expected}")
        twice = [name for name in columns if names.count(name) > 1]
        for name in twice:
            problems.add(f"{names.count(name)} columns are named `{name}`")
        problems.raise_if_any()
        places = [names.index(name) for name in columns]
    if len(places) != width:
        problems.add(f"{len(names)} columns; the model was trained on {width}{hint}", lines[0] if lines else None)
    if not rows:
        problems.add("has no rows")
    problems.raise_if_any()
    problems.refuse_ragged(rows, lines, len(names))
    values = _numbers(rows, lines, [(place, names[place] if has_header else str(place)) for place in places], problems)
    problems.raise_if_any()
    return values, lines


def _read_rows(content: bytes, table: CsvTable, source: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Names of the columns, the rows as text, and the line on which each row ends."""
    rows, lines = _parse(_decode(content, source), table.delimiter, source)
    problems = CsvProblems(source)
    names = [name.strip() for name in rows[0]] if table.header else [str(place) for place in range(len(rows[0]))]
    if len(names) < 2:
        other = next((character for character in ";\t| " if character in rows[0][0]), None)
        hint = f"; are its columns separated by {other!r}? say `delimiter`" if other else ""
        problems.add(f"has one column, needs a feature and a label at least{hint}", lines[0])
        problems.raise_if_any()  # each row would be said to have too many values, where they hold decimal commas
    if table.header and len(rows) > 1 and all(len(row) == len(names) + 1 for row in rows[1:]):
        problems.add(
            f"the first row names {len(names)} columns, and each other has {len(names) + 1} values: name all columns",
            lines[0],
        )
        problems.raise_if_any()
    if table.header:
        _check_header(names, lines[0], problems)
        rows, lines = rows[1:], lines[1:]
    if not rows:
        problems.add("has no rows")
    problems.refuse_ragged(rows, lines, len(names))
    return names, rows, lines


def _decode(content: bytes, source: str) -> str:
    if not content.strip():
        raise UserError(f"{source}: is empty")
    if packed := next((kind for start, kind in PACKED.items() if content.startswith(start)), None):
        raise UserError(f"{source}: is {packed}, not a CSV text; unpack it, or save its table as CSV")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
        content = content.decode("utf-16", "replace").encode()
    if b"\0" in content:
        raise UserError(f"{source}: is binary, not a CSV text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}:{line}: is not UTF-8 text; save the table as CSV in UTF-8") from None


def _parse(text: str, delimiter: str, source: str) -> tuple[list[list[str]], list[int]]:
    """Rows that are not empty, one at least, and the line on which each ends; without empty columns at the end."""
    if said := SEPARATOR.match(text):
        delimiter, text = said[1], text[said.start(2) :]
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    except (TypeError, ValueError):
        raise UserError(f"{source}: `delimiter` is one character, not {delimiter!r}") from None
    rows, lines = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{source}:{reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{source}: has only empty rows")
    width = max(place for row in rows for place, cell in enumerate(row, 1) if cell.strip())
    return [row[:width] for row in rows], lines


def _check_header(names: list[str], line: int, problems: CsvProblems) -> None:
    if all(_number(name) is not None for name in names) and not _are_places(names):
        problems.add("the first row holds numbers, not names of columns; say `header: false`", line)
        return
    if _looks_like_a_row(names):
        said = ", ".join(f"`{name[:40]}`" for name in names[:4])
        problems.add(
            f"the first row ({said}, …) is no row of names; say `header: false`, or name columns in words", line
        )
        return
    for name, count in Counter(names).items():
        if count > 1:
            problems.add(f"{count} columns are named `{name}`", line)


def _are_places(names: list[str]) -> bool:
    """Whether they are 0, 1, 2, …: pandas names the columns of an array so."""
    return len(names) > 2 and names == [str(place) for place in range(len(names))]


def _looks_like_a_row(names: list[str]) -> bool:
    """Whether all but one word, as of a label, are numbers; whole ones that go up, as years do, may be names."""
    numbers = [name for name in names if _number(name) is not None]
    words = sum(map(bool, names)) - len(numbers)
    go_up = all(map(str.isdigit, numbers)) and all(int(one) < int(next_) for one, next_ in itertools.pairwise(numbers))
    return words < 2 and bool(numbers) and not go_up


def _choose_columns(names: list[str], table: CsvTable, source: str) -> tuple[int, list[int], int | None]:
    """Places of the label, of the features, and of the index column."""
    problems = CsvProblems(source)

    def place_of(column: int | str, option: str) -> int | None:
        named = names.index(str(column)) if str(column) in names else None
        numbered = column % len(names) if isinstance(column, int) and -len(names) <= column < len(names) else None
        if named is not None and numbered is not None and named != numbered:
            problems.add(
                f"{option}: {column} is the name of one column and the number of another, `{names[numbered]}`; write"
                f' "{column}" for the one of that name, "{names[numbered]}" for the other'
            )
        if named is not None or numbered is not None:
            return named if numbered is None else numbered
        there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        problems.add(f"{option}: there is no column {column!r}; the columns are {there}")
        return None

    label = place_of(-1 if table.label is None else table.label, "label")
    index = None if table.index_column is None else place_of(table.index_column, "index_column")
    if table.features is None:
        features = [place for place in range(len(names)) if place not in (label, index)]
    else:
        chosen = [place_of(column, "features") for column in table.features]
        features = [place for place in chosen if place is not None]
        for place, option in ((label, "label"), (index, "index_column")):
            if place is not None and place in features:
                problems.add(f"features: the {option} is among them")
        if len(set(features)) < len(features):
            problems.add("features: a column is there twice")
    if label is not None and label == index:
        problems.add("index_column: is also the label")
    if not features:
        problems.add("no column is left as a feature")
    problems.raise_if_any()
    assert label is not None  # else there was a problem
    return label, features, index


def _numbers(
    rows: Sequence[Sequence[str]], lines: Sequence[int], columns: Sequence[tuple[int, str]], problems: CsvProblems
) -> npt.NDArray[np.float64]:
    values = np.zeros((len(rows), len(columns)))
    commas: list[tuple[int, str]] = []
    for column, name in columns if len(rows) > MAX_PROBLEMS else ():  # one line for what each row would be said to be
        cells = (row[column].strip() for row in rows)
        if all(_feature(cell) is None and not DECIMAL_COMMA.fullmatch(cell) for cell in cells):
            first = next((f" (`{row[column].strip()[:40]}`)" for row in rows if row[column].strip()), "")
            problems.add(
                f"column `{name}` holds no number{first}: leave it out (`features` says which to take) or write numbers"
            )
    problems.raise_if_any()
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        for j, (column, name) in enumerate(columns):
            text = row[column].strip()
            value = _feature(text)
            if value is not None:
                values[i, j] = value
            elif text.lower() in MISSING:
                problems.add(f"column `{name}`: a value is missing", line)
            elif DECIMAL_COMMA.fullmatch(text):
                commas.append((line, text))
            else:
                problems.add(f"column `{name}`: `{text[:40]}` is no number that can be trained on", line)
    if commas:
        line, text = commas[0]
        numbers = f"{plural(len(commas), 'number')} with a decimal comma, `{text[:40]}` the first"
        way = f"write them with a point (`{text.replace(',', '.')[:40]}`)"
        if all(THOUSANDS.fullmatch(text) for _, text in commas):
            numbers = numbers.replace("a decimal comma", "a comma")
            way += f", or without the comma (`{text.replace(',', '')[:40]}`) if it parts off thousands"
        problems.add(f"{numbers}; {way}", line)
    return values


def _feature(text: str) -> float | None:
    """The number, as `_number` reads it; `True` and `False`, as pandas writes them, are 1 and 0."""
    value = _number(text)
    return {"true": 1.0, "false": 0.0}.get(text.casefold()) if value is None else value


def _number(text: str) -> float | None:
    """The number, if it is a finite one that float32 holds, written as a CSV would (`1_000` is Python's alone)."""
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def _labels(
    texts: Sequence[str], lines: Sequence[int], task: str, name: str, problems: CsvProblems
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Labels from 0, and the names of the classes in their order."""
    missing = MISSING - {"-"} if "+" in texts else MISSING
    for text, line in zip(texts, lines, strict=True):
        if text.lower() in missing:
            word = f" (`{text}` counts as missing: write it otherwise if it is a class)" if text else ""
            problems.add(f"label `{name}`: a value is missing{word}", line)
        elif task == "binary" and _number(text) not in (0, 1):
            problems.add(
                f"label `{name}`: `{text[:40]}` is neither 0 nor 1; for other labels say `task: classes`", line
            )
    if task == "binary":
        values = [_number(text) for text in texts]
        if set(values) in ({0.0}, {1.0}):
            problems.add(f"label `{name}` is {texts[0]} in all rows: there is nothing to learn")
        return np.array([int(value == 1) for value in values], dtype=np.int64), ["0", "1"]
    distinct = sorted(set(texts), key=_class_order)
    if len(distinct) == 1:
        problems.add(f"label `{name}` is `{distinct[0][:40]}` in all rows: there is nothing to learn")
    if len(distinct) > MAX_CLASSES or (len(distinct) > 20 and len(distinct) > len(texts) / 2):
        problems.add(f"label `{name}` has {len(distinct):,} different values: is it a measurement rather than a class?")
    place = {text: number for number, text in enumerate(distinct)}
    return np.array([place[text] for text in texts], dtype=np.int64), distinct


def _one_spelling(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Labels with one spelling for each class: `2`, `2.0`, ` +2` and `"2"` are one, `True` and `true` are one.

    Words that differ in their letters' case alone stay apart (`a` and `A` are two letters), and are pointed out.

    Returns:
        The labels, and notes that say what was counted as one and what was not.
    """
    keys = {cell: _class_key(_unquoted(cell)) for cell in set(cells)}
    spellings: dict[Hashable, set[str]] = {}
    for cell, key in keys.items():
        spellings.setdefault(key, set()).add(cell.strip())
    chosen = {key: min(map(_unquoted, each), key=lambda text: (len(text), text)) for key, each in spellings.items()}
    notes = []
    if several := [
        " = ".join(f"`{name[:40]}`" for name in sorted(each)) for each in spellings.values() if len(each) > 1
    ]:
        more = f" and {len(several) - 5} more" if len(several) > 5 else ""
        notes.append(f"different spellings are counted as one class: {'; '.join(sorted(several)[:5])}{more}")
    by_case: dict[str, list[str]] = {}
    for name in sorted(chosen.values()):
        by_case.setdefault(name.casefold(), []).append(name)
    if alike := [each for each in by_case.values() if len(each) > 1]:
        spelled = " and ".join(f"`{name[:40]}`" for name in alike[0])
        notes.append(f"{spelled} differ in upper and lower case alone, and are counted as {len(alike[0])} classes")
    return [chosen[keys[cell]] for cell in cells], notes


def _unquoted(cell: str) -> str:
    """Without spaces around it and one pair of quotes, its accents composed."""
    text = unicodedata.normalize("NFC", cell.strip())
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _class_key(text: str) -> Hashable:
    """The same for all spellings of one label. Decimals are exact: long numbers that differ in the end stay apart."""
    if _number(text) is not None:
        with contextlib.suppress(InvalidOperation):  # an exponent of twenty digits
            return Decimal(text)
    return text.casefold() if text.casefold() in ("true", "false") else text


def _class_order(text: str) -> tuple[Any, ...]:
    """Numbers by their value, before words by their letters."""
    value = _number(text)
    return (1, text) if value is None else (0, value, text)
