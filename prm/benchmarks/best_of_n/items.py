"""Best-of-N's responses as people look at them: measured curves and texts in, items out."""

from collections.abc import Iterator, Mapping

import numpy as np

from prm.benchmarks.best_of_n.evaluate import MeasuredCurves
from prm.benchmarks.results import Item, response_item
from prm.benchmarks.score_files import Texts


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
                yield response_item(
                    response,
                    pool.step_scores[prm][row][candidate],
                    float(scores[candidate]),
                    prm if len(first) > 1 else None,
                    group,
                    is_selected=candidate == int(best[0]),
                )
