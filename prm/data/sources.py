"""Data files of any known shape in; questions, rollouts, responses and step scores out.

These loaders are what every script reads its input with. A path is a `.jsonl` file, a `.json` array or a folder of shards.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prm.data.shapes import (
    GSM8K_MODELS,
    Place,
    Shape,
    evaluation_output,
    evaluation_scores,
    gsm8k_solutions,
    own,
    own_question,
    pool_responses,
    pool_rollouts,
    pool_scores,
    processbench,
    question,
    split_rollouts,
    stepwise,
)
from prm.files import read_rows, without_duplicates
from prm.records import Question, Response, Rollout, StepScores

_GSM8K_KEYS = ("question", "ground_truth", *GSM8K_MODELS)
_EVALUATION_KEYS = ("question", "answer", "response", "pred", "score")
_POOL_KEYS = ("question", "answer", "candidates")

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
    Shape("rollout", ("question_id", "sample_index", "response"), split_rollouts(own(Rollout))),
    Shape("GSM8K example solutions", _GSM8K_KEYS, split_rollouts(gsm8k_solutions)),
    Shape("evaluation output", _EVALUATION_KEYS, split_rollouts(evaluation_output)),
    Shape("candidate pool", _POOL_KEYS, pool_responses),
    Shape("stepwise supervision", ("prompt", "completions", "labels"), stepwise),
    Shape("ProcessBench", ("id", "problem", "steps", "label", "final_answer_correct"), processbench),
)
SCORE_SHAPES = (
    Shape("step scores", ("question_id", "sample_index", "step_scores"), own(StepScores)),
    Shape("evaluation output", (*_EVALUATION_KEYS, "pred_score"), evaluation_scores),
    Shape("candidate pool", _POOL_KEYS, pool_scores),
)
QUESTION_KEYS = ("question", "problem", "original_question", "prompt")


def iter_questions(path: str | Path) -> Iterator[Question]:
    """Questions with their reference answers.

    This and the other readers stream, and raise ValueError, with file and line, for a row of no known shape and for a key that
    stands twice.
    """
    return _read(path, "questions", QUESTION_SHAPES)


def iter_rollouts(path: str | Path) -> Iterator[Rollout]:
    """Sampled responses, graded or not."""
    return _read(path, "rollouts", ROLLOUT_SHAPES)


def iter_responses(path: str | Path) -> Iterator[Response]:
    """Responses in steps; a response that comes as one text is split at its blank lines."""
    return _read(path, "responses", RESPONSE_SHAPES)


def iter_scores(path: str | Path, prm: str | None = None) -> Iterator[StepScores]:
    """Step scores; `prm` chooses among the models that scored a candidate pool, and is needed if there are several."""
    return _read(path, "step scores", SCORE_SHAPES, prm)


def load_questions(path: str | Path) -> list[Question]:
    return list(iter_questions(path))


def load_rollouts(path: str | Path) -> list[Rollout]:
    return list(iter_rollouts(path))


def load_responses(path: str | Path) -> list[Response]:
    return list(iter_responses(path))


def load_scores(path: str | Path, prm: str | None = None) -> list[StepScores]:
    return list(iter_scores(path, prm))


def list_prms(path: str | Path) -> list[str]:
    """Names of the models that scored a candidate pool; empty for any other file."""
    candidates = (candidate for row, _ in read_rows(path) for candidate in row.get("candidates", ()))
    scores = (candidate.get("step_scores") for candidate in candidates)
    return sorted({name for by_name in scores if isinstance(by_name, dict) for name in by_name})


def load_question_texts(path: str | Path) -> list[str]:
    """Read only the problem statements of any file, evaluation sets included (for decontamination)."""
    texts = []
    for row, where in read_rows(path):
        text = next((row[key] for key in QUESTION_KEYS if isinstance(row.get(key), str)), None)
        if text is None:
            raise ValueError(f"{where}: no question under any of {list(QUESTION_KEYS)}; found keys {sorted(row)}")
        texts.append(text)
    return texts


def _read(path: str | Path, what: str, shapes: tuple[Shape, ...], prm: str | None = None) -> Iterator[Any]:
    return without_duplicates(lambda: _convert(path, what, shapes, prm))


def _convert(path: str | Path, what: str, shapes: tuple[Shape, ...], prm: str | None) -> Iterator[tuple[Any, str]]:
    """Every record with the place of its row."""
    seen_prompts: Counter[str] = Counter()
    for index, (row, where) in enumerate(read_rows(path)):
        shape = next((shape for shape in shapes if all(key in row for key in shape.keys)), None)
        if shape is None:
            known = "; ".join(f"{shape.name} ({', '.join(shape.keys)})" for shape in shapes)
            raise ValueError(f"{where}: no known shape of {what}: found keys {sorted(row)}; known are {known}")
        try:
            for record in shape.convert(row, Place(where, index, prm, seen_prompts)):
                yield record, where
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: has the keys of {shape.name}, but does not read as such: {error!r}") from error
