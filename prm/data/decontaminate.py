"""Training questions that an evaluation set contains: question texts in, overlaps out."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prm.data.sources import load_question_texts

NGRAM = 13
"""Words in a row that count as an overlap, as in the GPT-3 paper (Brown et al. 2020, App. C)."""


@dataclass(frozen=True)
class Overlap:
    """A training question, and where an evaluation file has it."""

    question_id: str
    file: str
    match: str
    """`question` (the same after normalisation) or `13-gram`."""
    text: str
    """The normalised words that both have."""


@dataclass
class EvaluationIndex:
    """All questions and all 13-grams of the evaluation files, each with the file that has it."""

    questions: dict[str, str] = field(default_factory=dict)
    ngrams: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_files(cls, paths: Iterable[str | Path]) -> "EvaluationIndex":
        index = cls()
        for path in paths:
            for text in load_question_texts(path):
                words = normalize_words(text)
                index.questions.setdefault(" ".join(words), str(path))
                for ngram in _ngrams(words):
                    index.ngrams.setdefault(ngram, str(path))
        return index

    def find(self, question_id: str, question: str) -> Overlap | None:
        words = normalize_words(question)
        text = " ".join(words)
        if text in self.questions:
            return Overlap(question_id, self.questions[text], "question", text)
        for ngram in _ngrams(words):
            if ngram in self.ngrams:
                return Overlap(question_id, self.ngrams[ngram], f"{NGRAM}-gram", ngram)
        return None


def normalize_words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation, white space and typographic variants do not count."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def _ngrams(words: list[str]) -> Iterator[str]:
    return (" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1))
