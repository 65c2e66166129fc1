"""Figures in a page: an SVG file in; an inline element without scripts, links and fixed paper colors out."""

import re
from pathlib import Path
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
DRAWING = {
    *("svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
    *("linearGradient", "radialGradient", "stop", "pattern", "marker", "mask", "image", "title", "desc"),
}
"""The only elements that an inlined figure keeps."""
PIXELS = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=\s]+")
# What figures draw with beside the colors of curves; a page in dark colors gives them others.
COLORS = {"#ffffff": "var(--paper)", "#000000": "var(--ink)", "#e6e6e6": "var(--line)"}
COLORS |= dict.fromkeys(("#555555", "#444444"), "var(--quiet)")


def inline_figure(path: str | Path, label: str) -> tuple[str, float]:
    """The figure as an `svg` element, and its width in inches; ids begin with `label`, so that several figures share a page.

    Raises ValueError if the file is not SVG.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not valid SVG ({error}); draw the figure again") from error
    if root.tag != f"{SVG}svg":
        raise ValueError(f"{path}: the root is {root.tag!r}, not an SVG element; draw the figure again")
    prefix = re.sub(r"\W", "-", label)
    _clean(root, prefix)
    inches = _inches(root)
    root.attrib = {"viewBox": root.get("viewBox", "0 0 100 100"), "role": "img", "aria-label": label, "class": "figure"}
    ElementTree.register_namespace("", SVG[1:-1])
    ElementTree.register_namespace("xlink", LINK[1:-5])
    return ElementTree.tostring(root, encoding="unicode"), inches


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag.removeprefix(SVG) not in DRAWING:
            element.remove(child)
        else:
            _clean(child, prefix)
    element.attrib = {name: _value(name, value, prefix) for name, value in element.attrib.items() if _is_harmless(name, value)}


def _is_harmless(name: str, value: str) -> bool:
    if name in ("href", LINK):
        return value.startswith("#") or PIXELS.fullmatch(value) is not None
    return not name.lower().startswith("on") and not re.search(r"\\|url\s*\((?!\s*['\"]?#)|@import|javascript:", value, re.I)


def _value(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in ("href", LINK) and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    value = re.sub(r"url\(\s*(['\"]?)#", rf"url(\1#{prefix}-", value)
    if name in ("style", "fill", "stroke"):
        for fixed, ours in COLORS.items():
            value = value.replace(fixed, ours)
    return value


def _inches(root: ElementTree.Element) -> float:
    """Width of the drawing; matplotlib writes points."""
    number = re.match(r"[\d.]+", root.get("width", ""))
    return float(number[0]) / 72 if number else 8.0
