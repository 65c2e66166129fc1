"""What a PRM makes of the same response in other steps: responses and a scorer in; changes of scores, AUC and Best-of-N out.

Each perturbation keeps what is said: merging and splitting move the borders of steps, a filler adds a step that says nothing. A PRM
that judges content hardly changes its scores, and does not change its choices.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from prm import metrics
from prm.benchmarks.calibration.evaluate import CalibrationConfig
from prm.benchmarks.calibration.scored_steps import UNKNOWN, ScoredResponses, join_scores
from prm.benchmarks.results import without_nan
from prm.records import Response, StepScores
from prm.steps import join_steps

FILLER = "Let me think about this."
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
ENUMERATION = re.compile(r"\W*\d+\.")
Score = Callable[[str, list[Response]], Iterable[StepScores]]
"""The name of a perturbation and the perturbed responses in, their scores out; what cannot be scored is left out."""


def merge_neighbours(steps: Sequence[str]) -> list[str]:
    """Every two steps as one, from the start; an odd last one stays."""
    return [join_steps(steps[start : start + 2]) for start in range(0, len(steps), 2)]


def split_sentences(steps: Sequence[str]) -> list[str]:
    """Every sentence as a step. The number of an enumeration ("1. Add") is no sentence."""
    found = []
    for step in steps:
        pieces = [piece for piece in SENTENCE_END.split(step) if piece.strip()]
        for index, piece in enumerate(pieces):
            if index and ENUMERATION.fullmatch(pieces[index - 1]):
                found[-1] += " " + piece
            else:
                found.append(piece)
    return found


def insert_filler(steps: Sequence[str]) -> list[str]:
    """`FILLER` as a step between any two steps, and before a lone one."""
    if len(steps) == 1:
        return [FILLER, *steps]
    return [text for step in steps[:-1] for text in (step, FILLER)] + list(steps[-1:])


PERTURBATIONS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "merge": merge_neighbours,
    "split": split_sentences,
    "filler": insert_filler,
}


def check_perturbations(names: Sequence[str]) -> None:
    """Raises ValueError for an unknown name."""
    if unknown := [name for name in names if name not in PERTURBATIONS]:
        raise ValueError(f"--perturbations {unknown[0]}: choose from {', '.join(PERTURBATIONS)}")


def choose_questions(responses: Sequence[Response], num_responses: int, seed: int) -> list[Response]:
    """All responses of randomly chosen questions, as many questions as give at least `num_responses`."""
    sizes = Counter(response.question_id for response in responses)
    names = sorted(sizes)
    order = np.random.default_rng(seed).permutation(len(names))
    totals = np.cumsum([sizes[names[i]] for i in order])
    chosen = {names[i] for i in order[: int(np.searchsorted(totals, num_responses)) + 1]}
    return [response for response in responses if response.question_id in chosen]


def evaluate_perturbations(
    score: Score,
    responses: Sequence[Response],
    originals: Sequence[StepScores],
    names: Sequence[str],
    config: CalibrationConfig,
) -> dict[str, Any]:
    """Score every response perturbed, beside the `originals`; one that cannot be scored in every form is left out and counted.

    Raises ValueError for an unknown perturbation, and if nothing can be scored in every form.
    """
    check_perturbations(names)
    responses = [dataclasses.replace(r, step_labels=None, completions=None) for r in responses if r.steps]
    forms = {"original": responses}
    forms |= {name: [dataclasses.replace(r, steps=PERTURBATIONS[name](r.steps)) for r in responses] for name in names}
    keys = {response.key for response in responses}
    scores = {"original": {s.key: s for s in originals if s.key in keys}}
    scores |= {name: {s.key: s for s in score(name, forms[name])} for name in names}
    common = set.intersection(*(set(found) for found in scores.values()))
    if not common:
        raise ValueError("no response can be scored in its own steps and in every perturbed form: raise the model's max_length")
    kept = {name: [r for r in form if r.key in common] for name, form in forms.items()}
    joined = {
        name: join_scores(name, [s for s in scores[name].values() if s.key in common], kept[name], needs_truth=False)
        for name in forms
    }
    return {
        "num_responses": len(common),
        "num_left_out": len(responses) - len(common),
        "has_outcomes": bool((joined["original"].truth != UNKNOWN).any()),
        "perturbations": {name: _compare(name, joined["original"], joined[name], config) for name in names},
    }


def _compare(name: str, original: ScoredResponses, perturbed: ScoredResponses, config: CalibrationConfig) -> dict[str, Any]:
    changed = [a.steps != b.steps for a, b in zip(original.responses, perturbed.responses, strict=True)]
    fillers = np.array([step == FILLER for r in perturbed.responses for step in r.steps])
    return {
        "share_changed": float(np.mean(changed)),
        "steps_before": float(original.num_steps.mean()),
        "steps_after": float(perturbed.num_steps.mean()),
        "mean_filler_score": float(perturbed.step_score[fillers].mean()) if name == "filler" else None,
        "mean_step_score": float(original.step_score.mean()),
        "responses": {
            aggregation: _change(
                original.response_scores(aggregation, config.softmin_tau),
                perturbed.response_scores(aggregation, config.softmin_tau),
                original,
                config,
            )
            for aggregation in config.aggregations
        },
    }


def _change(
    before: Float[np.ndarray, " responses"],
    after: Float[np.ndarray, " responses"],
    scored: ScoredResponses,
    config: CalibrationConfig,
) -> dict[str, Any]:
    """What a perturbation changes in one aggregation's response scores; `scored` says which question and outcome they are of."""
    order = np.argsort(scored.question, kind="stable")
    questions = np.split(order, np.flatnonzero(np.diff(scored.question[order])) + 1)
    per_question = np.array([(after - before)[rows].mean() for rows in questions])
    low, high = metrics.bootstrap_interval(per_question, *config.draws)
    rank = metrics.rank_correlation(before, after)
    known = scored.truth != UNKNOWN
    aucs = [metrics.roc_auc(scores[known], scored.truth[known]) for scores in (before, after)]
    return {
        "change": {"value": float(per_question.mean()), "low": float(low), "high": float(high)},
        "mean_absolute_change": float(np.abs(after - before).mean()),
        "rank_correlation": None if np.isnan(rank) else rank,
        "auc": None if np.isnan(aucs[0]) else {"before": aucs[0], "after": aucs[1]},
        "best_of_n": _selection(before, after, scored.truth, questions, config),
    }


def _selection(
    before: Float[np.ndarray, " responses"],
    after: Float[np.ndarray, " responses"],
    truth: Int[np.ndarray, " responses"],
    questions: Sequence[Int[np.ndarray, " _"]],
    config: CalibrationConfig,
) -> Mapping[str, Any] | None:
    """Best-of-N over all candidates of every question with two or more; None without such a question or without outcomes."""
    pools = [rows for rows in questions if len(rows) > 1]
    if not pools or (truth == UNKNOWN).all():
        return None
    accuracy = np.array([[_best(scores[rows], truth[rows] == 1) for scores in (before, after)] for rows in pools])
    test = metrics.paired_difference(accuracy[:, 1], accuracy[:, 0], *config.draws)
    moved = [before[rows].argmax() != after[rows].argmax() for rows in pools]
    return {
        "num_questions": len(pools),
        "before": float(accuracy[:, 0].mean()),
        "after": float(accuracy[:, 1].mean()),
        "share_selection_changed": float(np.mean(moved)),
        **without_nan({name: value.item() for name, value in vars(test).items()}),
    }


def _best(scores: Float[np.ndarray, " candidates"], correct: np.ndarray) -> float:
    return float(metrics.best_of_n(scores[None], correct[None], [len(scores)])[0, 0])
