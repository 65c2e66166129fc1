"""A page for tests in a browser: an evaluation with what could break one in, its report.html out; and what tests ask of it."""

import json
from pathlib import Path

from prm.benchmarks.page import PageConfig, build_page
from prm.benchmarks.results import Item, write_results
from prm.benchmarks.tables import Table
from prm.figures import new_figure

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><svg onload='window.hacked = 3'>\u2028"
WIDE = Table("Wide " * 30, [["name" * 20, *(f"column {i}" for i in range(30))], ["a", *("0.5" for _ in range(30))]], note="n" * 400)
MISSED = r"Find $\frac{x}{2}$."
ALIGNED = r"\[\begin{aligned} 12345a &= b \\ c &= d \end{aligned}\]"
LONG = f"${' + '.join(map(str, range(1, 15)))}$"
HEBREW = "כמה זה חמש ועוד שלוש?"
NUMBERS = Table(
    "Many", [["", *(f"another_measured_number_{i}" for i in range(8))], ["a long_name of a row", *(["[70.9, 74.7]"] * 8)]]
)
LATER = Table("Later" * 400, [["a"], ["b"]], is_folded=True)
TITLE = "document.querySelector('#response h3')?.textContent"
IDS = "[...document.querySelectorAll('.row')].map((row) => row.querySelector('.name').textContent)"
STATUS = "document.getElementById('status').textContent"


def items():
    """Four kinds of verdicts, then responses with everything that could break a page."""
    rows = [
        Item("missed", "math", MISSED, ["So $x = 2$.", "needle"], [0.9, 0.8], 1, -1, False, 0.8, None, "8", r"\frac{5}{2}"),
        Item("alarm", "gsm8k", "How many?", ["One."], [0.3], -1, 0, True, 0.3),
        Item("hit", "math", "Which?", ["a", ALIGNED], [0.9, 0.1], 1, 1, False, 0.1),
        Item("fine", "gsm8k", "What?", ["b"], [0.95], -1, -1, True, 0.95),
        Item(ATTACK, "math", ATTACK, [ATTACK, "$" + ATTACK + "$", "w" * 3000, r"$x^{2}$" * 200], [0.99] * 4, -1, -1, True, 0.99),
        Item("long", "math", LONG, [f"So {LONG} is one long sum."], [0.98], -1, -1, True, 0.98, None, LONG, LONG),
        Item("errors", "level 10", "Q", ["a", "b", "c", "d"], [0.9, 0.1, 0.2, 0.3], 1, 2, wrong_steps=[1, 2, 3]),
        Item(HEBREW, "more", HEBREW, [HEBREW + " $5 + 3 = 8$.", "So 8."], [0.97] * 2, -1, -1, True, 0.97, None, "שמונה"),
        Item("no steps", "level 2", "", [], [], correct=False, response_score=0.2),
    ]
    return rows + [Item(f"filler {n}", "more", f"Question {n}", ["s"] * 40, [0.97] * 40, -1, -1, True, 0.97) for n in range(147)]


def write_page(folder: Path) -> Path:
    """The path of the page."""
    write_results(folder, {"attack": ATTACK}, [WIDE, NUMBERS, LATER, Table(ATTACK, [[ATTACK], [ATTACK]])], items())
    manifest = {"command": ["eval.py", ATTACK], "model": ATTACK, "items": f"3 of 8 {ATTACK}"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with new_figure(folder / "curve", 12, 3) as figure:
        figure.subplots().plot([0, 1], label=ATTACK)
    (folder / "report.html").write_text(build_page(folder, PageConfig(title=ATTACK)))
    return folder / "report.html"
