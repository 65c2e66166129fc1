"""Best-of-N's responses as people look at them: measured curves and texts in, items out."""

from collections.abc import Iterator, Mapping

import numpy as np

from prm.benchmarks.best_of_n.evaluate import MeasuredCurves
from prm.benchmarks.results import Item
from prm.benchmarks.score_files import Texts
from prm.records import Response
from prm.steps import join_steps


def best_of_n_items(measured: MeasuredCurves, texts: Texts, groups: Mapping[str, str], num_per_question: int) -> Iterator[Item]:
    """The `num_per_question` best-scored responses of each question whose texts are known, under each PRM's first aggregation.

    With several PRMs the group is the PRM, and ids start with it; with one, `groups` has the group of a question. The selected
    response is the best-scored of all, of equals the first, as `first_n` has it at the largest N.
    """
    first: dict[str, str] = {}
    for prm, aggregation in measured.response_scores:
        first.setdefault(prm, aggregation)
    pool = measured.pool
    for prm, aggregation in first.items():
        for row, (question_id, scores) in enumerate(zip(pool.questions, measured.response_scores[prm, aggregation], strict=True)):
            best = np.argsort(-scores, kind="stable")[:num_per_question]
            group = prm if len(first) > 1 else groups.get(question_id, "")
            for candidate in sorted(best.tolist()):
                response = texts.responses.get(pool.keys[row][candidate])
                if response is None:
                    continue
                step_scores = pool.step_scores[prm][row][candidate]
                yield Item(
                    id=f"{prm}: {question_id} #{response.sample_index}"
                    if len(first) > 1
                    else f"{question_id} #{response.sample_index}",
                    group=group,
                    question=response.question,
                    steps=scored_steps(response, len(step_scores)),
                    step_scores=step_scores,
                    first_error=first_error(response),
                    correct=response.correct,
                    response_score=float(scores[candidate]),
                    is_selected=candidate == int(best[0]),
                )


def scored_steps(response: Response, num_scores: int) -> list[str]:
    """The steps that the scores belong to: an outcome model's one score stands for the whole response."""
    return list(response.steps) if len(response.steps) == num_scores else [join_steps(response.steps)]


def first_error(response: Response) -> int | None:
    """The first step labelled bad (below 0), -1 if none is; None where a step up to there has no label."""
    if not response.step_labels:
        return None
    for index, label in enumerate(response.step_labels):
        if label is None:
            return None
        if label < 0:
            return index
    return -1
