"""Stages of the dataset builder, each a pure function: responses in, those that stay (or their split, or a refusal) out."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from prm.records import Response, Rollout
from prm.steps import SEPARATOR


def split_labelled(rollouts: Sequence[Rollout], split: Callable[[str], list[str]]) -> tuple[list[Response], Counter[str]]:
    """Rollouts with an outcome as responses in steps; the others counted by their grade, truncated ones apart."""
    responses, dropped = [], Counter()
    for rollout in rollouts:
        if rollout.correct is None:
            cut = "_truncated" if rollout.grade == "no_answer" and rollout.finish_reason == "length" else ""
            dropped[f"{rollout.grade or 'ungraded'}{cut}"] += 1
            continue
        steps = split(rollout.response)
        outcome = {"correct": rollout.correct, "answer": rollout.answer, "extracted": rollout.extracted}
        responses.append(Response(*rollout.key, rollout.question, steps, **outcome))
    return responses, dropped


def pass_rates(responses: Sequence[Response]) -> dict[str, float]:
    """Share of right answers among a question's labelled responses, repeats included; questions without an outcome are absent."""
    outcomes = defaultdict(list)
    for response in responses:
        if response.correct is not None:
            outcomes[response.question_id].append(response.correct)
    return {question_id: sum(correct) / len(correct) for question_id, correct in outcomes.items()}


def join_step_labels(responses: Sequence[Response], labelled: Sequence[Response]) -> list[Response]:
    """Give responses the step labels of the same key. Raises ValueError where they belong to other steps, or to no response."""
    by_key = {other.key: other for other in labelled if other.step_labels is not None}
    joined = []
    for response in responses:
        if (other := by_key.get(response.key)) is not None:
            if other.steps != response.steps:
                raise ValueError(
                    f"response {response.key!r}: its step labels belong to other steps ({len(other.steps)} there, "
                    f"{len(response.steps)} here); label the responses of this dataset"
                )
            response = replace(response, step_labels=other.step_labels)
        joined.append(response)
    if responses and not any(response.step_labels for response in joined):
        raise ValueError(f"--step_labels: none of its {len(labelled)} keys is among the {len(responses)} responses kept")
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
    if response.step_labels is not None and len(response.step_labels) != len(response.steps):
        raise ValueError(f"response {response.key!r}: {len(response.step_labels)} step labels for {len(response.steps)} steps")


def split_by_question(
    responses: Sequence[Response], validation_fraction: float, seed: int
) -> tuple[list[Response], list[Response]]:
    """Hold out whole questions: those whose seeded hashes come first, whatever the order of the input."""
    questions = {response.question_id for response in responses}
    ranked = sorted(questions, key=lambda i: hashlib.sha256(f"{seed}\0{i}".encode()).digest())
    num_held_out = round(validation_fraction * len(questions))
    if validation_fraction > 0:
        num_held_out = max(1, num_held_out)
    held_out = set(ranked[:num_held_out])
    train = [response for response in responses if response.question_id not in held_out]
    return train, [response for response in responses if response.question_id in held_out]


def check_trainable(train: Sequence[Response], dropped: Counter[str]) -> None:
    """Refuse a training set that is empty or whose outcomes are all equal."""
    if not train:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "nothing was dropped"
        raise ValueError(
            f"no response is left to train on ({reasons}); sample more questions, or widen --min_pass_rate and --max_pass_rate"
        )
    outcomes = {response.correct for response in train} - {None}
    if len(outcomes) == 1 and not any(response.step_labels for response in train):
        raise ValueError(
            f"all {len(train)} training responses have the outcome correct={outcomes.pop()}, so there is nothing to tell apart; "
            "add rollouts of questions that are sometimes right and sometimes wrong"
        )


def statistics(responses: Sequence[Response]) -> dict[str, int | float | None]:
    """Numbers for the manifest and the table on the terminal; `share_correct` is None without outcomes."""
    num_steps = [len(response.steps) for response in responses]
    outcomes = [response.correct for response in responses if response.correct is not None]
    return {
        "questions": num_questions(responses),
        "responses": len(responses),
        "share_correct": sum(outcomes) / len(outcomes) if outcomes else None,
        "with_step_labels": sum(response.step_labels is not None for response in responses),
        "steps_mean": sum(num_steps) / len(num_steps) if num_steps else 0.0,
        "steps_max": max(num_steps, default=0),
    }


def num_questions(responses: Sequence[Response]) -> int:
    return len({response.question_id for response in responses})


class NotSeen:
    """True for the first response with its text among those of its question."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()

    def __call__(self, response: Response) -> bool:
        text = (response.question_id, *response.steps)
        is_new = text not in self.seen
        self.seen.add(text)
        return is_new
