"""One self-contained page: an evaluation's folder in, HTML out. The page loads nothing and runs no script but its own."""

import base64
import gzip
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.benchmarks.page.facts import Facts, read_facts
from prm.benchmarks.page.figures import inline_figure
from prm.benchmarks.page.maths import Formula, to_plain_text, typeset
from prm.benchmarks.page.review import VERDICTS, Review, review_items
from prm.benchmarks.results import METRICS, read_items, read_tables
from prm.benchmarks.tables import Table

HERE = Path(__file__).parent
SCRIPTS, STYLES, TEMPLATE = ("response.js", "page.js"), "page.css", "page.html"
CHUNK = 64
"""Responses whose texts are packed together: the page unpacks them when one of them is opened."""
MAX_METRICS = 400_000
"""Characters of metrics.json shown in the page."""
HEADLINE = 160
"""Characters of a question shown in the list."""


@dataclass
class PageConfig:
    """What the page shows."""

    title: str | None = None
    """Heading of the page; the folder's name by default."""
    max_items: int = 5000
    """Most responses in the page's browser, the worst misses; the page says how many there are in all."""

    def __post_init__(self) -> None:
        if self.max_items < 0:
            raise ValueError(f"--max_items {self.max_items}: give 0 (no responses) or more")


def build_page(folder: str | Path, config: PageConfig | None = None) -> str:
    """The page of a folder that `write_results` wrote. Raises FileNotFoundError if it holds no tables."""
    folder, config = Path(folder), config or PageConfig()
    tables, facts = read_tables(folder), read_facts(folder)
    reviews = review_items(read_items(folder))
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "title": html.escape(config.title or folder.resolve().name),
        "facts": _facts(facts),
        "tables": "\n".join(map(_table, tables)),
        "figures": _figures(folder),
        "numbers": _numbers(folder, facts),
        "style": (HERE / STYLES).read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "index": embed_json(index_of(reviews, config.max_items)),
        "chunks": "\n".join(_chunks(reviews[: config.max_items])),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (HERE / TEMPLATE).read_text(encoding="utf-8"))


def index_of(reviews: Sequence[Review], max_items: int) -> dict[str, Any]:
    """What the list, the filters and the sorting need, in the order of `reviews`."""
    return {
        "num_items": len(reviews),
        "chunk": CHUNK,
        "verdicts": VERDICTS,
        "items": [_entry(review) for review in reviews[:max_items]],
    }


def _entry(review: Review) -> dict[str, Any]:
    item = review.item
    entry = {name: getattr(item, name) for name in ("id", "group", "first_error", "predicted", "correct", "response_score", "is_selected")}
    headline = to_plain_text(typeset(item.question[: 4 * HEADLINE]))
    scores = [round(score, 5) for score in item.step_scores]
    units = [round(unit, 3) for unit in review.units]
    severity = None if review.severity is None else round(review.severity, 4)
    return entry | {
        "headline": headline if len(headline) <= HEADLINE else headline[:HEADLINE] + "…",
        "place": review.place,
        "verdict": review.verdict,
        "severity": severity,
        "scores": scores,
        "units": units,
    }


def embed_json(value: Any) -> str:
    """JSON for a `script` element that holds data: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return re.sub("[<>&\u2028\u2029]", lambda match: escapes[match[0]], text)


def _chunks(reviews: Iterable[Review]) -> Iterator[str]:
    """Texts of CHUNK responses at a time as compressed JSON, which is a tenth of its size."""
    for number, chunk in enumerate(_batches(list(reviews))):
        packed = gzip.compress(json.dumps(texts_of(chunk), separators=(",", ":")).encode(), mtime=0)
        yield f'<script type="application/gzip" id="chunk-{number}">{base64.b64encode(packed).decode()}</script>'


def _batches(reviews: Sequence[Review]) -> Iterator[Sequence[Review]]:
    yield from (reviews[start : start + CHUNK] for start in range(0, len(reviews), CHUNK))


def texts_of(reviews: Sequence[Review]) -> dict[str, Any]:
    """Questions and steps as pieces: a string is text, a number the place of a formula among `formulas`."""
    places: dict[str, int] = {}
    formulas: list[list[Any]] = []

    def pieces(text: str) -> list[str | int]:
        return [piece if isinstance(piece, str) else place_of(piece) for piece in typeset(text)]

    def place_of(formula: Formula) -> int:
        if formula.source not in places:
            places[formula.source] = len(formulas)
            formulas.append([formula.source, int(formula.is_display), formula.tree])
        return places[formula.source]

    items = [{"question": pieces(review.item.question), "steps": [pieces(step) for step in review.item.steps]} for review in reviews]
    return {"formulas": formulas, "items": items}


def _facts(facts: Facts) -> str:
    rows = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.rows.items())
    if not facts.command:
        return f'<dl class="facts">{rows}</dl><p class="note">No manifest.json stands beside these results: how they were made is unknown.</p>'
    words = " ".join(f"<span>{html.escape(shlex.quote(word))}</span>" for word in facts.command)
    command = f'<pre class="command" aria-label="Command"><code>{words}</code></pre>'
    return f'<dl class="facts">{rows}</dl>{command}'


def _table(table: Table) -> str:
    """The first row is the head; a row whose name is indented belongs to the one above."""
    title, note = html.escape(table.title), html.escape(table.note)
    head, *body = table.rows or [[]]
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    rows = "".join(_table_row(row) for row in body)
    caption = f"<figcaption>{title}</figcaption>" if title else ""
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{title or "Table"}">'
    grid = f"{scroll}<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f'<figure class="table">{caption}{grid}{f"<p class=note>{note}</p>" if note else ""}</figure>'


def _table_row(row: Sequence[str]) -> str:
    name, *values = row or [""]
    kind = ' class="sub"' if name.startswith(" ") else ""
    cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
    return f'<tr{kind}><th scope="row">{html.escape(name.strip())}</th>{cells}</tr>'


def _figures(folder: Path) -> str:
    drawings = []
    for path in sorted(folder.glob("*.svg")):
        picture, inches = inline_figure(path, path.stem)
        caption = f"<figcaption>{html.escape(path.stem.replace('_', ' '))}</figcaption>"
        drawings.append(f'<figure class="drawing" style="--width: {inches:.2f}in">{picture}{caption}</figure>')
    return "\n".join(drawings)


def _numbers(folder: Path, facts: Facts) -> str:
    """The files that are only read when a number is doubted, folded."""
    found = [("manifest.json", json.dumps(facts.manifest, ensure_ascii=False, indent=2))] if facts.manifest else []
    path = folder / METRICS
    if path.exists():
        text = path.read_text(encoding="utf-8")
        found.append((METRICS, text if len(text) <= MAX_METRICS else f"{len(text):,} characters: read it in the folder itself"))
    fold = "<details><summary>{}</summary><pre tabindex=0>{}</pre></details>"
    return "\n".join(fold.format(name, html.escape(text)) for name, text in found)
