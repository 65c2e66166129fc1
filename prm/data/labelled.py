"""What the dataset builder reads: its options in; labelled responses in steps out, and the others counted."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from prm.data.filters import split_labelled
from prm.data.hub import parse_source
from prm.data.options import BuildConfig
from prm.data.sources import iter_responses, iter_rollouts
from prm.records import Response
from prm.steps import split_steps


def input_of(config: BuildConfig) -> str:
    if config.responses:
        return config.responses
    try:
        parse_source(config.rollouts)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--rollouts {config.rollouts}: nothing there; run scripts/generate_rollouts.py, then scripts/grade_rollouts.py"
        ) from error
    return config.rollouts


def iter_labelled(
    config: BuildConfig, count_tokens: Callable[[list[str]], list[int]] | None, dropped: Counter[str], left_out: Counter[str]
) -> Iterator[Response]:
    """Labelled responses in steps; those without a label are counted in `dropped` by the reason for it.

    `left_out` counts what rows of a foreign format hold and responses do not.
    """
    if config.responses:
        for response in iter_responses(config.responses, left_out):
            if response.correct is not None or response.step_labels is not None or config.step_labels:
                yield response
            else:
                dropped["unlabelled"] += 1
        return
    split = split_steps
    if config.max_step_length:
        split = partial(split_steps, max_step_length=config.max_step_length, count_tokens=lambda text: count_tokens([text])[0])
    has_labelled = False
    for response in split_labelled(iter_rollouts(config.rollouts, left_out), split, dropped):
        has_labelled = True
        yield response
    if not has_labelled and dropped["ungraded"] and dropped["ungraded"] == dropped.total():
        raise ValueError(f"{config.rollouts}: not graded yet; run scripts/grade_rollouts.py --input {config.rollouts}")
