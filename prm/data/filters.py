"""Stages of the dataset builder, each a pure function: responses in, those that stay (or their labels, or a refusal) out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from prm.data.statistics import Statistics, pass_rate
from prm.files import hash64
from prm.records import Response, Rollout
from prm.steps import SEPARATOR


def split_labelled(rollouts: Iterable[Rollout], split: Callable[[str], list[str]], dropped: Counter[str]) -> Iterator[Response]:
    """Rollouts with an outcome as responses in steps; the others are counted in `dropped` by grade, truncated ones apart."""
    for rollout in rollouts:
        if rollout.correct is None:
            cut = "_truncated" if rollout.grade == "no_answer" and rollout.finish_reason == "length" else ""
            dropped[f"{rollout.grade or 'ungraded'}{cut}"] += 1
            continue
        outcome = {"correct": rollout.correct, "answer": rollout.answer, "extracted": rollout.extracted}
        yield Response(*rollout.key, rollout.question, split(rollout.response), **outcome)


def drop_rate_below(responses: list[Response], bound: float) -> list[Response]:
    """All or none; a question without an outcome stays."""
    rate = pass_rate(responses)
    return [] if rate is not None and rate < bound else responses


def drop_rate_above(responses: list[Response], bound: float) -> list[Response]:
    """All or none; a question without an outcome stays."""
    rate = pass_rate(responses)
    return [] if rate is not None and rate > bound else responses


def balance(responses: Sequence[Response], seed: int) -> list[Response]:
    """As many right as wrong responses of one question, chosen by seeded hashes; those without an outcome stay."""
    by_outcome = {outcome: [r for r in responses if r.correct is outcome] for outcome in (True, False)}
    size = min(map(len, by_outcome.values()))
    ranked = [sorted(group, key=lambda r: seeded_hash(seed, *map(str, r.key)))[:size] for group in by_outcome.values()]
    chosen = {response.key for group in ranked for response in group}
    return [response for response in responses if response.correct is None or response.key in chosen]


def join_step_labels(responses: Sequence[Response], labelled: Sequence[Response]) -> list[Response]:
    """Give responses the step labels of the same key. Raises ValueError where they belong to other steps."""
    by_key = {other.key: other for other in labelled if other.step_labels is not None}
    joined = []
    for response in responses:
        if (other := by_key.get(response.key)) is not None:
            if other.steps != response.steps:
                raise ValueError(
                    f"response {response.key!r}: its step labels belong to other steps ({len(other.steps)} there, "
                    f"{len(response.steps)} here); label the responses of this dataset"
                )
            labels = {name: getattr(other, name) for name in ("step_labels", "label_source", "completions")}
            response = replace(response, **labels)
        joined.append(response)
    return joined


def check_response(response: Response) -> None:
    """Refuse, by name, what the step contract cannot encode."""
    if not response.steps:
        raise ValueError(f"response {response.key!r}: it has no steps; remove it")
    for number, step in enumerate(response.steps, start=1):
        if not step.strip():
            raise ValueError(f"response {response.key!r}: step {number} is blank; remove it")
        if SEPARATOR in step:
            raise ValueError(f"response {response.key!r}: step {number} holds the separator {SEPARATOR}; remove the response")


def last_held_out(question_hashes: Sequence[int], validation_fraction: float) -> int:
    """Whole questions are held out, those whose seeded hashes come first: the last of these hashes, -1 for none.

    At least one question is held out unless the fraction is 0.
    """
    num_held_out = round(validation_fraction * len(question_hashes))
    if validation_fraction > 0:
        num_held_out = max(1, num_held_out)
    return sorted(question_hashes)[num_held_out - 1] if question_hashes and num_held_out else -1


def seeded_hash(seed: int, *parts: str) -> int:
    """64 bits that do not depend on the machine or on the order of the input."""
    return hash64("\0".join([str(seed), *parts]))


def check_trainable(train: Statistics, dropped: Counter[str]) -> None:
    """Refuse a training set that is empty or whose outcomes are all equal."""
    if not train.responses:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "nothing was dropped"
        raise ValueError(
            f"no response is left to train on ({reasons}); sample more questions, or widen --min_pass_rate and --max_pass_rate"
        )
    outcomes = train.outcomes.keys() - {None}
    if len(outcomes) == 1 and not train.with_step_labels:
        raise ValueError(
            f"all {train.responses} training responses have the outcome correct={outcomes.pop()}, so there is nothing to tell "
            "apart; add rollouts of questions that are sometimes right and sometimes wrong"
        )
