"""Work for the speed of scoring: lengths and a seed in, candidates of few questions out.

Tokens are random, as what they are does not change the time they take. Unless copies are asked for, two candidates are the same
only if both end before they part.
"""

from typing import Any

import numpy as np

from prm.benchmarks.speed.scoring_variants import ScoringSpeedConfig
from prm.benchmarks.speed.workload import SHAPES, SPECIAL_TOKENS, log_normal_lengths, step_ends
from prm.steps import EncodedResponse


def make_candidates(config: ScoringSpeedConfig) -> list[EncodedResponse]:
    """Candidates in random order, those of one question with one prompt."""
    generator = np.random.default_rng([config.seed, 2])
    limits: dict[str, Any] = {
        "mean": config.mean_length - config.prompt_length,
        "maximum": config.max_length - config.prompt_length,
    }
    lengths = log_normal_lengths(config.num_distinct, **limits, spread=config.spread, seed=config.seed)

    vocab_size = SHAPES[config.shape]["vocab_size"]

    def tokens(count: int) -> list[int]:
        return generator.integers(len(SPECIAL_TOKENS), vocab_size, count).tolist()

    def grow(begun: list[list[int]]) -> None:
        """Give candidates that agree so far more in common, until each is alone."""
        if len(begun) < 2:
            return
        common = tokens(generator.geometric(1 / config.tokens_per_fork))
        sides: tuple[list[list[int]], list[list[int]]] = [], []
        for response in begun:
            response += common
            sides[generator.integers(2)].append(response)
        for side in sides:
            grow(side)

    distinct = []
    for question in range(config.num_questions):
        prompt, of_question = tokens(config.prompt_length), lengths[question :: config.num_questions]
        begun: list[list[int]] = [[] for _ in of_question]
        if config.tokens_per_fork:
            grow(begun)
        for common, length in zip(begun, of_question, strict=True):
            distinct.append(candidate(prompt, [*common, *tokens(max(0, length - len(common)))][:length]))
    copied = generator.integers(config.num_distinct, size=config.num_candidates - config.num_distinct)
    chosen = [*range(config.num_distinct), *copied]
    return [distinct[index] for index in generator.permutation(chosen)]


def candidate(prompt: list[int], response: list[int]) -> EncodedResponse:
    tokens, start = prompt + response, len(prompt)
    return EncodedResponse(tokens, step_ends(start, len(tokens)), start)
