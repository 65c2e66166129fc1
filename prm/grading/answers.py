"""What counts as the same answer: a response and a reference in, one status out. The home of Math-Verify.

Decided once, for both sides, whatever Math-Verify would say:

- White space, `$`, `\\$` and `\\!` do not matter.
- Thousands may be set apart by a comma, `{,}`, `\\,` or a blank (1,000 = 1 000 = 1000); in a list (1,2,3) a comma stays.
- A percent sign is dropped: 10% equals 10, not 0.1.
- Units do not matter (5 cm = 5 m = 5): words behind a number are dropped here unless they change it (5 million, 2 pi), units in
  `\\text{}` and abbreviations by Math-Verify.

The rest is Math-Verify's judgement, with its tolerances: numbers agree to six decimals (0.333333 = 1/3, 1/2^99 = 1/2^98), and a
base written as a subscript is not read (2516_8 = 2516_9).
"""

import logging
import re
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

from prm.records import clean_text

# It warns whenever its own timeout is off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

Grade = Literal["correct", "wrong", "no_answer", "timeout", "unparsable"]
GRADES: tuple[Grade, ...] = ("correct", "wrong", "no_answer", "timeout", "unparsable")
"""Only the first two are outcome labels; a response with any other grade is unlabelled (`correct` is null), never wrong."""

MAX_TAIL = 20_000
"""Characters at the end of a response in which its box is looked for."""

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"^(-?\d{1,3}(?:(?:,| |\\,)\d{3})+)(?![\d,])(?=[^,;]*$)")
_WORDS_BEHIND = re.compile(r"^([-+]?\d[\d.]*(?:/\d+)?) ((?:[A-Za-z]{3,} ?)+)\.?$")
_PART_OF_VALUE = re.compile(
    r"\b(and|or|mod|sqrt|root|sin|cos|tan|cot|sec|csc|log|exp|inf|infinity|hal(f|ves)|thirds?|quarters?|dozen|hundreds?|thousands?"
    r"|[mb]illions?|trillions?|squared|cubed|factorial|choose|times|plus|minus|over)\b",
    re.IGNORECASE,
)
"""Words behind a number that are no unit."""


class Pair(NamedTuple):
    """A reference answer and the answer of a response, both normalised."""

    gold: str
    answer: str


def extract_boxed(text: str) -> str | None:
    r"""Content of the last balanced `\boxed{...}`, the inner one of a nested pair; None without one. Linear in time."""
    text = text[-MAX_TAIL:]
    open_braces: list[int] = []
    box_start, box_end = -1, -1
    for token in _BOX_OR_BRACE.finditer(text):
        if token.group() == "}":
            start = open_braces.pop() if open_braces else -1
            if start > box_start:
                box_start, box_end = start, token.start()
        elif token.group().endswith("{") and token.group() != r"\{":
            open_braces.append(token.end() if token.group().startswith("\\") else -1)
    return text[box_start:box_end] if box_start >= 0 else None


def normalize_answer(answer: str) -> str:
    """One spelling for what never distinguishes two answers (see the module's opening)."""
    answer = clean_text(answer).replace("\\$", "").replace("$", "").replace("\\!", "").replace("{,}", ",")
    answer = " ".join(answer.replace("\\%", "").replace("%", "").split())
    answer = _THOUSANDS.sub(lambda number: re.sub(r"\\,|[ ,]", "", number.group()), answer)
    words = _WORDS_BEHIND.match(answer)
    return words.group(1) if words and not _PART_OF_VALUE.search(words.group(2)) else answer


def extract_answer(response: str) -> str | None:
    r"""The normalised content of the last balanced box; None if there is no box or nothing in it."""
    boxed = extract_boxed(response)
    return normalize_answer(boxed) or None if boxed is not None else None


def reference_answer(answer: str) -> str:
    r"""The normalised reference; a reference given as a whole solution is read from its box."""
    boxed = extract_boxed(answer)
    return normalize_answer(answer if boxed is None else boxed)


def compare(pair: Pair) -> str:
    gold = _read_gold(pair.gold)
    if not gold:
        return "bad_gold"
    if pair.gold == pair.answer:
        return "correct"
    return judge(gold, read_answer(pair.answer))


def judge(gold: list[Any], answer: list[Any]) -> str:
    """Status of what `read_answer` made of both."""
    from math_verify import verify

    # Gold first: the comparison is not symmetric.
    if verify(gold, answer, timeout_seconds=None):
        return "correct"
    return "wrong" if any(not isinstance(value, str) for value in answer) else "unparsable"


def read_answer(answer: str) -> list[Any]:
    """What Math-Verify reads: expressions and, as a fallback, the text itself; empty if nothing."""
    from math_verify import parse

    return parse(f"\\boxed{{{answer}}}", _extraction(), parsing_timeout=None)


@cache
def _extraction() -> tuple[Any, ...]:
    """Math-Verify is loaded by the first answer it reads: what asks for boxes alone, as scoring does, runs without it."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()


_read_gold = lru_cache(maxsize=256)(read_answer)
