"""Work for the speed of scoring: a shape, a seed and lengths in; a random PRM's config and candidates of few questions out.

Tokens are random, as what they are does not change the time they take. No candidate repeats another unless copies are asked for, or
it ends where it still agrees with one of its length.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import Qwen2Config

from prm.benchmarks.published_values import parse_published
from prm.benchmarks.speed.workload import SHAPES, SPECIAL_TOKENS, TOKENS_PER_STEP, log_normal_lengths, model_config
from prm.steps import EncodedResponse


@dataclass
class ScoringSpeedConfig:
    """What is scored, and how it is measured."""

    shape: Literal[tuple(SHAPES)] = "small"  # type: ignore[valid-type]
    """Architecture of the random model."""
    variants: list[str] = field(default_factory=list)
    """Ways of scoring to measure; default: all, compiled ones only with --torch_compile, vLLM's only where it is installed."""
    torch_compile: bool = False
    """Measure compiled layers too; compiling takes minutes."""
    num_candidates: int = 256
    """Responses to score."""
    num_questions: int = 1
    """Questions that share the candidates evenly."""
    copies: float = 0.0
    """Share of the candidates that repeat another one word for word; packed, shared and implicit engines score them once."""
    tokens_per_fork: float = 0.0
    """Tokens after which candidates that agree so far part into two groups, on average; 0: only the question is common."""
    prompt_length: int = 78
    """Tokens of a question with its instructions."""
    mean_length: float = 390.0
    """Mean length of a response with its question, in tokens."""
    max_length: int = 2047
    """Greatest length, in tokens."""
    spread: float = 0.75
    """Standard deviation of the logarithm of the responses' lengths: 0.75 as sampled over many questions, 0.15 within one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of every variant; auto is bfloat16 on CUDA and float32 elsewhere."""
    token_budget: int | None = None
    """Tokens per packed row. Default: that of scripts/score.py."""
    padded_batch_size: int = 8
    """Responses of a padded batch."""
    repetitions: int = 3
    """Times that every variant is measured."""
    use_cpu: bool = False
    """Leave a GPU alone."""
    num_threads: int = 1
    """Threads of a CPU."""
    published: list[str] = field(default_factory=list)
    """Published inference times, implicit over discriminative PRM, to show beside the measured ones, LABEL=VALUE (such as 1.21)."""
    seed: int = 0
    """Seed of lengths, tokens and weights."""

    def __post_init__(self) -> None:
        positive = ("num_candidates", "num_questions", "prompt_length", "padded_batch_size", "repetitions", "num_threads")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected a positive number")
        if not 0 <= self.copies < 1:
            raise ValueError(f"--copies {self.copies}: a share of the candidates, expected 0 <= copies < 1")
        if not self.num_distinct:
            raise ValueError(f"--copies {self.copies} of --num_candidates {self.num_candidates}: leaves no candidate to repeat")
        if self.tokens_per_fork and not 1 <= self.tokens_per_fork < math.inf:
            raise ValueError(f"--tokens_per_fork {self.tokens_per_fork}: expected 0, or 1 or more tokens")
        if self.mean_length <= self.prompt_length:
            raise ValueError(f"--mean_length {self.mean_length} counts the question, so it must exceed {self.prompt_length}")
        parse_published(self.published, is_share=False)
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.dtype == "auto":
            self.dtype = "float32" if self.use_cpu else "bfloat16"

    @property
    def num_distinct(self) -> int:
        """Candidates that are not made as a copy of another."""
        return self.num_candidates - round(self.copies * self.num_candidates)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.use_cpu else "cuda")

    @property
    def model_config(self) -> Qwen2Config:
        config = model_config(self.shape)
        config.num_labels = 1
        return config


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
    start, length = len(prompt), len(prompt) + len(response)
    step_ends = sorted({*range(start + TOKENS_PER_STEP - 1, length - 1, TOKENS_PER_STEP), length - 1})
    return EncodedResponse(prompt + response, step_ends, start)
