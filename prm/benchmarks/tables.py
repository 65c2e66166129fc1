"""Tables: rows of text in, aligned text for the terminal out. The first row of a table is its head."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table of an evaluation: shown in the terminal, written to `tables.json`, typeset by `scripts/report.py`."""

    title: str
    rows: list[list[str]]
    note: str = ""
    """What a reader must know to read it, shown below."""
    is_folded: bool = False
    """Whether a page shows it only when asked: it repeats another table under a setting that matters less."""


def render(tables: Sequence[Table]) -> str:
    """Title, aligned rows and note of each table, apart by blank lines."""
    return "\n\n".join("\n".join(part for part in (t.title, align(t.rows), t.note) if part) for t in tables)


def markdown(tables: Sequence[Table]) -> str:
    """The same as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    parts = []
    for table in tables:
        head, *body = table.rows
        rule = "|---" + "|---:" * (len(head) - 1) + "|"
        parts.append("\n".join([f"**{table.title}**", "", line(head), rule, *map(line, body), "", table.note]).rstrip() + "\n")
    return "\n".join(parts)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def number(value: float | None, form: str) -> str:
    """A value in a form such as `.3f`; `-` where it is undefined."""
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def p_value(value: float | None) -> str:
    """A test's, undefined where there is a single question."""
    return number(value, ".4f")


def interval(low: float | None, high: float | None, form: str = "") -> str:
    """Both ends in percent, or as numbers of `form`, such as `+.1f`."""
    ends = [format(end, form) if form and end is not None else percent(end) for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"
