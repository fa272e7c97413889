"""What there is and what is missing: counts, failures, machines, and what to be warned of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from mnistbench.report.labels import labels
from mnistbench.report.repeats import equal_seeds
from mnistbench.results.records import RESULTS
from mnistbench.words.wording import plural

STATUSES = ("finished", "diverged", "out_of_memory", "failed", "timed_out", "killed", "skipped")
"""In the order shown."""


@dataclass(frozen=True)
class Completeness:
    """How many cells gave an answer.

    Attributes:
        asked: cells of the grid (or of the records, when the grid is not known).
        answered: finished, diverged or out of memory, on one machine at least.
        by_status: records by status, in a fixed order, without zeros; `missing` for cells without a record.
        sentence: for example `574 of 600 cells answered; 26 failed`.
    """

    asked: int
    answered: int
    by_status: dict[str, int] = field(default_factory=dict)
    sentence: str = ""


def completeness(frame: pd.DataFrame, asked: int | None = None) -> Completeness:
    """Counts by status; `asked` is the number of the grid's cells, so that cells without a record are said."""
    counts = frame["status"].value_counts()
    by_status = {status: int(counts[status]) for status in STATUSES if status in counts}
    cells = frame["cell_id"].nunique()
    missing = max(0, asked - cells) if asked is not None else 0
    total = cells + missing
    if missing:
        by_status["missing"] = missing
    answered = frame.loc[frame["status"].isin(RESULTS), "cell_id"].nunique()
    records = f", {plural(len(frame), 'record')} of several machines or builds" if len(frame) > cells else ""
    words = {status: status.replace("_", " ") for status in STATUSES} | {"missing": "not run yet"}
    told = "; ".join(f"{count} {words[status]}" for status, count in by_status.items() if status != "finished")
    sentence = f"{answered} of {plural(total, 'cell')} answered{records}{'; ' + told if told else ''}"
    return Completeness(total, answered, by_status, sentence)


def banners(frame: pd.DataFrame) -> list[str]:
    """Warnings that belong at the top, made from the data: fallback data, outdated records, cells that did not pass the
    equivalence gate, seeds that are one run, networks that are hardly meant so, noisy or shared cells, several
    machines, builds or protocol versions, uncommitted code. Empty when all is well.
    """
    said = []
    fallback = frame[frame["fallback"]]
    if len(fallback):
        names = ", ".join(sorted(set(fallback["dataset"])))
        said.append(
            f"The dataset that was asked for was not at hand: {plural(len(fallback), 'cell')} used {names} in its "
            "place. These are not results on the dataset of the grid."
        )
    old = frame[frame["outdated"].notna()]
    if len(old):
        said.append(
            f"{plural(len(old), 'record')} outdated: an older release could train these cells wrongly"
            f" ({', '.join(sorted(set(old['outdated'])))}). They are shown, ranked nowhere and pooled with nothing"
            " newer; `run` makes them again."
        )
    failed = frame[(frame["status"] == "finished") & frame["equivalence"].fillna("").str.startswith("failed")]
    if len(failed):
        said.append(
            f"{plural(len(failed), 'cell')} did not pass the equivalence gate ({min(failed['equivalence'])}): shown,"
            " and ranked nowhere, in accuracy neither; no ratio is printed."
        )
    said += [*equal_seed_sentences(frame), *output_sentences(frame)]
    for column, one, many in (
        ("machine_id", "machine", "Speeds are compared within one machine only"),
        ("torch", "torch build", "Speeds are compared within one build only"),
        ("protocol", "protocol version", "Results of different protocol versions are not compared"),
    ):
        if (several := frame[column].nunique()) > 1:
            said.append(f"These are results from {plural(several, one)}. {many}.")
    done = frame[frame["status"] == "finished"]
    for count, what in (
        (int(done["noisy"].sum()), "ran while something disturbed the machine (flagged in the tables)"),
        (int((done["isolation"] != "alone").sum()), "ran beside others: their speed is not ranked"),
        (int((~done["noise_known"]).sum()), "ran where noise could not be observed: unknown, not quiet"),
    ):
        if count:
            said.append(f"{count} of {plural(len(done), 'finished cell')} {what}.")
    if frame["git_dirty"].fillna(False).any():
        said.append("Some cells ran from a working copy with changes that were not committed.")
    return said


def equal_seed_sentences(frame: pd.DataFrame, limit: int = 3) -> list[str]:
    """Which seeds are one run, because they trained to the same weights; one sentence a setting, at most `limit`."""
    measured = frame[frame["kind"] == "measured"]
    equal, names = equal_seeds(measured).to_dict("records"), labels(measured)
    said = [
        f"{names[row['settings']]}: seeds {', '.join(map(str, row['seeds']))} trained to the same weights. These seeds"
        " are one run, and n counts them once."
        for row in equal[:limit]
    ]
    more = len(equal) - limit
    return [*said, f"The seeds of {plural(more, 'more setting')} are one run too."] if more > 0 else said


def output_sentences(frame: pd.DataFrame) -> list[str]:
    """What was found of a network that trains, though hardly as it was meant; one sentence for each."""
    found = frame.dropna(subset="outputs")[["architecture_label", "outputs"]].drop_duplicates()
    return [f"{label}: {said}." for label, said in found.itertuples(index=False)]
