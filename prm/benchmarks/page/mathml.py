"""LaTeX to MathML: a formula in, a tree out that holds only known elements, and attributes with harmless values."""

import html
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml import exceptions
from latex2mathml.converter import Converter

MAX_LATEX = 4000
"""Characters of a formula; the time to typeset one grows linearly with them, 4,000 take about 40 ms."""
MAX_DEPTH = 60
"""Nested elements of a formula: fewer than JSON and browsers take."""

Tree = list[Any]
"""A MathML element as JSON holds it: [tag, attributes if any, then its text or its children]."""

# Commands that the converter knows only by another name, or gives too much room.
SPELLINGS = (
    (re.compile(r"\\(begin|end)\{(?:aligned|alignat|eqnarray)\*?\}(?:\{\d+\})?"), r"\\\1{align*}"),
    (re.compile(r"\{,\}"), r"\\text{,}"),
    (re.compile(r"\\\\\s*\[-?[\d.]+\s*[a-z]+\]"), r"\\\\ "),
    (re.compile(r"\\not\s*="), r"\\neq "),
    (re.compile(r"\\arg(?![a-zA-Z])"), r"\\operatorname{arg}"),
    (re.compile(r"\\cline\{[\d-]+\}|@\{[^{}]*\}"), ""),
)
DEFINITION = re.compile(r"\\(?:(?:re)?newcommand|providecommand|[egx]?def|let|DeclareMathOperator)(?![a-zA-Z])")

ARITY = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
ROWS = {"mrow", "mtd", "msqrt", "mstyle", "math"}
TAGS = ARITY.keys() | ROWS | {"mi", "mn", "mo", "mtext", "mspace", "mpadded", "mphantom", "mtable", "mtr"}
LENGTHS = {"width", "height", "depth", "lspace", "rspace", "voffset", "minsize", "maxsize", "linethickness"}
FLAGS = {"stretchy", "fence", "form", "separator", "accent", "accentunder", "movablelimits"}
FLAGS |= {"displaystyle", "scriptlevel", "mathvariant"}
# Below ten units, so that no formula covers what stands beside it.
LENGTH = re.compile(r"[-+]?\d?(?:\.\d{1,4})?(?:em|ex|pt|px|pc|mm|cm|in)?")
FLAG = re.compile(r"[a-z-]{1,24}|[0-3]")
# Operators that the converter takes for letters, which have no space around them, and letters that it takes for operators.
OPERATORS, LETTERS = set("±~⟂∖⟵⟶⟷⟸⟹⟺"), {"∞"}
# The converter's sign of a difference of sets is in few fonts.
CHARACTERS = {"⧵": "∖"}
LIMITS = {"lim", "lim\u2006sup", "lim\u2006inf", "max", "min", "sup", "inf"}
BARS = {"|", "‖"}
# Lines and hats as wide as what they stand over are drawn by the page: browsers stretch none of them.
DRAWN = {("mover", "―"): "over", ("munder", "―"): "under", ("mover", "^"): "hat"}
SIGNS, CLOSED = {"-", "−", "+", "±"}, {")", "]", "}", "|", "!", "%"}
ENCLOSURES = {"box": "boxed", "updiagonalstrike": "struck", "downdiagonalstrike": "struck", "horizontalstrike": "struck"}
ERRORS = (
    *(error for error in vars(exceptions).values() if isinstance(error, type)),
    *(AttributeError, IndexError, KeyError, RecursionError, StopIteration, TypeError, ValueError),
)
"""What the converter raises on broken LaTeX."""


@lru_cache(maxsize=1 << 16)
def to_mathml(latex: str, is_display: bool = False) -> Tree | None:
    """The children of a `math` element; None for LaTeX that is broken, too long or too deep, or that defines or lacks a command."""
    if len(latex) > MAX_LATEX or not latex.strip() or DEFINITION.search(latex):
        return None
    for pattern, replacement in SPELLINGS:
        latex = pattern.sub(replacement, latex)
    try:
        element = Converter(display="block" if is_display else "inline").convert_to_element(latex)
    except ERRORS:
        return None
    try:
        return _clean(element)[1:]
    except ValueError:
        return None


def _clean(element: Element, depth: int = 0) -> Tree:
    """The element with only what is known. Raises ValueError for other elements, for missing parts, depth and unknown commands."""
    text = html.unescape(element.text or "")
    if depth > MAX_DEPTH or (text.startswith("\\") and len(text) > 1):
        raise ValueError(f"<{element.tag}>{text:.40}: too deep, or an unknown command")
    if element.tag == "menclose":
        tag, attributes = "mrow", {"class": ENCLOSURES.get(element.get("notation", ""), "boxed")}
    else:
        tag, attributes = element.tag, _attributes(element)
    if tag not in TAGS:
        raise ValueError(f"<{tag}> is no known element")
    tag, attributes, text = _respelled(tag, attributes, CHARACTERS.get(text, text))
    children = _broken_lines([(child, _clean(child, depth + 1)) for child in element])
    arity = ARITY.get(tag, len(children))
    if len(children) < arity:
        raise ValueError(f"<{tag}> with {len(children)} parts")
    if len(children) > arity:  # a determinant's bars and entries, as the base of a power
        children = [["mrow", *_spaced(children[: 1 - arity])], *children[1 - arity :]]
    if tag == "msub" and _text(children[0]) in LIMITS:
        tag, children = "munder", [["mo", {"movablelimits": "true"}, _text(children[0])], children[1]]
    if tag in ("munder", "mover") and (mark := DRAWN.get((tag, _text(children[1])))) and not element.get("accent"):
        return ["mrow", {"class": mark}, children[0]]
    if tag in ROWS:
        children = _spaced(children)
    return [tag, *([attributes] if attributes else []), *([text] if text else []), *children]


def _respelled(tag: str, attributes: dict[str, str], text: str) -> tuple[str, dict[str, str], str]:
    """Tag, attributes and text, changed where the converter's choice leaves too much or too little room around the element."""
    if tag == "mi" and text in OPERATORS:
        return "mo", attributes, text
    if tag == "mo" and text in LETTERS:
        return "mi", {}, text
    if tag == "mo" and text == ".":
        return "mo", {"lspace": "0", "rspace": "0"}, text
    return tag, attributes, text


def _attributes(element: Element) -> dict[str, str]:
    rules = dict.fromkeys(LENGTHS, LENGTH) | dict.fromkeys(FLAGS, FLAG)
    known = {name: value for name, value in element.attrib.items() if name in rules and rules[name].fullmatch(value)}
    if element.tag == "mtd" and element.get("columnalign") in ("left", "right"):
        known["class"] = element.attrib["columnalign"]
    return known


def _broken_lines(children: Sequence[tuple[Element, Tree]]) -> list[Tree]:
    r"""The children; where `\\` stands between them, as the rows of a table, since browsers know no line break in maths."""
    rows: list[list[Tree]] = [[]]
    for element, tree in children:
        if element.get("linebreak") == "newline":
            rows.append([])
        else:
            rows[-1].append(tree)
    rows = [row for row in rows if row] if len(rows) > 1 else rows
    return rows[0] if len(rows) == 1 else [["mtable", *(["mtr", ["mtd", *row]] for row in rows)]] * bool(rows)


def _spaced(children: Sequence[Tree]) -> list[Tree]:
    """The children with a thin space beside the name of a function, as in 2 sin x, signs close to what they belong to, and bars
    beside a table as its fences, which stretch."""
    spaced: list[Tree] = []
    for child, following in zip_longest(children, children[1:], fillvalue=["mo"]):
        neighbors = (spaced[-1] if spaced else ["mo"], child)
        if [tree[0] for tree in neighbors] == ["mo", "mo"] and _text(child) in SIGNS and _text(neighbors[0]) not in CLOSED:
            child = ["mo", {"form": "prefix"}, _text(child)]
        if child[0] == "mo" and _text(child) in BARS and "mtable" in (following[0], neighbors[0][0]):
            child = ["mo", {"form": "prefix" if following[0] == "mtable" else "postfix", "stretchy": "true"}, _text(child)]
        if any(map(_is_function, neighbors)) and not {"mo", "mspace"} & {tree[0] for tree in neighbors}:
            spaced.append(["mspace", {"width": "0.167em"}])
        spaced.append(child)
    return spaced


def _is_function(tree: Tree) -> bool:
    if tree[0] in ("msup", "msub", "msubsup"):
        return _is_function(tree[1])
    return tree[0] == "mi" and len(_text(tree)) > 1 and _text(tree).isalpha()


def _text(tree: Tree) -> str:
    return tree[-1] if len(tree) > 1 and isinstance(tree[-1], str) else ""
