"""A matplotlib figure as SVG that lives inside the page: its colours follow the page, its ids clash with nothing.

The page's content-security policy allows no `style` attribute, so each distinct style becomes a class, written once
for all charts of the page.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from mnistbench.report.palette import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
_VARIABLES = {colour.light: f"var(--{colour.name})" for colour in ALL}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DROPPED = ("font-family", "font:")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class StyleSheet:
    """The styles of all charts of one page, each under a short class name."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The class that stands for this style attribute."""
        declarations = [part.strip() for part in style.split(";") if part.strip()]
        kept = ";".join(re.sub(r":\s+", ":", part) for part in declarations if not part.startswith(_DROPPED))
        themed = _COLOUR.sub(lambda found: _VARIABLES.get(found.group(), found.group()), kept)
        return self._names.setdefault(themed, f"g{len(self._names)}") if themed else ""

    def css(self) -> str:
        """Rules for every class handed out so far."""
        return "".join(f".chart .{name}{{{style}}}\n" for style, name in self._names.items())


def legible(text: object) -> str:
    """Text that XML can hold: control characters become the replacement character."""
    return _NOT_XML.sub("\ufffd", str(text))


def standalone(figure: Figure) -> str:
    """The figure as an SVG file, in the light colours, its text as text.

    The canvas is asked directly: `savefig` would draw every figure twice, and only a tight bounding box needs that.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnistbench"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(source: str, *, name: str, label: str, styles: StyleSheet) -> str:
    """An `<svg>` element for the page.

    Args:
        source: what `standalone` returned.
        name: prefix of its ids, unique on the page.
        label: the alternative text.
        styles: where its styles are collected.
    """
    root = ET.fromstring(source)
    for parent in root.iter():
        for child in [item for item in parent if item.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    referred = _referred_ids(root)
    short = {old: f"{name}-{place}" for place, old in enumerate(sorted(referred))}
    for element in root.iter():
        _rename(element, short)
        _restyle(element, styles)
        _round(element)
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    root.attrib.update({"role": "img", "aria-label": legible(label), "width": f"{width:g}", "height": f"{height:g}"})
    _flatten(root)
    ET.register_namespace("", SVG)
    text = ET.tostring(root, encoding="unicode")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)


def _referred_ids(root: ET.Element) -> set[str]:
    ids = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == f"{{{XLINK}}}href":
                ids.add(value.removeprefix("#"))
            elif key in ("clip-path", "style", "fill", "mask"):
                ids.update(_REFERENCE.findall(value))
    return ids


def _rename(element: ET.Element, short: dict[str, str]) -> None:
    if "id" in element.attrib:
        old = element.attrib.pop("id")
        if old in short:
            element.set("id", short[old])
    if reference := element.attrib.pop(f"{{{XLINK}}}href", None):
        element.set("href", "#" + short[reference.removeprefix("#")])
    for key in ("clip-path", "style", "fill", "mask"):
        if key in element.attrib:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{short[found.group(1)]})", element.attrib[key]))


def _restyle(element: ET.Element, styles: StyleSheet) -> None:
    style = element.attrib.pop("style", "")
    if "url(#" in style:  # a hatch names its own pattern: an attribute, since classes are shared
        for part in style.split(";"):
            key, _, value = part.partition(":")
            if "url(#" in value:
                element.set(key.strip(), value.strip())
        style = ";".join(part for part in style.split(";") if "url(#" not in part)
    if name := styles.name(style):
        element.set("class", name)
    for key in ("fill", "stroke"):
        if element.get(key, "") in _VARIABLES:
            name = styles.name(f"{key}:{element.attrib.pop(key)}")
            element.set("class", f"{element.get('class', '')} {name}".strip())


def _round(element: ET.Element) -> None:
    for key in ("d", "x", "y", "transform", "width", "height"):
        if key in element.attrib:
            rounded = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), element.attrib[key])
            element.set(key, rounded)
    if "d" in element.attrib:
        element.set("d", re.sub(r"\s*([A-Za-z])\s*", r"\1", element.attrib["d"]).strip())
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _flatten(parent: ET.Element) -> None:
    """Lift what stands in groups without attributes, of which matplotlib writes hundreds, and drop white space."""
    lifted: list[ET.Element] = []
    for child in list(parent):
        _flatten(child)
        child.tail = None
        lifted.extend(child if child.tag == f"{{{SVG}}}g" and not child.attrib else [child])
    if len(parent):
        parent.text = None
    parent[:] = lifted
