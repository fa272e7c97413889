"""One results folder, or several, to one self-contained HTML file with a summary and CSV files beside it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import itertools
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from mnistbench.cell import __version__
from mnistbench.errors import UserError
from mnistbench.files.whole import write_whole
from mnistbench.report import frame as frames
from mnistbench.report import inventory, palette, svg
from mnistbench.report.blocks import blocks_frame, not_trained
from mnistbench.report.charts import Chart
from mnistbench.report.exhibit import rows_of
from mnistbench.report.samples import for_show
from mnistbench.report.sections import Answer, Study, sections
from mnistbench.report.sections.section import groups
from mnistbench.report.summary import summary_markdown, verdict_sentences
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import asked, one_per_build
from mnistbench.results.ownership import PAGE, SUMMARY, SUMMARY_END, TABLE, is_free
from mnistbench.results.records import CellRecord
from mnistbench.results.speed import read_all_sessions
from mnistbench.words.wording import accuracy_text, count, listed, plural

HERE = Path(__file__).parent
LARGEST_DOWNLOAD_BYTES = 1_500_000
"""Browsers refuse to save longer `data:` links."""
MOST_VALUES = 1_000_000
"""A frame with more is never packed small enough for that, so it is not tried."""


@dataclass(frozen=True)
class Download:
    """A CSV file inside the page: gzip in a `data:` link, so that it can be saved without JavaScript as well."""

    file: str
    link: str
    rows: str


def render(folders: Iterable[ResultsFolder | Path], out: Path, figures: Path | None = None) -> Path:
    """Write the report of these folders, and `summary.md`, `results.csv` and `epochs.csv` beside it; where
    speeds were timed, `speed.csv` too.

    A folder's own report has these under their plain names. Beside any other page they carry its name
    (`both-summary.md` beside `both.html`), and so they do where a file of the user's has the plain one.

    Args:
        folders: results folders; several are merged as `merge_folders` does, each machine and build apart.
        out: the HTML file to write.
        figures: a folder for each figure as SVG and PNG.

    Returns:
        `out`.

    Raises:
        UserError: if a folder does not exist, two folders hold different contents of the same record, or a file that
            no report wrote stands where one would be written; nothing is written then.
    """
    read = [folder if isinstance(folder, ResultsFolder) else ResultsFolder(folder) for folder in folders]
    summary, results, epochs, speed = _beside(out, is_own=any(_same(out, folder.report_file) for folder in read))
    _load_matplotlib()
    study = read_study(read)
    answers = [section.answer(study) for section in sections(study.frame)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page(study, answers))
    text = summary_markdown(study)
    write_whole(summary, f"{text}\n{SUMMARY_END}")
    frames.write_csv(study.runs, results)
    frames.write_csv(study.epochs, epochs)
    if len(study.blocks):
        frames.write_csv(study.blocks, speed)
    if figures is not None:
        write_figures(answers, figures)
    return out


def _load_matplotlib() -> None:
    """Import it; a `matplotlibrc` of the user's that is not UTF-8 ends that, and is then kept out of its sight."""
    try:
        import matplotlib
    except UnicodeDecodeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # parts of it are there, and would not fit the whole
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("matplotlibrc").touch()  # where it looks first
            import matplotlib  # noqa: F401


def _beside(out: Path, *, is_own: bool) -> list[Path]:
    """Where the summary and the CSV files of a page go.

    Raises:
        UserError: if a file that no report wrote stands there, or where the page goes.
    """
    signs = {"summary.md": SUMMARY, "results.csv": TABLE, "epochs.csv": TABLE, "speed.csv": TABLE}
    plain = {name: is_own and is_free(out.with_name(name), sign) for name, sign in signs.items()}
    paths = [out.with_name(name if plain[name] else f"{out.stem}-{name}") for name in signs]
    for path, sign in zip([out, *paths], [PAGE, *signs.values()], strict=True):
        if not is_free(path, sign):
            raise UserError(f"{path} is there already, and no report wrote it: move it away, or give another --out")
    return paths


def _same(one: Path, other: Path) -> bool:
    return one.parent.resolve() / one.name == other.parent.resolve() / other.name


def read_study(folders: Sequence[ResultsFolder]) -> Study:
    """Read everything once.

    Raises:
        UserError: as `render`.
    """
    names = _names(folders)
    by_folder: dict[str, list[CellRecord]] = {}
    unread: list[tuple[str, str]] = []
    grids: dict[str, str] = {}
    for name, folder in zip(names, folders, strict=True):
        if not folder.path.is_dir():
            raise UserError(f"{folder.path} is no results folder: it does not exist")
        by_folder[name], aside = folder.read()
        unread += [(file.name if len(folders) == 1 else f"{name}/{file.name}", reason) for file, reason in aside]
        if folder.grid_file.is_file():
            grids[name] = folder.grid_file.read_text(encoding="utf-8", errors="replace")
    sessions, aside = read_all_sessions(folders)
    unread += [(file.name, reason) for file, reason in aside]
    records, _ = one_per_build(_merged(by_folder))
    cell_ids, targets = asked(zip(folders, by_folder.values(), strict=True))
    runs = frames.results_frame(records, targets=targets, kinds=frames.KINDS)
    epochs = frames.epochs_frame(records)
    blocks, frame = blocks_frame(sessions), runs
    if waiting := not_trained(sessions, runs, cell_ids):
        frame = pd.concat([runs, frames.results_frame(waiting, targets=targets)], ignore_index=True)
    shown = for_show(frame, blocks)
    where = folders[0].path if len(folders) == 1 else None
    return Study(listed(names, 6), records, runs, shown, epochs, grids, unread, len(cell_ids), blocks, where)


def _merged(by_folder: dict[str, list[CellRecord]]) -> list[CellRecord]:
    """All records; they are compared byte by byte only where two folders share one, which costs 2 ms a record."""
    records = [record for records in by_folder.values() for record in records]
    if len({record.record_id for record in records}) == len(records):
        return records
    return [record for record in frames.merge(by_folder) if isinstance(record, CellRecord)]


def page(study: Study, answers: Sequence[Answer]) -> str:
    """The report as HTML."""
    styles = svg.StyleSheet()
    drawn = _drawn(answers, styles)
    css = _raw(palette.css() + (HERE / "style.css").read_text(encoding="utf-8") + styles.css(), "style")
    script = _raw(table_library() + (HERE / "script.js").read_text(encoding="utf-8"), "script")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["legible"] = svg.legible
    return environment.get_template("page.html.j2").render(
        study=study,
        sections=[answer for answer in answers if not answer.reason],
        unanswered=[answer for answer in answers if answer.reason],
        drawn=drawn,
        verdict=_verdict(study),
        banners=_banners(study),
        facts=_facts(study),
        downloads=_downloads(study),
        version=__version__,
        css=css,
        script=script,
        policy=f"default-src 'none'; style-src {_checksum(css)}; script-src {_checksum(script)}; img-src data:;"
        " base-uri 'none'; form-action 'none'",
    )


def _charts(answers: Iterable[Answer]) -> Iterator[Chart]:
    return (chart for answer in answers for part in answer.parts for chart in part.charts)


def _drawn(answers: Sequence[Answer], styles: svg.StyleSheet) -> dict[str, Markup]:
    """Every chart's SVG by the chart's name."""
    drawn: dict[str, Markup] = {}
    for chart in _charts(answers):
        if chart.name in drawn:
            raise ValueError(f"two charts are called {chart.name}")
        drawn[chart.name] = Markup(svg.inline(chart.svg(), name=chart.name, label=chart.alt, styles=styles))
    return drawn


def table_library() -> str:
    """DataTables as itables ships it, as the head of a script in which it is called `DataTable`."""
    from itables.utils import read_package_file

    source = read_package_file("html/dt_bundle.js")
    exported = re.search(r"export\s*\{([^}]*)\}\s*;?", source)
    name = re.search(r"(\w+)\s+as\s+default", exported.group(1)) if exported else None
    if exported is None or name is None:
        raise RuntimeError("itables' bundle exports no default: this mnistbench does not know this itables")
    return source[: exported.start()] + f"\nconst DataTable = {name.group(1)};\n" + source[exported.end() :] + "\n"


def write_figures(answers: Iterable[Answer], folder: Path) -> None:
    """Each figure as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for chart in _charts(answers):
        write_whole(folder / f"{chart.name}.svg", chart.svg())
        write_whole(folder / f"{chart.name}.png", chart.png())


def _names(folders: Sequence[ResultsFolder]) -> list[str]:
    names: list[str] = []
    for folder in folders:
        numbered = (f"{folder.name} ({number})" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([folder.name], numbered) if name not in names))
    return names


def _verdict(study: Study) -> list[tuple[str, list[str]]]:
    """Each machine and build, named where there are several, and what is said of it."""
    if study.frame.empty:
        return [("", ["There is nothing to report yet: no cell has a record."])]
    return [(heading, verdict_sentences(rows, study.blocks)) for heading, _, rows in groups(study.frame)]


def _banners(study: Study) -> list[tuple[str, bool]]:
    """Warnings, and whether each is to be loud: the data asked for were not the data used, which is said first."""
    if study.runs.empty:
        return []
    loud = bool(study.runs["fallback"].fillna(False).any())
    said = [(text, loud and place == 0) for place, text in enumerate(inventory.banners(study.runs))]
    if study.unread:
        said.append(
            (f"{plural(len(study.unread), 'file')} could not be read as a record; “What failed?” names them.", False)
        )
    return said


def _facts(study: Study) -> list[tuple[str, str, str]]:
    """Term, value, and a smaller line under it."""
    frame = study.runs
    if frame.empty:
        return []
    done = inventory.completeness(frame, study.asked)
    statuses = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in done.by_status.items())
    machines = [str(name) for name in dict.fromkeys(frame["machine"].dropna())]
    devices = dict.fromkeys(
        f"{row.device}: {row.device_name}" if isinstance(row.device_name, str) else f"{row.device}: {row.cpu}"
        for row in rows_of(frame[["device", "device_name", "cpu"]].drop_duplicates())
    )
    targets = frames.targets_in(frame)
    days = sorted(str(day)[:10] for day in frame["started_at"].dropna())
    when = days[0] if days and days[0] == days[-1] else f"{days[0]} to {days[-1]}" if days else ""
    builds = [f"torch {build}" for build in dict.fromkeys(frame["torch"].dropna())]
    facts = [
        ("cells answered", f"{done.answered:,} of {done.asked:,}", statuses),
        (
            "targets" if len(targets) > 1 else "target",
            listed([accuracy_text(target) for target in targets]) if targets else "none",
            "test accuracy" if targets else "",
        ),
        ("data", listed(list(dict.fromkeys(frame["dataset_label"]))), ""),
        ("seeds", count(study.frame["seed"].nunique()), f"of {plural(study.frame['settings'].nunique(), 'setting')}"),
        (plural(max(len(machines), 1), "machine").split()[1], listed(machines), listed(list(devices), 3)),
        ("run", when, listed(builds, 3)),
    ]
    return [fact for fact in facts if fact[1]]


def _downloads(study: Study) -> list[Download]:
    if study.runs.empty:
        return []
    files = {"results.csv": frames.csv_frame(study.runs), "epochs.csv": study.epochs}
    if len(study.blocks):
        files["speed.csv"] = study.blocks
    downloads = []
    for file, frame in files.items():
        text = frame.to_csv(index=False, lineterminator="\n") if frame.size <= MOST_VALUES else ""
        coded = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode() if text else ""
        link = f"data:application/gzip;base64,{coded}" if 0 < len(coded) <= LARGEST_DOWNLOAD_BYTES else ""
        downloads.append(Download(file, link, plural(len(frame), "row")))
    return downloads


def _checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _raw(text: str, tag: str) -> Markup:
    """Text that stands in this raw element as it is, with line ends as the browser will read and check them."""
    if f"</{tag}" in text.lower():
        raise ValueError(f"the page's {tag} holds its own end")
    return Markup(text.replace("\r\n", "\n").replace("\r", "\n"))
