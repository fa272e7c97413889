"""Results folders and pages for the tests of the report: made of synthetic records, read back like any page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from mnistbench.report import render
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.frame import epochs_frame
from mnistbench.report.samples import for_show
from mnistbench.report.sections import Study
from mnistbench.results.records import CellRecord, dump

VOID = {"meta", "link", "br", "input", "img", "hr"}
SHAPES = {"path", "use", "rect", "circle", "line", "polyline", "polygon"}


def write_folder(folder: Path, records: Iterable[CellRecord], grid: str = "name: made up\n") -> Path:
    """A results folder of these records, without the runner's fsync for each."""
    (folder / "cells").mkdir(parents=True)
    for record in records:
        name = (
            f"{record.cell_id}@{record.record_id}.json"
            if (folder / "cells" / f"{record.cell_id}.json").exists()
            else f"{record.cell_id}.json"
        )
        (folder / "cells" / name).write_text(dump(record), encoding="utf-8")
    (folder / "grid.yaml").write_text(grid, encoding="utf-8")
    return folder


def study_of(runs: pd.DataFrame, name: str = "quick", asked: int | None = None) -> Study:
    """What a report of these runs is made from."""
    return Study(name, [], runs, for_show(runs, NO_BLOCKS), epochs_frame([]), asked=asked)


def rendered(folder: Path, records: Iterable[CellRecord], **options: Any) -> Page:
    """The report of these records, read back."""
    out = render([write_folder(folder, records)], folder / "report.html", **options)
    return Page.of(out.read_text(encoding="utf-8"))


@dataclass
class Element:
    """One element: its tag, attributes, and all text inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    parents: list[Element] = field(default_factory=list, repr=False)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()


class Page(HTMLParser):
    """A page as a flat list of elements, each knowing those around it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []

    @classmethod
    def of(cls, source: str) -> Page:
        page = cls()
        page.source = source
        page.feed(source)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, parents=list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}, parents=list(self._open)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, css: str = "", inside: str = "") -> list[Element]:
        """Elements of a tag, of a class, inside the section with an id."""
        return [
            element
            for element in self.elements
            if element.tag == tag
            and (not css or css in element.classes)
            and (not inside or any(parent.attributes.get("id") == inside for parent in element.parents))
        ]
