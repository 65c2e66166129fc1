import json

import pytest

from prm.benchmarks.page.mathml import MAX_DEPTH, MAX_LATEX, to_mathml
from prm.benchmarks.page.maths import Formula, to_plain_text, typeset, typeset_answer


def sources(text):
    return [piece.source for piece in typeset(text) if isinstance(piece, Formula)]


def test_a_formula_by_hand():
    (row,) = to_mathml(r"\frac{x}{2} < 3")
    assert row == ["mrow", ["mfrac", ["mrow", ["mi", "x"]], ["mrow", ["mn", "2"]]], ["mo", "<"], ["mn", "3"]]


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Let $x$ be.", ["$x$"]),
        (r"So \(x\) and \[y\] and $$z$$.", [r"\(x\)", r"\[y\]", "$$z$$"]),
        (r"\begin{align*} a &= b \\[2pt] c &= d \end{align*} so", [r"\begin{align*} a &= b \\[2pt] c &= d \end{align*}"]),
        ("She makes $18-$3=$15, from $5 and $10.", []),
        ("It costs $20 dollars each, so it is 20$.", []),
        (r"It costs \$5 and 6\$, $n = 3$.", ["$n = 3$"]),
        ("It costs $5, so $x$ is $5^2$.", ["$x$", "$5^2$"]),
        (r"I have $5 and \(x = 3\) and $6.", [r"\(x = 3\)"]),
        (r"Of $5, \[5 - 2 = 3\] are left, and $x_1$ is $3.", [r"\[5 - 2 = 3\]", "$x_1$"]),
        ("She spent $20 on a_1 and $30 on b.", []),
        ("Two costs_of $20 for each and $x$", ["$x$"]),
        (r"It was $3\cdot 4 = $12 in total.", []),
        (r"$abc \cdot de$, $x \text{ is below } y$.", [r"$abc \cdot de$", r"$x \text{ is below } y$"]),
        (r"$\emph{long side} = $ and", [r"$\emph{long side} = $"]),
        ("$ x_1 $ and $ y$", ["$ x_1 $"]),
        ("$a\n\nb$", []),
        (r"open \( and $x", []),
        (r"$\text{if \$5}$", [r"$\text{if \$5}$"]),
        (r"bare \boxed{7}", [r"\boxed{7}"]),
        (r"bare \boxed{\frac{\sqrt{2}}{2}}, $x = \boxed{8}$.", [r"\boxed{\frac{\sqrt{2}}{2}}", r"$x = \boxed{8}$"]),
        (r"\boxed{ open, \boxed{\$5}, \boxed{$6}, \boxed{\}", [r"\boxed{\$5}"]),
        (r"Your answer within \boxed{}.", []),
        (r"$\frac{$ then $y$", ["$y$"]),
        ("$$$$$$$", []),
        ("$$", []),
        ("", []),
    ],
)
def test_what_is_maths_and_what_is_money(text, formulas):
    assert sources(text) == formulas
    assert "".join(p if isinstance(p, str) else p.source for p in typeset(text)) == text


def test_the_code_of_a_drawing_is_a_piece_of_its_own():
    text = "See [asy]label($x$);[/asy] and $y$ [asy] left open $z$"
    assert [p if isinstance(p, str) else p.source for p in typeset(text)] == [
        *("See ", "[asy]label($x$);[/asy]", " and ", "$y$", " [asy] left open ", "$z$")
    ]
    assert to_plain_text(typeset(text)) == "See and y [asy] left open z"


def test_display_and_inline():
    pieces = typeset(r"$x$\[x\]$$x$$\begin{equation}x\end{equation}\(x\)")
    assert [p.is_display for p in pieces] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac{1}",
        r"\left( x",
        "{" * 500,
        r"\begin{matrix} a",
        "x^2^3",
        r"\unknown{x}",
        r"\newcommand{\a}{\a\a}\a",
        r"\def\a{\a\a}\a",
        r"\color",
        r"\genfrac",
        "x" * (MAX_LATEX + 1),
        "{" * MAX_DEPTH + "x" + "}" * MAX_DEPTH,
        r"\sqrt{" * 200 + "x" + "}" * 200,
        "",
        " ",
    ],
)
def test_what_cannot_be_typeset_stays_text(latex):
    assert to_mathml(latex) is None
    assert sources(f"see ${latex}$.") == []


def test_hostile_maths_takes_bounded_time():
    """Linear in the text: 400,000 delimiters without partner, and formulas of the greatest length that are all parentheses."""
    formulas = (r"\left(" * 600, "a_b^" * 999, r"\frac{" * 600)
    for text in (
        "[asy]" * 90_000,
        r"\[" * 200_000,
        "$" * 200_000 + "x",
        r"\begin{align}" * 20_000,
        *(f"${latex}$" for latex in formulas),
        r"\boxed{" * 60_000,
        (r"\boxed{" + "x" * 400) * 1_000,
    ):
        assert sources(text) == []


def tags_and_attributes(tree):
    for part in tree[1:]:
        if isinstance(part, dict):
            yield from part.items()
        elif isinstance(part, list):
            yield part[0], None
            yield from tags_and_attributes(part)


def test_markup_from_latex_is_text_and_harmful_attributes_are_dropped():
    attack = r"\href{javascript:alert(1)}{x} \style{position:fixed}{y} \class{big}{z} \text{<img src=x onerror=alert(1)>}"
    tree = ["math", *to_mathml(attack)]
    found = dict(tags_and_attributes(tree))
    assert "img" not in found
    assert not {"href", "style", "src", "onerror"} & found.keys()
    assert found.get("class") is None
    assert "<img" in json.dumps(tree)


def test_no_formula_covers_what_stands_beside_it():
    tree = to_mathml(r"x \hspace{-99em} y \hspace{2em} z")
    assert [part for part in tags_and_attributes(["math", *tree]) if part[0] == "width"] == [("width", "2em")]


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", ["mtr", "mtr"]),
        (r"a \\ b \\ c", ["mtr", "mtr", "mtr"]),
        (r"\begin{gather*} a \\ b \end{gather*}", ["mtr", "mtr"]),
    ],
)
def test_lines_become_rows(latex, expected):
    assert [name for name, _ in tags_and_attributes(["math", *to_mathml(latex, True)]) if name == "mtr"] == expected


def test_spacing_that_the_browser_would_get_wrong():
    (row,) = to_mathml(r"2 \sin x \pm (-1)")
    assert row[2] == ["mspace", {"width": "0.167em"}]
    assert row[3][-1] == "sin"
    assert ["mo", "±"] in row
    assert ["mo", {"form": "prefix"}, "−"] in row
    assert to_mathml("1{,}000")[0] == ["mrow", ["mn", "1"], ["mtext", ","], ["mn", "000"]]
    assert to_mathml(r"\boxed{7}")[0][1][:2] == ["mrow", {"class": "boxed"}]


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\overline{23}", ["mrow", {"class": "over"}, ["mrow", ["mn", "23"]]]),
        (r"\underline{ab}", ["mrow", {"class": "under"}, ["mrow", ["mi", "a"], ["mi", "b"]]]),
        (r"\widehat{AB}", ["mrow", {"class": "hat"}, ["mrow", ["mi", "A"], ["mi", "B"]]]),
        (r"\hat{x}", ["mover", {"accent": "true"}, ["mrow", ["mi", "x"]], ["mo", "^"]]),
        (r"\lim_x", ["munder", ["mo", {"movablelimits": "true"}, "lim"], ["mi", "x"]]),
        (r"\max_x", ["munder", ["mo", {"movablelimits": "true"}, "max"], ["mi", "x"]]),
        (r"x_1", ["msub", ["mi", "x"], ["mn", "1"]]),
        (r"\infty", ["mi", "∞"]),
        (r"\setminus", ["mo", "∖"]),
    ],
)
def test_what_browsers_would_set_badly_is_spelled_otherwise(latex, expected):
    assert to_mathml(latex) == [["mrow", expected]]


def test_a_decimal_dot_has_no_room_around_it():
    assert to_mathml("1 . 5") == [["mrow", ["mn", "1"], ["mo", {"lspace": "0", "rspace": "0"}, "."], ["mn", "5"]]]


def test_the_bars_of_a_determinant_stretch_whatever_stands_beside():
    bar, table = (lambda form: ["mo", {"form": form, "stretchy": "true"}, "|"]), ["mtable", ["mtr", ["mtd", ["mi", "a"]]]]
    determinant = r"\begin{vmatrix} a \end{vmatrix}"
    (row,) = to_mathml(f"= {determinant} = 5")
    assert row[2:5] == [bar("prefix"), table, bar("postfix")]
    (row,) = to_mathml(determinant + "^2")
    assert row[1][1] == ["mrow", bar("prefix"), table, bar("postfix")]
    (row,) = to_mathml(r"\begin{Vmatrix} a \end{Vmatrix} |x|")
    assert [part[1].get("form") for part in row[1:] if part[0] == "mo"] == ["prefix", "postfix", None, None]


def test_a_box_that_stands_alone_may_hold_words():
    (piece,) = typeset(r"\boxed{43 minutes}")
    assert ["mtext", "43\u00a0minutes"] in piece.tree[0][1][2]
    assert to_plain_text(typeset(r"\boxed{4x}, $0.\overline{36}$")) == "4x, 0.36‾"


@pytest.mark.parametrize(
    "latex",
    [
        r"f(x) = \left\{ \begin{array}{cl} -x & x > 3 \\ y & x < 4. \end{array} \right.",
        r"\begin{vmatrix} a & b \\ c & d \end{vmatrix}^2",
        r"\begin{array}{@{}c@{\;}c} 6 & 7 \\ \cline{1-2} 5 & 2 \end{array}",
        r"\mathop{\text{lcm}}[a,b]",
        r"\arg(1 + i) = \sum_{i=1}^{n} \binom{n}{i} \overline{AB} \cdot \vec{v}",
    ],
)
def test_what_solutions_hold_is_typeset(latex):
    assert to_mathml(latex, True)


def test_plain_text_for_the_list():
    assert to_plain_text(typeset("Is $\\frac{x^2}{3} > \\sqrt{2}$\nat $90^\\circ$?")) == "Is x^2/3>√2 at 90°?"
    assert to_plain_text(typeset(r"If\[x = 2\]is, then $$y$$.")) == "If x=2 is, then y."


def test_real_solutions_are_typeset(real_data):
    """Every formula between dollars in MATH-500's solutions is set, but for a few."""
    rows = [json.loads(line) for line in (real_data / "math500.jsonl").read_text().splitlines()[:120]]
    pieces = [piece for row in rows for piece in typeset(row["solution"])]
    formulas = [piece for piece in pieces if isinstance(piece, Formula)]
    left = sum(piece.count("$") - piece.count(r"\$") for piece in pieces if isinstance(piece, str) and "[asy]" not in piece)
    assert len(formulas) > 800
    assert left < 8


@pytest.mark.parametrize("answer", ["some_name here", r"\frac12 or 3", "Evelyn_Smith and Bob", "Evelyn_Smith", "5", "x = 3"])
def test_an_answer_in_words_keeps_them(answer):
    assert to_plain_text(typeset_answer(answer)) == answer


@pytest.mark.parametrize("answer", [r"\frac{1}{2}", "x^2", "a_1", r"\text{no solution}", r"3\sqrt{2}", "10^{-3}", r"[0, \infty)"])
def test_an_answer_in_latex_is_a_formula(answer):
    (formula,) = typeset_answer(answer)
    assert isinstance(formula, Formula)


def test_dollars_of_an_answer_are_not_shown():
    (formula,) = typeset_answer(r"$\frac{1}{2}$")
    assert formula.source == r"$\frac{1}{2}$"


def test_a_bare_box_of_words_keeps_their_spaces():
    assert to_plain_text(typeset(r"So \boxed{a_1 is prime}.")) == "So a_1 is prime."
