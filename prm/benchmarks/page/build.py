"""One self-contained page: an evaluation's folder in, HTML out. The page loads nothing and runs no script but its own."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.benchmarks.page import sections
from prm.benchmarks.page.facts import read_facts
from prm.benchmarks.page.maths import Formula, to_plain_text, typeset, typeset_answer
from prm.benchmarks.page.review import VERDICTS, Review, review_items, worst_of_each_group
from prm.benchmarks.results import read_items, read_tables

HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPTS = "page.html", "page.css", ("response.js", "page.js")
CHUNK = 64
"""Responses whose texts are packed together: the page unpacks them when one of them is opened."""
HEADLINE = 160
"""Characters of a question shown in the list."""
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
SHOWN_AS_THEY_ARE = ("id", "group", "first_error", "wrong_steps", "predicted", "correct", "response_score", "is_selected")


@dataclass
class PageConfig:
    """What the page shows."""

    title: str | None = None
    """Heading of the page; the folder's name by default."""
    max_items: int = 5000
    """Most responses in the page's browser, the worst misses of each group; the page says how many there are in all."""

    def __post_init__(self) -> None:
        if self.max_items < 0:
            raise ValueError(f"--max_items {self.max_items}: give 0 (no responses) or more")


def build_page(folder: str | Path, config: PageConfig | None = None) -> str:
    """The page of a folder that `write_results` wrote. Raises FileNotFoundError if it holds no tables."""
    folder, config = Path(folder), config or PageConfig()
    tables, facts = read_tables(folder), read_facts(folder)
    reviews = review_items(read_items(folder))
    kept = worst_of_each_group(reviews, config.max_items)
    script = "\n".join(map(_read, SCRIPTS))
    parts = {
        "title": html.escape(config.title or folder.resolve().name),
        "header": sections.header(facts),
        "tables": "\n".join(map(sections.table, tables)),
        "figures": sections.figures(folder),
        "numbers": sections.numbers(folder, facts),
        "index": embed_json(index_of(kept, len(reviews), facts.rows.get("Responses", ""))),
        "chunks": "\n".join(_chunks(kept)),
        "style": _read(STYLE),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read(TEMPLATE))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def index_of(reviews: Sequence[Review], num_items: int, note: str) -> dict[str, Any]:
    """What the page's list, filters and sorting need, in the order of `reviews`; `note` says which of the `num_items` they are."""
    items = [_entry(review) for review in reviews]
    return {"num_items": num_items, "note": note, "chunk": CHUNK, "verdicts": VERDICTS, "items": items}


def _entry(review: Review) -> dict[str, Any]:
    item = review.item
    headline = to_plain_text(typeset(item.question[: 4 * HEADLINE]))
    return {name: getattr(item, name) for name in SHOWN_AS_THEY_ARE} | {
        "headline": headline if len(headline) <= HEADLINE else headline[:HEADLINE] + "…",
        "place": review.place,
        "verdict": review.verdict,
        "severity": None if review.severity is None else round(review.severity, 4),
        "scores": [float(f"{score:.6g}") for score in item.step_scores],
        "units": [round(unit, 3) for unit in review.units],
    }


def embed_json(value: Any) -> str:
    """JSON for a `script` element that holds data: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: ESCAPES[match[0]], text)


def _chunks(reviews: Sequence[Review]) -> Iterator[str]:
    """Texts of CHUNK responses at a time as compressed JSON, several times smaller than it."""
    for number, start in enumerate(range(0, len(reviews), CHUNK)):
        texts = json.dumps(texts_of(reviews[start : start + CHUNK]), separators=(",", ":"))
        packed = base64.b64encode(gzip.compress(texts.encode(), mtime=0)).decode()
        yield f'<script type="application/gzip" id="chunk-{number}">{packed}</script>'


def texts_of(reviews: Sequence[Review]) -> dict[str, Any]:
    """Questions, steps and answers as pieces: a string is text, a number the place of a formula among `formulas`."""
    formulas: dict[str, Formula] = {}
    places: dict[str, int] = {}

    def places_in(pieces: Sequence[str | Formula]) -> list[str | int]:
        return [piece if isinstance(piece, str) else place_of(piece) for piece in pieces]

    def place_of(formula: Formula) -> int:
        formulas.setdefault(formula.source, formula)
        return places.setdefault(formula.source, len(places))

    items = []
    for item in (review.item for review in reviews):
        texts = {"question": places_in(typeset(item.question)), "steps": [places_in(typeset(step)) for step in item.steps]}
        answers = {"answer": item.answer, "extracted": item.extracted}
        items.append(texts | {name: places_in(typeset_answer(text)) for name, text in answers.items() if text is not None})
    return {"formulas": [[f.source, int(f.is_display), f.tree] for f in formulas.values()], "items": items}
