"""Best-of-N put to use: candidates and their step scores in, one response per question out. No outcome is needed, or looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from prm import metrics
from prm.aggregation import Aggregation, aggregate_lists, is_signed
from prm.benchmarks.results import Item, response_item
from prm.benchmarks.score_files import check_keys
from prm.benchmarks.tables import Table
from prm.grading import extract_answer, normalize_answer
from prm.records import Key, Response, StepScores
from prm.steps import join_steps

Method = Literal["best_of_n", "weighted_vote", "majority_vote"]
METHODS = {
    "best_of_n": "the best score",
    "weighted_vote": "a vote weighted by scores",
    "majority_vote": "a majority vote, of the responses with its answer the best score",
}
CHOSEN, OTHERS = "chosen", "other candidates"


@dataclass(frozen=True)
class Choice:
    """The candidates of a question in sample order, and which of them stands for all."""

    candidates: list[Response]
    step_scores: list[list[float]]
    """Empty for a candidate that the PRM could not read."""
    response_scores: Float[np.ndarray, " candidates"]
    """nan for those."""
    answers: list[str | None]
    chosen: int
    vote_share: float | None
    """Of a vote, the part that the chosen answer got; None without a vote."""

    def row(self, texts: Mapping[Key, str]) -> dict[str, Any]:
        """The choice as a row of a file; `texts` has responses as they were sampled, where they are known."""
        response, score = self.candidates[self.chosen], self.response_scores[self.chosen]
        return {
            "question_id": response.question_id,
            "sample_index": response.sample_index,
            "question": response.question,
            "response": texts.get(response.key, join_steps(response.steps)),
            "extracted": self.answers[self.chosen],
            "response_score": None if np.isnan(score) else float(score),
            "vote_share": self.vote_share,
            "num_candidates": len(self.candidates),
        }


def choose(
    prm: str,
    records: Sequence[StepScores],
    responses: Sequence[Response],
    aggregation: Aggregation,
    method: Method = "best_of_n",
    num_candidates: int | None = None,
) -> list[Choice]:
    """One choice per question, in the order of the questions, from its first `num_candidates` samples.

    `best_of_n` takes the best-scored response, of equals the first. A vote takes the answer with most votes (of equals the one that
    came first), and of the responses with that answer the best-scored one; `weighted_vote` weights each response's vote by its
    score, `majority_vote` counts it as one. Where no candidate has an answer, a vote takes the best-scored response. Responses that
    the PRM could not read rank behind all others and have no weight.

    Raises ValueError for scores of other responses, for signed scores in a weighted vote, and as `aggregate_lists` does.
    """
    scores = {record.key: record.step_scores for record in records}
    check_keys(prm, scores, {response.key for response in responses}, "the rollouts")
    if not scores:
        raise ValueError(f"{prm}: not one of the {len(responses)} responses has scores; the PRM could read none of them")
    signed = is_signed(scores.values())
    if signed and method == "weighted_vote":
        raise ValueError(f"{prm}: its scores leave [0, 1], and signed scores are no weights; choose by best_of_n or majority_vote")
    values = dict(zip(scores, aggregate_lists(list(scores.values()), aggregation.name, aggregation.tau, signed), strict=True))
    order = {question_id: place for place, question_id in enumerate(dict.fromkeys(r.question_id for r in responses))}
    in_order = sorted(responses, key=lambda r: (order[r.question_id], r.sample_index))
    questions = [list(group) for _, group in groupby(in_order, key=lambda r: r.question_id)]
    return [_choose(group[:num_candidates], scores, values, method) for group in questions]


def _choose(candidates: list[Response], scores: Mapping[Key, list[float]], values: Mapping[Key, float], method: Method) -> Choice:
    own = np.array([values.get(response.key, np.nan) for response in candidates])
    ranked = np.where(np.isnan(own), -np.inf, own)
    answers = [r.extracted if r.extracted is not None else extract_answer(join_steps(r.steps)) for r in candidates]
    chosen, share = int(ranked.argmax()), None
    numbers = metrics.group_answers(answers, normalize_answer)
    if method != "best_of_n" and (numbers >= 0).any():
        weights = np.ones(len(own)) if method == "majority_vote" else np.nan_to_num(own)
        winner, share = _vote(numbers, weights)
        chosen = int(np.where(numbers == winner, ranked, -np.inf).argmax())
        if numbers[chosen] != winner:  # none of them could be read
            chosen = int((numbers == winner).argmax())
    return Choice(candidates, [scores.get(r.key, []) for r in candidates], own, answers, chosen, share)


def _vote(numbers: Int[np.ndarray, " candidates"], weights: Float[np.ndarray, " candidates"]) -> tuple[int, float]:
    """The answer with most votes and its share of them; nobody votes for no answer."""
    votes = np.bincount(numbers[numbers >= 0], weights[numbers >= 0])
    # Shares, since votes may all be as small as the rounding errors of larger ones: products over many steps are.
    shares = votes / (votes.sum() or 1.0)
    winner = metrics.first_of_highest(shares)
    return winner, float(shares[winner])


def choice_items(choices: Sequence[Choice], num_per_question: int) -> Iterator[Item]:
    """The chosen response of every question and the best-scored others, as many as are to be looked at."""
    for choice in choices:
        ranked = np.argsort(-np.nan_to_num(choice.response_scores, nan=-np.inf), kind="stable").tolist()
        places = [choice.chosen, *(place for place in ranked if place != choice.chosen)][:num_per_question]
        for place in sorted(place for place in places if choice.step_scores[place]):
            group, score = CHOSEN if place == choice.chosen else OTHERS, float(choice.response_scores[place])
            yield response_item(choice.candidates[place], choice.step_scores[place], score, None, group)


def summarize_choices(choices: Sequence[Choice]) -> dict[str, int | float | None]:
    """What was chosen from, and what the PRM thinks of it; None where there is nothing to average."""
    everyone = np.concatenate([choice.response_scores for choice in choices])
    chosen = np.array([choice.response_scores[choice.chosen] for choice in choices])
    shares = np.array([choice.vote_share for choice in choices if choice.vote_share is not None])
    return {
        "num_questions": len(choices),
        "num_candidates": len(everyone),
        "num_unscored": int(np.isnan(everyone).sum()),
        "num_without_answer": sum(answer is None for choice in choices for answer in choice.answers),
        "mean_score": _mean(everyone),
        "mean_score_of_chosen": _mean(chosen),
        "mean_vote_share": _mean(shares),
    }


def _mean(values: Float[np.ndarray, " _"]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def choice_table(
    summary: Mapping[str, int | float | None], prm: str, aggregation: Aggregation, method: Method, constant_scores: Sequence[str]
) -> Table:
    """`summarize_choices` as a table; `constant_scores` are `constant_notes` of the step scores."""
    head = ["", "questions", "candidates", "without scores", "without an answer", "mean score", "of the chosen", "vote share"]
    cells = ["-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}" for value in summary.values()]
    notes = [f"by {METHODS[method]}; scores are the {aggregation} of step scores", *constant_scores]
    return Table("Chosen responses", [head, [prm, *cells]], "\n".join(notes))
