"""Worlds of known step values: seeds in; tables over (step, token), uniform traces and their outcomes out, one world per seed.

Shapes: S seeds, N traces, T steps, V tokens. A trace is a sequence of tokens, one a step; a cell is a token at a step. Every seed
draws from random streams of its own, one for each purpose, so that its results do not depend on which other seeds run beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

Table = Float[np.ndarray, "S T V"]
Traces = Int[np.ndarray, "S *N T"]
PURPOSES = ("world", "weights", "traces", "alternatives", "noise", "test", "median", "threshold")
Q_SCALE, B_SCALE, CRITICAL_FACTOR = 0.5, 0.3, 2.0
NUM_MEDIAN_TRACES = 4000


def streams(seeds: Sequence[int], purpose: str) -> list[np.random.Generator]:
    """One generator per seed, for one purpose."""
    return [np.random.default_rng([PURPOSES.index(purpose), seed]) for seed in seeds]


def draw(rngs: Sequence[np.random.Generator], sample: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
    """What `sample` draws from each seed's stream, stacked along a first axis of seeds."""
    return np.stack([sample(rng) for rng in rngs])


def check_size(num_steps: int, num_tokens: int) -> None:
    """Raises ValueError for a world without a choice or without a sequence."""
    if num_steps < 2:
        raise ValueError(f"{num_steps} steps: a trace needs at least 2, a first and a last")
    if num_tokens < 2:
        raise ValueError(f"{num_tokens} tokens: a step needs at least 2 to choose from")


@dataclass(frozen=True)
class AdditiveWorld:
    """The published environment: every step adds a value, more so at critical steps, and the outcome is their mean.

    y_t = Q[t, a_t] (1 + 2 C_t) + B[a_{t-1}, a_t], without B at the first step; outcome R = sigmoid(mean_t y_t).
    """

    seeds: Sequence[int]
    q: Table
    b: Float[np.ndarray, "S V V"]
    is_critical: Bool[np.ndarray, "S T"]

    @classmethod
    def make(cls, seeds: Sequence[int], num_steps: int, num_tokens: int = 10, critical_rate: float = 0.3) -> "AdditiveWorld":
        """Q ~ N(0, 0.5^2), B ~ N(0, 0.3^2), C ~ Bernoulli(`critical_rate`), the first and last step always critical."""
        check_size(num_steps, num_tokens)
        rngs = streams(seeds, "world")
        q = draw(rngs, lambda rng: rng.normal(0, Q_SCALE, (num_steps, num_tokens)))
        b = draw(rngs, lambda rng: rng.normal(0, B_SCALE, (num_tokens, num_tokens)))
        is_critical = draw(rngs, lambda rng: rng.random(num_steps)) < critical_rate
        is_critical[:, [0, -1]] = True
        return cls(seeds, q, b, is_critical)

    @property
    def values(self) -> Table:
        """G = Q (1 + 2 C): what a step adds, whatever stands before it."""
        return self.q * (1 + CRITICAL_FACTOR * self.is_critical[..., None])

    def step_values(self, traces: Traces) -> Float[np.ndarray, "S *N T"]:
        """y of every step of every trace."""
        at_step = pick(self.values, traces)
        before, after = traces[..., :-1], traces[..., 1:]
        seed = seed_index(traces)
        at_step[..., 1:] += self.b[seed, before, after]
        return at_step

    def outcomes(self, traces: Traces) -> Float[np.ndarray, "S *N"]:
        """R of every trace, in (0, 1)."""
        return sigmoid(self.step_values(traces).mean(-1))

    @cached_property
    def median(self) -> Float[np.ndarray, " S"]:
        """Of R over uniform traces."""
        num_steps, num_tokens = self.q.shape[1:]
        traces = uniform_traces(streams(self.seeds, "median"), (NUM_MEDIAN_TRACES, num_steps), num_tokens)
        return np.median(self.outcomes(traces), axis=-1)

    def is_right(self, traces: Traces) -> Bool[np.ndarray, "S *N"]:
        """The binary outcome: whether R is above its median."""
        return self.outcomes(traces) > self.median.reshape(-1, *[1] * (traces.ndim - 2))

    def outcomes_with(self, traces: Traces, tokens: Int[np.ndarray, "S *N T K"]) -> Float[np.ndarray, "S *N T K"]:
        """R of every trace with one token exchanged: `tokens[..., t, k]` in place of the token at t, the others as they are."""
        seed, step = seed_index(tokens), np.arange(traces.shape[-1])[:, None]
        gains = self.values[seed, step, tokens] - pick(self.values, traces)[..., None]
        now = traces[..., None]
        before, after = now[..., :-1, :], now[..., 1:, :]
        gains[..., 1:, :] += self.b[seed, before, tokens[..., 1:, :]] - self.b[seed, before, after]
        gains[..., :-1, :] += self.b[seed, tokens[..., :-1, :], after] - self.b[seed, before, after]
        total = self.step_values(traces).sum(-1)[..., None, None]
        return sigmoid((total + gains) / traces.shape[-1])


@dataclass(frozen=True)
class WeakestLinkWorld:
    """A few cells are wrong, and a trace is right if it meets none of them: about half of all uniform traces, at every length."""

    seeds: Sequence[int]
    is_wrong: Bool[np.ndarray, "S T V"]

    @classmethod
    def make(cls, seeds: Sequence[int], num_steps: int, num_tokens: int = 10, share_right: float = 0.5) -> "WeakestLinkWorld":
        """Wrong cells at random steps, spread as evenly as they go, as many as bring P(right) closest to `share_right`.

        Raises ValueError for a share that is none.
        """
        check_size(num_steps, num_tokens)
        if not 0 < share_right < 1:
            raise ValueError(f"share_right {share_right}: give a share between 0 and 1")
        counts = range(1, num_steps * (num_tokens - 1) + 1)
        num_wrong = min(counts, key=lambda n: abs(share_right - prob_right(n, num_steps, num_tokens)))
        rngs = streams(seeds, "world")
        return cls(seeds, draw(rngs, lambda rng: _wrong_cells(rng, num_wrong, num_steps, num_tokens)))

    @property
    def values(self) -> Table:
        """1 for a right cell, 0 for a wrong one."""
        return 1.0 - self.is_wrong

    @property
    def prob_right(self) -> float:
        """Share of uniform traces that are right, the same in every seed's world."""
        return float((1 - self.is_wrong[0].mean(-1)).prod())

    @property
    def wrong_steps_of_wrong(self) -> float:
        """Mean number of wrong steps in a wrong trace, likewise."""
        return float(self.is_wrong[0].mean(-1).sum() / (1 - self.prob_right))

    def is_right(self, traces: Traces) -> Bool[np.ndarray, "S *N"]:
        """The outcome: whether no step of the trace is wrong."""
        return ~self.wrong_steps(traces).any(-1)

    def wrong_steps(self, traces: Traces) -> Bool[np.ndarray, "S *N T"]:
        return pick(self.is_wrong, traces)


def prob_right(num_wrong: int, num_steps: int, num_tokens: int) -> float:
    """Share of uniform traces without a wrong step when `num_wrong` cells are spread evenly over the steps."""
    each, more = divmod(num_wrong, num_steps)
    return (1 - each / num_tokens) ** (num_steps - more) * (1 - (each + 1) / num_tokens) ** more


def _wrong_cells(rng: np.random.Generator, num_wrong: int, num_steps: int, num_tokens: int) -> Bool[np.ndarray, "T V"]:
    """Each step gets its next wrong token before any step gets one more; the steps' order and the tokens are random."""
    step_rank = rng.permutation(num_steps)
    token_rank = rng.permuted(np.tile(np.arange(num_tokens), (num_steps, 1)), axis=1)
    return token_rank * num_steps + step_rank[:, None] < num_wrong


def uniform_traces(rngs: Sequence[np.random.Generator], shape: tuple[int, ...], num_tokens: int) -> Traces:
    """Traces of independent uniform tokens; `shape` ends in the number of steps."""
    return draw(rngs, lambda rng: rng.integers(num_tokens, size=shape))


def seed_index(traces: Int[np.ndarray, "S *rest"]) -> Int[np.ndarray, "S *ones"]:
    """The number of each trace's world, as an index that broadcasts over it."""
    return np.arange(len(traces)).reshape(-1, *[1] * (traces.ndim - 1))


def pick(table: np.ndarray, traces: Traces) -> np.ndarray:
    """The table's entry of every step of every trace: `table[s, t, traces[s, ..., t]]`."""
    return table[seed_index(traces), np.arange(traces.shape[-1]), traces]


def sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return 1 / (1 + np.exp(-x))
