"""Data of any known shape in; questions, rollouts, responses and step scores out.

Every script reads its input with these readers. A source is a file, a folder of shards, or a dataset of the hub (`hub.py`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from prm.data.hub import read_source
from prm.data.importers import math_shepherd, prmbench, prmbench_assembled, processbench, stepwise
from prm.data.prm800k import prm800k, prm800k_rebuilt
from prm.data.shapes import (
    GSM8K_MODELS,
    Place,
    Shape,
    evaluation_output,
    evaluation_scores,
    gsm8k_solutions,
    number_text,
    own,
    own_question,
    own_rollout_in_steps,
    pool_responses,
    pool_rollouts,
    pool_scores,
    prediction_scores,
    question,
    split_rollouts,
)
from prm.files import without_duplicates
from prm.records import Key, Question, Response, Rollout, Row, StepScores

logger = logging.getLogger(__name__)

MAX_NAMED = 10
"""How many unreadable rows are named in warnings."""

_GSM8K_KEYS = ("question", "ground_truth", *GSM8K_MODELS)
_EVALUATION_KEYS = ("question", "answer", "response", "pred", "score")
_POOL_KEYS = ("question", "answer", "candidates")

MATH_SHEPHERD = Shape("Math-Shepherd", ("input", "label"), math_shepherd)

PRMBENCH_SHAPES = (
    Shape("PRMBench", ("idx", "classification", "modified_process", "error_steps"), prmbench),
    Shape("PRMBench, assembled", ("idx", "question", "steps", "error_steps"), prmbench_assembled),
)

# The first shape whose keys a row has converts it.
QUESTION_SHAPES = (
    Shape("contest", ("problem", "answer"), question),
    Shape("MATH", ("problem", "solution"), question),
    Shape("question", ("id", "question", "answer"), own_question),
    Shape("GSM8K", ("question", "answer"), question),
)
ROLLOUT_SHAPES = (
    Shape("rollout", ("question_id", "sample_index", "response"), own(Rollout)),
    Shape("GSM8K example solutions", _GSM8K_KEYS, gsm8k_solutions),
    Shape("evaluation output", _EVALUATION_KEYS, evaluation_output),
    Shape("candidate pool", _POOL_KEYS, pool_rollouts),
)
RESPONSE_SHAPES = (
    Shape("response", ("question_id", "sample_index", "steps"), own(Response)),
    Shape("rollout", ("question_id", "sample_index", "response"), own_rollout_in_steps),
    Shape("GSM8K example solutions", _GSM8K_KEYS, split_rollouts(gsm8k_solutions)),
    Shape("evaluation output", _EVALUATION_KEYS, split_rollouts(evaluation_output)),
    Shape("candidate pool", _POOL_KEYS, pool_responses),
    Shape("stepwise supervision", ("prompt", "completions", "labels"), stepwise),
    Shape("ProcessBench", ("id", "problem", "steps", "label", "final_answer_correct"), processbench),
    Shape("PRM800K", ("labeler", "question", "label"), prm800k),
    Shape("PRM800K, rebuilt", ("problem", "steps"), prm800k_rebuilt),
    MATH_SHEPHERD,
    *PRMBENCH_SHAPES,
)
SCORE_SHAPES = (
    Shape("step scores", ("question_id", "sample_index", "step_scores"), own(StepScores)),
    Shape("evaluation output", (*_EVALUATION_KEYS, "pred_score"), evaluation_scores),
    Shape("candidate pool", _POOL_KEYS, pool_scores),
    Shape("benchmark predictions", ("id", "step_scores"), prediction_scores),
)
QUESTION_KEYS = ("question", "problem", "original_question", "prompt")


def iter_questions(source: str | Path, dropped: Counter[str] | None = None, skip_unreadable: bool = False) -> Iterator[Question]:
    """Questions with their reference answers.

    This and the other readers stream, and raise ValueError, with file and line, for a row of no known shape, a row that is not what
    its keys promise (with `skip_unreadable` such rows are counted instead), and a key that stands twice. `dropped` counts what rows
    hold and records do not, by reason; without it the counts are logged.
    """
    return _read(source, "questions", QUESTION_SHAPES, dropped=dropped, skip_unreadable=skip_unreadable)


def iter_rollouts(source: str | Path, dropped: Counter[str] | None = None, skip_unreadable: bool = False) -> Iterator[Rollout]:
    """Sampled responses, graded or not."""
    return _read(source, "rollouts", ROLLOUT_SHAPES, dropped=dropped, skip_unreadable=skip_unreadable)


def iter_responses(source: str | Path, dropped: Counter[str] | None = None, skip_unreadable: bool = False) -> Iterator[Response]:
    """Responses in steps; a response that comes as one text is split at its blank lines."""
    return _read(source, "responses", RESPONSE_SHAPES, dropped=dropped, skip_unreadable=skip_unreadable)


def iter_placed_responses(source: str | Path) -> Iterator[tuple[Response, str]]:
    """Responses with the places of their rows; a key may stand twice, which is for the linter to say."""
    return _convert(source, "responses", RESPONSE_SHAPES, None, Counter(), skip_unreadable=False, check=None)


def iter_prmbench(source: str | Path, dropped: Counter[str]) -> Iterator[tuple[Response, Row, str]]:
    """Responses of PRMBench, each with the row that it is made of and its place; raises for a row of any other shape."""
    seen: Counter[str] = Counter()
    for index, (row, where) in enumerate(read_source(source)):
        for response in _convert_row(row, "PRMBench items", PRMBENCH_SHAPES, Place(where, index, None, seen, dropped)):
            yield response, row, where


def iter_scores(source: str | Path, prm: str | None = None) -> Iterator[StepScores]:
    """Step scores; `prm` chooses among the models that scored a candidate pool, and is needed if there are several."""
    return _read(source, "step scores", SCORE_SHAPES, prm)


def load_questions(source: str | Path) -> list[Question]:
    return list(iter_questions(source))


def load_rollouts(source: str | Path) -> list[Rollout]:
    return list(iter_rollouts(source))


def load_responses(source: str | Path) -> list[Response]:
    return list(iter_responses(source))


def load_scores(source: str | Path, prm: str | None = None) -> list[StepScores]:
    return list(iter_scores(source, prm))


def load_sampled_texts(source: str | Path) -> dict[Key, str]:
    """Responses as they were sampled, by key, of rollouts with or without reference answers; nothing where a source has steps."""
    texts = {}
    for row, _ in read_source(source):
        if ROLLOUT_SHAPES[0].matches(row):
            texts[number_text(row["question_id"]), row["sample_index"]] = row["response"]
    others = ROLLOUT_SHAPES[1:]
    if not texts and any(shape.matches(row) for row, _ in islice(read_source(source), 1) for shape in others):
        texts = {rollout.key: rollout.response for rollout in _read(source, "rollouts", others)}
    return texts


def list_prms(source: str | Path) -> list[str]:
    """Names of the models that scored a candidate pool; empty for any other file."""
    names: set[str] = set()
    for row, where in read_source(source):
        candidates = row.get("candidates", [])
        if not isinstance(candidates, list) or not all(isinstance(candidate, dict) for candidate in candidates):
            raise ValueError(f"{where}: 'candidates' is {candidates!r:.80}, expected a list of objects")
        scores = (candidate.get("step_scores") for candidate in candidates)
        names |= {name for by_name in scores if isinstance(by_name, dict) for name in by_name}
    return sorted(names)


def load_question_texts(source: str | Path) -> list[str]:
    """Read only the problem statements of any source, evaluation sets included (for decontamination)."""
    return [question_text(row, where) for row, where in read_source(source)]


def question_text(row: Row, where: str) -> str:
    """The problem statement of a row. Raises ValueError for a row without one."""
    nested = row.get("question")
    for text in [*(row.get(key) for key in QUESTION_KEYS), nested.get("problem") if isinstance(nested, dict) else None]:
        if isinstance(text, str):
            return text
    if MATH_SHEPHERD.matches(row):
        for response in _convert_row(row, "questions", (MATH_SHEPHERD,), Place(where, 0)):
            return response.question
    raise ValueError(f"{where}: no question under any of {list(QUESTION_KEYS)}; found keys {sorted(row)}")


def _read(
    source: str | Path,
    what: str,
    shapes: tuple[Shape, ...],
    prm: str | None = None,
    dropped: Counter[str] | None = None,
    skip_unreadable: bool = False,
) -> Iterator[Any]:
    counts = Counter() if dropped is None else dropped
    yield from without_duplicates(lambda: _convert(source, what, shapes, prm, counts, skip_unreadable))
    if dropped is None and +counts:
        reasons = ", ".join(f"{number} {reason}" for reason, number in (+counts).items())
        logger.warning("%s: left out of its %s: %s", source, what, reasons)


def _check_labels(record: Any, where: str) -> None:
    """Raise ValueError for step labels of another number than the steps, or that are neither -1 nor from 0 to 1."""
    if not isinstance(record, Response) or record.step_labels is None:
        return
    if len(record.step_labels) != len(record.steps):
        raise ValueError(
            f"{where}: {len(record.step_labels)} step labels for {len(record.steps)} steps; label every step, with null where "
            "nobody knows"
        )
    if bad := [label for label in record.step_labels if label is not None and label != -1 and not 0 <= label <= 1]:
        raise ValueError(
            f"{where}: step label {bad[0]:g}; give -1 (wrong), 0, 1 (right), a share of right completions in between, or "
            "null for a step that nobody labelled"
        )


def _convert(
    source: str | Path,
    what: str,
    shapes: tuple[Shape, ...],
    prm: str | None,
    dropped: Counter[str],
    skip_unreadable: bool,
    check: Callable[[Any, str], None] | None = _check_labels,
) -> Iterator[tuple[Any, str]]:
    """Every record with the place of its row. `check(record, place)` raises ValueError for one that contradicts itself."""
    seen: Counter[str] = Counter()
    for index, (row, where) in enumerate(read_source(source)):
        try:
            records = list(_convert_row(row, what, shapes, Place(where, index, prm, seen, dropped)))
            for record in records if check else ():
                check(record, where)
        except ValueError as error:
            if not skip_unreadable:
                raise
            dropped["unreadable"] += 1
            if dropped["unreadable"] <= MAX_NAMED:
                logger.warning("left out: %s", error)
            continue
        for record in records:
            yield record, where


def _convert_row(row: Row, what: str, shapes: tuple[Shape, ...], place: Place) -> Iterator[Any]:
    shape = next((shape for shape in shapes if shape.matches(row)), None)
    if shape is None:
        known = "; ".join(f"{shape.name} ({', '.join(shape.keys)})" for shape in shapes)
        raise ValueError(f"{place.where}: no known shape of {what}: found keys {sorted(row)}; known are {known}")
    try:
        yield from shape.convert(row, place)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place.where}: has the keys of {shape.name}, but does not read as such: {error!r}") from error
