"""Best-of-N by groups of questions: measured curves and every question's source, level or length in, one curve per group out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, MeasuredCurves, curve_of
from prm.data.hub import read_source
from prm.data.shapes import Place
from prm.data.sources import question_text
from prm.records import Row

ID_KEYS = ("question_id", "unique_id", "problem_id", "id", "idx")
NUM_LENGTH_GROUPS = 4
RESPONSE_LENGTH = "response length"


@dataclass(frozen=True)
class QuestionFields:
    """Fields such as source, level or subject, found by a question's id or, for a file with other ids, by its text."""

    by_id: dict[str, Row]
    by_text: dict[str, Row]

    def of(self, question_id: str, text: str | None) -> Row:
        """The fields of a question, none if it is unknown."""
        return self.by_id.get(question_id) or self.by_text.get(_plain(text or ""), {})


def load_question_fields(sources: Iterable[str]) -> QuestionFields:
    """The plain fields (strings, numbers) of rows of question files, candidate pools or rollouts; the first value of one counts."""
    by_id, by_text = {}, {}
    for index, (row, where) in (numbered for source in sources for numbered in enumerate(read_source(source))):
        place = Place(where, index)
        fields = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
        given = [row[name] for name in ID_KEYS if row.get(name) is not None]
        # Records of ours keep an id that is a bare number as it is.
        for question_id in {place.question_id(name) for name in given or [None]} | {str(name) for name in given[:1]}:
            by_id[question_id] = fields | by_id.get(question_id, {})
        if any(isinstance(row.get(name), str) for name in ("question", "problem")):
            text = _plain(question_text(row, where))
            by_text[text] = fields | by_text.get(text, {})
    return QuestionFields(by_id, by_text)


def groups_by_field(
    fields: QuestionFields,
    questions: Sequence[tuple[str, str | None]],
    names: Sequence[str] | None,
    defaults: Sequence[str],
    source: str,
) -> dict[str, list[str]]:
    """The value of each named field for every question (id, text); "unknown" where a question has none.

    Without `names`, those of `defaults` that there are. Raises ValueError if no question is found, or none has a field asked for.
    """
    rows = [fields.of(question_id, text) for question_id, text in questions]
    if not any(rows):
        raise ValueError(f"{source}: holds none of the {len(rows)} questions, such as {questions[0][0]!r}, by id or by text")
    found = {name: [_value(row.get(name)) for row in rows] for name in names or defaults}
    if missing := [name for name in names or () if not any(name in row for row in rows)]:
        known = sorted({name for row in rows for name in row})
        raise ValueError(f"--breakdown {missing[0]}: no question in {source} has that field; they have {', '.join(known)}")
    return {name: values for name, values in found.items() if set(values) != {"unknown"}}


def evaluate_breakdown(measured: MeasuredCurves, groups: Mapping[str, Sequence[str]], config: BestOfNConfig) -> dict[str, Any]:
    """`result[field][value]`: the number of questions, the baselines' curves and the PRMs' Best-of-N curves on those questions."""
    return {
        name: {
            value: _curves_on(measured, np.array([v == value for v in values]), config)
            for value in sorted(set(values), key=_natural)
        }
        for name, values in groups.items()
    }


def length_groups(lengths: Sequence[np.ndarray], unit: str) -> list[str]:
    """Questions in up to `NUM_LENGTH_GROUPS` equal parts by the mean length of their candidates, named after their range."""
    means = np.array([group.mean() for group in lengths])
    edges = np.unique(np.quantile(means, np.linspace(0, 1, NUM_LENGTH_GROUPS + 1)))
    if len(edges) == 1:
        return [f"{edges[0]:.0f} {unit}"] * len(means)
    part = np.clip(np.searchsorted(edges, means, side="right") - 1, 0, len(edges) - 2)
    # .4g would write 12,340 as 1.234e+04.
    named = [f"{edge:.4g}" if edge < 9999.5 else f"{edge:.0f}" for edge in edges]
    return [f"{named[p]} to {named[p + 1]} {unit}" for p in part]


def _curves_on(measured: MeasuredCurves, rows: np.ndarray, config: BestOfNConfig) -> dict[str, Any]:
    node: dict[str, Any] = {"num_questions": int(rows.sum()), "baselines": {}, "prms": {}}
    for place, values in measured.values.items():
        if place[0] == "baselines":
            node["baselines"][place[1]] = curve_of(values[rows], measured.ns, config)
        elif place[-1] == "best_of_n":
            node["prms"].setdefault(place[1], {})[place[2]] = curve_of(values[rows], measured.ns, config)
    return node


def _natural(value: str) -> tuple[int, float, str]:
    """Sort key that orders values by the first number in them ("Level 9" before "Level 10"); values without one come last."""
    digits = "".join(c if c.isdecimal() or c == "." else " " for c in value).split()
    number = next((float(d) for d in digits if d.replace(".", "", 1).isdecimal()), None)
    return (1, 0.0, value) if number is None else (0, number, value)


def _value(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _plain(text: str) -> str:
    return " ".join(text.split())
