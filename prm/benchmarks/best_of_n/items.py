"""Best-of-N's responses as people look at them: measured curves and texts in, items out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np
from jaxtyping import Bool, Float

from prm.benchmarks.best_of_n.evaluate import MeasuredCurves
from prm.benchmarks.results import Item, response_item
from prm.benchmarks.score_files import Texts


def best_of_n_items(measured: MeasuredCurves, texts: Texts, groups: Mapping[str, str], num_per_question: int) -> Iterator[Item]:
    """Each question's scored candidates whose texts are known, `num_per_question` of them, under each PRM's first aggregation.

    They are those `worth_reading`; copies of a text only fill room that is left. With several PRMs the group of an item is its PRM,
    with which ids start, too; with one PRM, `groups` has the group of each question. The selected response is the best-scored of
    all, of equals the first, as in `first_n` where N is the whole pool.
    """
    first: dict[str, str] = {}
    for prm, aggregation in measured.response_scores:
        first.setdefault(prm, aggregation)
    pool = measured.pool
    for prm, aggregation in first.items():
        for row, (question_id, scores) in enumerate(zip(pool.questions, measured.response_scores[prm, aggregation], strict=True)):
            keys = pool.keys[row]
            is_scored = pool.is_scored[prm][row]
            known = [candidate for candidate, key in enumerate(keys) if key in texts.responses and is_scored[candidate]]
            different = best_of_copies(known, [texts.responses[keys[candidate]].steps for candidate in known], scores)
            places = worth_reading(scores[different], pool.correct[row][different], num_per_question)
            copies = sorted(set(known) - set(different))
            group = prm if len(first) > 1 else groups.get(question_id, "")
            for candidate in sorted([different[place] for place in places] + copies[: num_per_question - len(places)]):
                yield response_item(
                    texts.responses[keys[candidate]],
                    pool.step_scores[prm][row][candidate],
                    float(scores[candidate]),
                    prm if len(first) > 1 else None,
                    group,
                    is_selected=candidate == int(np.argmax(scores)),
                )


def named_groups(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The values of the first field, each with the field's name unless it begins with it: a mere 5 may be anything."""
    field, values = next(iter(groups.items()), ("", []))
    return [value if value.lower().startswith(field.lower()) else f"{field} {value}" for value in values]


def best_of_copies(
    candidates: Sequence[int], texts: Sequence[Sequence[str]], scores: Float[np.ndarray, " all_candidates"]
) -> list[int]:
    """Of the candidates with one text the best-scored, of equals the first; in order."""
    best: dict[tuple[str, ...], int] = {}
    for candidate, text in zip(candidates, map(tuple, texts), strict=True):
        if text not in best or scores[candidate] > scores[best[text]]:
            best[text] = candidate
    return sorted(best.values())


def worth_reading(scores: Float[np.ndarray, "candidates"], correct: Bool[np.ndarray, "candidates"], count: int) -> list[int]:
    """Up to `count` candidates of a question, in its order, that show where a PRM errs.

    They are the best-scored one, then by turns the best-scored wrong one and the worst-scored right one of those left; of equal
    scores the first.
    """
    best_first = np.argsort(-scores, kind="stable")
    worst_first = np.argsort(scores, kind="stable")
    chosen = best_first[:1].tolist()
    wrong = [c for c in best_first.tolist() if not correct[c] and c not in chosen]
    right = [c for c in worst_first.tolist() if correct[c] and c not in chosen]
    by_turns = [c for pair in zip_longest(wrong, right) for c in pair if c is not None]
    return sorted([*chosen, *by_turns][:count])


def describe_choice(measured: MeasuredCurves, texts: Texts, num_per_question: int) -> str:
    """How many candidates of a question `best_of_n_items` gives, and which; empty if it gives all that have texts, or none."""
    pool = measured.pool
    with_text = [np.array([key in texts.responses for key in keys]) for keys in pool.keys]
    sizes = [int(known.sum()) for known in with_text]
    read = [int((k & scored).sum()) for of_prm in pool.is_scored.values() for k, scored in zip(with_text, of_prm, strict=True)]
    kept = [min(size, num_per_question) for size in read]
    if not num_per_question or kept == sizes * len(pool.is_scored):
        return ""
    ends = "the chosen one, the best-scored wrong ones and the worst-scored right ones"
    which = ends if kept != read else "those that the PRM could read"
    return f"{_span(kept)} of {_span(sizes)} candidates of each question are kept to look at: {which}"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
