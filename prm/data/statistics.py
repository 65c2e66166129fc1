"""What a dataset holds: one question's responses after the other in; counts, quantiles and a table out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prm.records import Response

QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}
MEASURES = ("pass_rate", "steps", "tokens")


@dataclass
class Statistics:
    """Counts of values, so that quantiles are exact and memory does not grow with the number of responses."""

    questions: int = 0
    with_step_labels: int = 0
    outcomes: Counter[bool | None] = field(default_factory=Counter)
    pass_rate: Counter[float] = field(default_factory=Counter)
    """Questions by their share of right answers; those without an outcome are absent."""
    steps: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)

    def add_question(self, responses: Sequence[Response], num_tokens: Sequence[int] = ()) -> None:
        """All responses of one question, and how many tokens each has if that is known."""
        self.questions += 1
        self.with_step_labels += sum(response.step_labels is not None for response in responses)
        self.outcomes.update(response.correct for response in responses)
        self.steps.update(len(response.steps) for response in responses)
        self.tokens.update(num_tokens)
        if (rate := pass_rate(responses)) is not None:
            self.pass_rate[round(rate, 6)] += 1

    @property
    def responses(self) -> int:
        return self.outcomes.total()

    def summary(self) -> dict[str, Any]:
        """Numbers for the manifest; None for what no response has."""
        labelled = self.outcomes[True] + self.outcomes[False]
        return {
            "questions": self.questions,
            "responses": self.responses,
            "share_correct": self.outcomes[True] / labelled if labelled else None,
            "with_step_labels": self.with_step_labels,
            "steps_mean": mean(self.steps) or 0.0,
            "steps_max": max(self.steps, default=0),
            **{name: distribution(getattr(self, name)) for name in MEASURES},
        }


def pass_rate(responses: Sequence[Response]) -> float | None:
    """Share of right answers among one question's labelled responses, repeats included; None without an outcome."""
    outcomes = [response.correct for response in responses if response.correct is not None]
    return sum(outcomes) / len(outcomes) if outcomes else None


def mean(counts: Counter[Any]) -> float | None:
    return sum(value * count for value, count in counts.items()) / counts.total() if counts else None


def distribution(counts: Counter[Any]) -> dict[str, float] | None:
    """Mean and quantiles: the smallest value that at least this share of the values does not exceed. None without values."""
    if not counts:
        return None
    values, total, below = sorted(counts), counts.total(), 0
    found: dict[str, float] = {"mean": mean(counts)}
    remaining = list(QUANTILES.items())
    for value in values:
        below += counts[value]
        while remaining and below >= remaining[0][1] * total:
            found[remaining.pop(0)[0]] = value
    return found


def table(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of cells: a column for every summary, then a row of quantiles for each of its measures."""
    counts = [["", *summaries]]
    for name, form in {"questions": "d", "responses": "d", "with_step_labels": "d", "share_correct": ".3f"}.items():
        counts.append([name.replace("_", " "), *(cell(summary[name], form) for summary in summaries.values())])
    for measure, form in {"pass_rate": ".3g", "steps": ".4g", "tokens": ".4g"}.items():
        for quantile in ("mean", *QUANTILES):
            values = [(summary[measure] or {}).get(quantile) for summary in summaries.values()]
            if any(value is not None for value in values):
                counts.append([f"{measure.replace('_', ' ')}, {quantile}", *(cell(value, form) for value in values)])
    return counts


def cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
