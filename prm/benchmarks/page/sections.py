"""The fixed parts of a page: header, tables, figures and files of an evaluation in, HTML out."""

import html
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from prm.benchmarks.page.facts import Facts
from prm.benchmarks.page.figures import inline_figure
from prm.benchmarks.results import METRICS, REMEDY
from prm.benchmarks.tables import Table
from prm.files import read_json

CAPTIONS = {
    "best_of_n": "How often the answer that a PRM selects among N candidates is right, beside choices without a PRM.",
    "length": "Left: accuracy as scored, and with what length explains taken away. Right: of a right and a wrong candidate of one "
    "question, how often the right one is scored higher, by which of them is longer.",
    "f1": "F1 of the first wrong step over the threshold that a step must pass, per subset. A dot marks the best threshold.",
    "prm_score": "PRMScore over the threshold that a step must pass, beside scores that know nothing of the content. The dot marks "
    "the best threshold.",
    "reliability": "What held against what was claimed: a calibrated score lies on the diagonal. Below: how many items had it.",
    "bias": "Mean step score against the form of the steps. Scores that go by content alone are flat.",
    "perturbations": "What changes where the same text is cut into other steps. Scores that go by content alone stay at 0.",
}
"""What the figures of the evaluations show, by the names of their files."""
MAX_METRICS = 400_000
"""Characters of metrics.json shown in the page."""


def header(facts: Facts) -> str:
    rows = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{_breakable(value)}</dd></div>" for name, value in facts.rows.items())
    facts_list = f'<dl class="facts">{rows}</dl>'
    if not facts.command:
        return f'{facts_list}<p class="note">No manifest.json beside these results says how they were made.</p>'
    words = " ".join(f"<span>{html.escape(shlex.quote(word))}</span>" for word in facts.command)
    return f'{facts_list}<pre class="command" role="group" aria-label="Command"><code>{words}</code></pre>'


def _breakable(text: str) -> str:
    """The text as HTML. Where there is little room, a line may end behind a `_` or a `/` between words, but not within a word."""
    return re.sub(r"(?:_|(?<=[^\W\d])/)(?=\w)", r"\g<0><wbr>", html.escape(text))


def table(content: Table) -> str:
    """The first row is the head; a row whose name is indented belongs to the one above. A folded table opens by its title."""
    title, note = html.escape(content.title), html.escape(content.note)
    head, *body = content.rows or [[]]
    cells = "".join(f'<th scope="col">{_breakable(cell)}</th>' if cell else "<td></td>" for cell in head)
    rows = "".join(map(_row, body))
    caption = f"<figcaption>{title}</figcaption>" if title else ""
    grid = f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{title or "Table"}">{grid}</div>'
    below = f"<p class=note>{note}</p>" if note else ""
    if content.is_folded:
        return f'<details class="table"><summary>{title}</summary>{scroll}{below}</details>'
    return f'<figure class="table">{caption}{scroll}{below}</figure>'


def _row(row: Sequence[str]) -> str:
    name, *values = row or [""]
    kind = ' class="sub"' if name.startswith(" ") else ""
    cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
    return f'<tr{kind}><th scope="row">{_breakable(name.strip())}</th>{cells}</tr>'


def figures(folder: Path) -> str:
    """Every SVG file of the folder, in name order, under its caption or else its name."""
    drawings = []
    for path in sorted(folder.glob("*.svg")):
        picture, inches = inline_figure(path, path.stem)
        caption = f"<figcaption>{html.escape(CAPTIONS.get(path.stem, path.stem.replace('_', ' ')))}</figcaption>"
        drawings.append(f'<figure class="drawing" style="--width: {inches:.2f}in">{picture}{caption}</figure>')
    return "\n".join(drawings)


def numbers(folder: Path, facts: Facts) -> str:
    """Manifest and metrics in full, folded away: they are read only when a number is doubted."""
    found = [("manifest.json", json.dumps(facts.manifest, ensure_ascii=False, indent=2))] if facts.manifest else []
    path = folder / METRICS
    if path.exists():
        text = json.dumps(read_json(path, REMEDY), ensure_ascii=False, indent=2)
        found.append((METRICS, text if len(text) <= MAX_METRICS else f"{len(text):,} characters: read it in the folder itself"))
    fold = '<details><summary>{}</summary><pre tabindex="0">{}</pre></details>'
    return "\n".join(fold.format(name, html.escape(text)) for name, text in found)
