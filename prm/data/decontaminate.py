"""Training questions that an evaluation set contains: question texts in, overlaps out."""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prm.data.hub import read_source
from prm.data.sources import QUESTION_KEYS as FIRST_KEYS
from prm.data.sources import question_text
from prm.files import hash64
from prm.records import Row

NGRAM = 13
"""Words in a row that count as an overlap, as in the GPT-3 paper (Brown et al. 2020, App. C)."""
QUESTION_KEYS = (*FIRST_KEYS, "modified_question")
QUESTION = "question"
"""The kind of match in which the whole question is the same."""

# What LaTeX writes without meaning it: sizes, spaces, fonts, dollar signs, braces.
_NOISE = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad|text|textbf|mathrm|mathbf|mbox|operatorname)(?![a-zA-Z])"
    r"|\\[!,;:> ]|[${}_~]"
)
_SPELLINGS = {
    re.compile(r"\\[dt]frac(?![a-z])"): r"\\frac",
    re.compile(r"\\leq(?:slant)?(?![a-z])"): r"\\le",
    re.compile(r"\\geq(?:slant)?(?![a-z])"): r"\\ge",
    re.compile(r"\\(?:cdot|times)(?![a-z])"): "*",
    re.compile("\N{MINUS SIGN}"): "-",
}
_WORD = re.compile(r"\w+")
_WORD_OR_SIGN = re.compile(r"\w+|[+*/=<>]|(?<![a-z]{2})-|-(?![a-z]{2})")


@dataclass(frozen=True)
class Overlap:
    """A training question, and where an evaluation file has it."""

    question_id: str
    file: str
    row: int
    """Number of the evaluation file's row, from 1."""
    match: str
    """`question` (the same after normalisation) or `13-gram`."""
    text: str
    """The normalised words that both have."""


class EvaluationIndex:
    """All questions and n-grams of evaluation files: sorted 64-bit hashes, each with the files and rows that have it.

    14 bytes an n-gram. Among 10^6 n-grams and as many looked up, two that differ share a hash once in 10^7 times.
    """

    def __init__(self, ngram: int = NGRAM):
        self.ngram, self.paths = ngram, list[str]()
        self.hashes, self.files, self.rows = np.empty(0, np.uint64), np.empty(0, np.uint16), np.empty(0, np.uint32)

    @classmethod
    def from_files(cls, paths: Iterable[str | Path], ngram: int = NGRAM) -> "EvaluationIndex":
        """Raises ValueError, naming the row, where a file has no question."""
        index = cls(ngram)
        hashes, files, rows = array("Q"), array("H"), array("I")
        for path in map(str, paths):
            for number, (row, place) in enumerate(read_source(path), start=1):
                for text in question_texts(row, place):
                    found = [hash64(key) for _, key, _ in index.keys(text)]
                    hashes.extend(found)
                    rows.extend([number] * len(found))
                    files.extend([len(index.paths)] * len(found))
            index.paths.append(path)
        columns = [np.array(column, dtype=column.typecode) for column in (hashes, files, rows)]
        order = np.lexsort(columns[::-1])
        index.hashes, index.files, index.rows = (column[order] for column in columns)
        return index

    def keys(self, question: str) -> Iterator[tuple[str, str, str]]:
        """Of the question and of all its n-grams: kind of match, what is compared, and the words to show."""
        words = normalize_words(question)
        if signs := normalize_question(question):
            yield QUESTION, signs, " ".join(words)
        for start in range(len(words) - self.ngram + 1):
            text = " ".join(words[start : start + self.ngram])
            yield f"{self.ngram}-gram", text, text

    def find(self, question_id: str, question: str) -> list[Overlap]:
        """The first match in every file that has one; the whole question is looked for first."""
        keys = list(self.keys(question))
        hashes = np.array([hash64(key) for _, key, _ in keys], dtype=np.uint64)
        starts, ends = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        found: dict[str, Overlap] = {}
        for (match, _, text), start, end in zip(keys, starts, ends, strict=True):
            for entry in range(start, end):
                path = self.paths[self.files[entry]]
                found.setdefault(path, Overlap(question_id, path, int(self.rows[entry]), match, text))
        return list(found.values())


def question_texts(row: Row, place: str) -> list[str]:
    """Every problem statement of a row; a benchmark that modifies questions has two. Raises ValueError for a row without one."""
    texts = [row[key] for key in QUESTION_KEYS if isinstance(row.get(key), str)]
    return list(dict.fromkeys(texts)) or [question_text(row, place)]


def normalize_words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation, white space, typographic variants and LaTeX's spacing do not count."""
    return _WORD.findall(_plain(text))


def normalize_question(text: str) -> str:
    """Words, numbers and the signs between them, without spaces: `2x + 3` is `$2x+3$`, but not `2x - 3`."""
    return "".join(_WORD_OR_SIGN.findall(_plain(text)))


def _plain(text: str) -> str:
    text = _NOISE.sub(" ", unicodedata.normalize("NFKC", text))
    for pattern, spelling in _SPELLINGS.items():
        text = pattern.sub(spelling, text)
    return text.lower()
