"""Dataset builder: graded rollouts in, a folder with train.jsonl, validation.jsonl and a manifest of everything dropped out.

The recipe of the paper's appendix B.1: unlabelled responses go, questions that are too easy or too hard go, training and validation
are split by question.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prm.data.decontaminate import EvaluationIndex
from prm.data.filters import (
    NotSeen,
    check_response,
    check_trainable,
    join_step_labels,
    num_questions,
    pass_rates,
    split_by_question,
    split_labelled,
    statistics,
)
from prm.data.sources import load_responses, load_rollouts
from prm.files import write_jsonl
from prm.records import Response
from prm.steps import load_tokenizer, split_steps
from prm.tracking import to_plain, write_manifest

logger = logging.getLogger(__name__)


@dataclass
class BuildConfig:
    """Options of `scripts/build_dataset.py`."""

    rollouts: str = "data/graded"
    """Graded rollouts: what scripts/grade_rollouts.py wrote, or another shape that `prm.data.sources` knows."""
    responses: str | None = None
    """Labelled responses that are in steps already, instead of --rollouts."""
    step_labels: str | None = None
    """Responses with `step_labels` (for --loss step_ce), joined to the others by question_id and sample_index."""
    output: str = "data/dataset"
    """Folder of the dataset; replaced if it holds one already."""
    min_pass_rate: float = 0.2
    """Questions with a smaller share of right answers are dropped."""
    max_pass_rate: float = 0.8
    """Questions with a larger share of right answers are dropped."""
    max_step_length: int | None = None
    """Merge neighbouring steps while they stay within this many tokens; needs --tokenizer. Default: every paragraph is a step."""
    tokenizer: str | None = None
    """Model name or folder whose tokenizer counts for --max_step_length."""
    validation_fraction: float = 0.02
    """Share of the questions that goes to validation.jsonl; at least one question unless it is 0."""
    deduplicate: bool = True
    """Keep one of several responses to a question that are equal word for word."""
    decontaminate: list[str] = field(default_factory=list)
    """Evaluation files: questions that share their text or 13 words in a row with one of them are dropped."""
    seed: int = 0
    """Seed of the split into training and validation."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise ValueError(f"pass rates [{self.min_pass_rate}, {self.max_pass_rate}]: need 0 <= min <= max <= 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation_fraction {self.validation_fraction}: must be at least 0 and below 1")
        if (self.max_step_length is None) != (self.tokenizer is None):
            raise ValueError("--max_step_length counts tokens and --tokenizer serves nothing else: give both or neither")
        if self.max_step_length is not None and self.max_step_length < 1:
            raise ValueError(f"--max_step_length {self.max_step_length}: must be at least 1 token")
        if self.responses and self.max_step_length:
            raise ValueError("--max_step_length: --responses are in steps already, which may carry labels; leave it out")


def build_dataset(config: BuildConfig) -> dict[str, Any]:
    """Build and write the dataset; returns the manifest's counts. After an error the output is what it was before.

    Raises ValueError, naming the response, for steps or labels that do not fit, and for a dataset that cannot teach anything.
    """
    output = Path(config.output)
    _check_output(output)
    index = EvaluationIndex.from_files(config.decontaminate)
    responses, dropped = read_responses(config)
    questions = {response.question_id: response.question for response in responses}
    overlaps = {i: overlap for i, text in questions.items() if (overlap := index.find(i, text))}
    rates = pass_rates(responses)
    stages = {
        "overlaps_evaluation": lambda r: r.question_id not in overlaps,
        "pass_rate_too_low": lambda r: rates.get(r.question_id, config.min_pass_rate) >= config.min_pass_rate,
        "pass_rate_too_high": lambda r: rates.get(r.question_id, config.max_pass_rate) <= config.max_pass_rate,
        "duplicate": NotSeen() if config.deduplicate else lambda r: True,
    }
    num_read, dropped_questions = len(responses) + dropped.total(), {}
    for reason, is_kept in stages.items():
        kept = [response for response in responses if is_kept(response)]
        dropped[reason] = len(responses) - len(kept)
        dropped_questions[reason] = num_questions(responses) - num_questions(kept)
        responses = kept
    if config.step_labels:
        responses = join_step_labels(responses, load_responses(config.step_labels))
    for response in responses:
        check_response(response)
    train, validation = split_by_question(responses, config.validation_fraction, config.seed)
    check_trainable(train, dropped)

    counts = {
        "responses_read": num_read,
        "responses_dropped": dict(dropped),
        "questions_dropped": dropped_questions,
        "train": statistics(train),
        "validation": statistics(validation),
    }
    inputs = [config.responses or config.rollouts, *filter(None, [config.step_labels]), *config.decontaminate]
    manifest = partial(write_manifest, config=config, inputs=inputs, counts=counts)
    _write(output, train, validation, partial(manifest, extra={"overlaps": to_plain(list(overlaps.values()))}))
    _log(counts)
    return counts


def read_responses(config: BuildConfig) -> tuple[list[Response], Counter[str]]:
    """Labelled responses in key order, and the number dropped for each reason that left them without a label."""
    if config.responses:
        responses = load_responses(config.responses)
        kept = [r for r in responses if r.correct is not None or r.step_labels is not None or config.step_labels]
        dropped = Counter(unlabelled=len(responses) - len(kept))
    else:
        if not Path(config.rollouts).exists():
            raise FileNotFoundError(
                f"--rollouts {config.rollouts}: nothing there; run scripts/generate_rollouts.py, then scripts/grade_rollouts.py"
            )
        rollouts = load_rollouts(config.rollouts)
        if rollouts and all(rollout.correct is None and rollout.grade is None for rollout in rollouts):
            raise ValueError(f"{config.rollouts}: not graded yet; run scripts/grade_rollouts.py --input {config.rollouts}")
        kept, dropped = split_labelled(rollouts, _splitter(config))
    return sorted(kept, key=lambda response: response.key), dropped


def _splitter(config: BuildConfig) -> Callable[[str], list[str]]:
    if config.tokenizer is None:
        return split_steps
    tokenizer = load_tokenizer(config.tokenizer)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    return partial(split_steps, max_step_length=config.max_step_length, count_tokens=count_tokens)


def _check_output(output: Path) -> None:
    """A dataset may be replaced; anything else that stands there was not made by us."""
    if output.exists() and not (output / "train.jsonl").exists() and (output.is_file() or any(output.iterdir())):
        raise ValueError(f"--output {output}: stands there already and is not a dataset; name another folder")


def _write(output: Path, train: list[Response], validation: list[Response], manifest: Callable[[Path], dict[str, Any]]) -> None:
    """Write the whole folder aside and rename it; an older dataset is removed only then."""
    aside, old = (output.with_name(f".{output.name}.{role}") for role in ("new", "old"))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_jsonl(aside / "train.jsonl", train)
    if validation:
        write_jsonl(aside / "validation.jsonl", validation)
    manifest(aside)
    if output.exists():
        output.rename(old)
    aside.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _log(counts: dict[str, Any]) -> None:
    for reason, count in counts["responses_dropped"].items():
        questions = counts["questions_dropped"].get(reason)
        logger.info("dropped %-22s %8d responses%s", reason, count, "" if questions is None else f" {questions:6d} questions")
    for split in ("train", "validation"):
        logger.info(
            "%-10s %s", split, "  ".join(f"{name} {value:.4g}" for name, value in counts[split].items() if value is not None)
        )
