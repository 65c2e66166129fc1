"""Maths in text: text with LaTeX in, plain pieces and typeset formulas (trees of MathML) out.

Responses come from a model and may hold anything: whatever cannot be typeset stays text as it was written.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prm.benchmarks.page.mathml import Tree, to_mathml


@dataclass(frozen=True, slots=True)
class Formula:
    """A typeset formula and what stood in the text, with delimiters."""

    source: str
    is_display: bool
    tree: Tree


ENVIRONMENTS = "equation|align|aligned|alignat|gather|gathered|multline|eqnarray|split|cases|[bBpvV]?matrix|array"
# A box closed by its own brace, with a few levels of others within.
INSIDE = r"(?:\\[\s\S]|[^{}$\\])"
for _ in range(4):
    INSIDE = rf"(?:\\[\s\S]|[^{{}}$\\]|\{{{INSIDE}*+\}})"
BOXED = rf"\\boxed\{{(?!\s*\}}){INSIDE}*+\}}"
DELIMITER = re.compile(rf"\\(?:begin|end)\{{(?:{ENVIRONMENTS})\*?\}}|{BOXED}|\\[\\$]|\\[()\[\]]|\$\$|\$")
DRAWING = ("[asy]", "[/asy]")
PARENTHESES = (r"\(", r"\)", r"\[", r"\]")
CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
COMMAND = re.compile(r"\\[a-zA-Z]|[\^_]")
PROSE = re.compile(r"[A-Za-z]{3,}\s+[A-Za-z]{2,}")
# What makes an answer LaTeX: a command, or an index of a number, a group or a single letter; and what makes it words.
BARE_LATEX = re.compile(r"\\[a-zA-Z]|[\^_][\d{(-]|(?<![A-Za-z])[A-Za-z][\^_]")
SPACED_WORD = re.compile(r"\s[A-Za-z]{2,}|[A-Za-z]{2,}\s")
UNFINISHED = re.compile(r"[=+*/<-]$")
# Names of commands, and words that are set as words: no prose, whatever they say.
NAMES = re.compile(r"\\(?:text[a-z]*|mbox|emph|mathrm|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")


def typeset(text: str) -> list[str | Formula]:
    r"""The text in order, with what stands in `$`, `$$`, `\(`, `\[` or a maths environment as formulas, if they can be typeset; and
    a `\boxed{...}` that stands alone.

    Dollars are also money: between single ones stands no formula if it reads as prose or holds a formula, or where a sum of money
    follows. Code of a drawing, `[asy] ... [/asy]`, is a piece of its own.
    """
    pieces: list[str | Formula] = []
    for part in _drawings(text):
        pieces += [part] if part.startswith(DRAWING[0]) else _typeset(part)
    return pieces


def _drawings(text: str) -> Iterator[str]:
    """The text in order, cut where the code of a drawing begins and ends."""
    done = 0
    while (start := text.find(DRAWING[0], done)) >= 0 and (end := text.find(DRAWING[1], start)) >= 0:
        end += len(DRAWING[1])
        yield from (part for part in (text[done:start], text[start:end]) if part)
        done = end
    if done < len(text):
        yield text[done:]


def _typeset(text: str) -> list[str | Formula]:
    pieces: list[str | Formula] = []
    done = 0
    for start, end, latex, is_display in _candidates(text):
        if tree := to_mathml(latex, is_display):
            pieces += [text[done:start]] * (start > done) + [Formula(text[start:end], is_display, tree)]
            done = end
    return pieces + [text[done:]] * (done < len(text))


def typeset_answer(answer: str) -> list[str | Formula]:
    """An answer, whose LaTeX stands without delimiters; one without any, or with words, is text as it was written."""
    is_latex = BARE_LATEX.search(answer) and "$" not in answer and not SPACED_WORD.search(NAMES.sub(r"\\", answer))
    tree = to_mathml(answer) if is_latex else None
    return [Formula(f"${answer}$", False, tree)] if tree else typeset(answer)


def to_plain_text(pieces: Sequence[str | Formula]) -> str:
    """One line in which formulas are spelled by their characters, for lists of responses."""
    pieces = [piece for piece in pieces if not (isinstance(piece, str) and piece.startswith(DRAWING[0]))]
    line = "".join(piece if isinstance(piece, str) else _spell_formula(piece) for piece in pieces)
    return " ".join(re.sub(r"\n(?=[.,;:?!])", "", line).replace("^∘", "°").split())


def _candidates(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """Start, end, LaTeX and kind of what may be a formula, without overlaps; linear in the length of the text."""
    tokens = list(DELIMITER.finditer(text))
    closers = _closers([token[0] for token in tokens])
    done = 0
    for index, (token, closer) in enumerate(zip(tokens, closers, strict=True)):
        if token.start() < done:
            continue
        if token[0].startswith(r"\boxed"):
            yield token.start(), token.end(), _boxed_words(token[0]), False
            done = token.end()
        if closer is None:
            continue
        end = tokens[closer]
        latex, after = text[token.end() : end.start()], text[end.end() : end.end() + 1]
        if token[0] == "$" and not _is_formula(latex, after, tokens[index + 1 : closer]):
            continue
        is_environment = token[0].startswith(r"\begin")
        yield token.start(), end.end(), text[token.start() : end.end()] if is_environment else latex, token[0] not in ("$", r"\(")
        done = end.end()


def _boxed_words(latex: str) -> str:
    """A box of words, which without its dollars may be no LaTeX: they are words in it as well."""
    inside = latex.removeprefix(r"\boxed{").removesuffix("}")
    is_words = SPACED_WORD.search(inside) or (re.search("[A-Za-z]{2}", inside) and not re.search(r"[\^_{]", inside))
    return rf"\boxed{{\text{{{inside}}}}}" if is_words and "\\" not in inside else latex


def _closers(tokens: Sequence[str]) -> list[int | None]:
    """Of each delimiter, the index of the next one that can close it."""
    closers: list[int | None] = []
    following: dict[str, int] = {}
    for index in reversed(range(len(tokens))):
        token = tokens[index]
        closing = token.replace(r"\begin", r"\end") if token.startswith(r"\begin") else CLOSING.get(token)
        closers.append(following.get(closing))
        following[token] = index
    return closers[::-1]


def _is_formula(latex: str, after: str, between: Sequence[re.Match[str]]) -> bool:
    """Whether a formula, rather than money and prose, stands between two dollars and before `after`."""
    if not latex.strip() or "\n\n" in latex or "$" in latex.replace(r"\$", ""):
        return False
    if any(token[0] in PARENTHESES for token in between) or after.isdigit() or PROSE.search(NAMES.sub(r"\\", latex)):
        return False
    is_loose = latex[0].isspace() or latex[-1].isspace() or UNFINISHED.search(latex)
    return COMMAND.search(latex) is not None or not is_loose


def _spell_formula(formula: Formula) -> str:
    """A displayed one has lines of its own."""
    spelled = "".join(map(_spell, formula.tree))
    return f"\n{spelled}\n" if formula.is_display else spelled


def _spell(tree: Tree | str) -> str:
    if isinstance(tree, str):
        return tree
    parts = [_spell(part) for part in tree[1:] if not isinstance(part, dict)]
    joint = {"mfrac": "/", "msup": "^", "msub": "_", "mtr": " ", "mtable": "; "}.get(tree[0], "")
    over = "‾" if {"class": "over"} in tree else ""
    return {"msqrt": "√", "mroot": "√", "mspace": " "}.get(tree[0], "") + joint.join(parts) + over
