"""What a budget of outcome queries buys: a world, noisy verifier and a training signal in, labelled traces out.

Every signal may ask for the outcome of `budget` traces and not one more; they differ in which traces they ask about.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from prm.simulation.environment import AdditiveWorld, Traces, WeakestLinkWorld, draw, streams, uniform_traces
from prm.simulation.estimators import other_tokens

World = AdditiveWorld | WeakestLinkWorld


@dataclass(frozen=True)
class Verifier:
    """Says of each trace whether its answer is right, and errs at random."""

    world: World
    false_negatives: float = 0.0
    """Chance that a right trace is called wrong."""
    false_positives: float = 0.0
    """Chance that a wrong trace is called right: a right answer with a wrong step."""

    def __post_init__(self) -> None:
        for name in ("false_negatives", "false_positives"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give a share of at least 0 and below 1")

    def ask(self, traces: Traces) -> Bool[np.ndarray, "S *N"]:
        """The called outcome of every trace. One call a seed: a second one would draw the same noise."""
        noise = draw(streams(self.world.seeds, "noise"), lambda rng: rng.random(traces.shape[1:-1]))
        return np.where(self.world.is_right(traces), noise >= self.false_negatives, noise < self.false_positives)


@dataclass(frozen=True)
class Examples:
    """Traces with the labels of a signal; a step label is NaN where a step has none."""

    traces: Int[np.ndarray, "S N T"]
    correct: Float[np.ndarray, "S N"] | None = None
    step_labels: Float[np.ndarray, "S N T"] | None = None
    prefixes: Int[np.ndarray, "S N T"] | None = None
    """Equal where the steps before are the same trace's, of those that have a label."""


def ask_traces(verifier: Verifier, budget: int, num_others: int) -> Examples:
    """`budget` uniform traces, each with its outcome."""
    traces = base_traces(verifier, budget)
    return Examples(traces, correct=verifier.ask(traces).astype(np.float32))


def ask_completions(verifier: Verifier, budget: int, num_others: int) -> Examples:
    """Monte-Carlo: K = `num_others` uniform completions behind each prefix of random length, which gets the label k/K at its end.

    The last prefix has the completions that are left.
    """
    prefixes = base_traces(verifier, -(-budget // num_others))
    num_seeds, num_prefixes, num_steps = prefixes.shape
    rngs = streams(verifier.world.seeds, "alternatives")
    last = draw(rngs, lambda rng: rng.integers(num_steps, size=num_prefixes))
    completed = uniform_traces(rngs, (num_prefixes, num_others, num_steps), verifier.world.values.shape[-1])
    is_prefix = np.arange(num_steps) <= last[..., None]
    asked = np.where(is_prefix[:, :, None], prefixes[:, :, None], completed).reshape(num_seeds, -1, num_steps)[:, :budget]
    outcomes = np.full((num_seeds, num_prefixes * num_others), np.nan)
    outcomes[:, :budget] = verifier.ask(asked)
    values = np.nanmean(outcomes.reshape(num_seeds, num_prefixes, num_others), axis=-1)
    is_label = np.arange(num_steps) == last[..., None]
    return Examples(prefixes, step_labels=np.where(is_label, values[..., None], np.nan).astype(np.float32))


def ask_exchanges_at_every_step(verifier: Verifier, budget: int, num_others: int) -> Examples:
    """Contrastive: a trace, and the same with another token at one step, for every step in turn: T + 1 queries a trace."""
    return _exchanges(verifier, budget, steps_per_trace=verifier.world.values.shape[1], num_others=1)


def ask_exchanges_at_one_step(verifier: Verifier, budget: int, num_others: int) -> Examples:
    """Intervention: a trace, and the same with each of K = `num_others` other tokens at one random step: K + 1 queries a trace."""
    return _exchanges(verifier, budget, steps_per_trace=1, num_others=num_others)


SIGNALS: dict[str, Callable[[Verifier, int, int], Examples]] = {
    "traces": ask_traces,
    "completions": ask_completions,
    "exchanges at every step": ask_exchanges_at_every_step,
    "exchanges at one step": ask_exchanges_at_one_step,
}


def base_traces(verifier: Verifier, count: int) -> Traces:
    num_steps, num_tokens = verifier.world.values.shape[1:]
    return uniform_traces(streams(verifier.world.seeds, "traces"), (count, num_steps), num_tokens)


def _exchanges(verifier: Verifier, budget: int, steps_per_trace: int, num_others: int) -> Examples:
    """Groups of a trace and its exchanges, the last one cut where the budget ends. A step is good or bad as its trace's outcome."""
    num_steps, num_tokens = verifier.world.values.shape[1:]
    group_size = 1 + steps_per_trace * num_others
    bases = base_traces(verifier, -(-budget // group_size))
    rngs = streams(verifier.world.seeds, "alternatives")
    order = draw(rngs, lambda rng: rng.permuted(np.tile(np.arange(num_steps), (bases.shape[1], 1)), axis=1))
    steps = np.repeat(order[..., :steps_per_trace], num_others, axis=-1)
    others = other_tokens(rngs, bases, num_tokens, num_others)
    is_exchanged = np.arange(num_steps) == steps[..., None]
    which = np.tile(np.arange(num_others), steps_per_trace)
    exchanged = np.where(is_exchanged, np.moveaxis(others, -1, 2)[:, :, which], bases[:, :, None])
    traces = np.concatenate([bases[:, :, None], exchanged], axis=2)
    is_labelled = np.concatenate([is_exchanged.any(2, keepdims=True), is_exchanged], axis=2)
    group = np.arange(bases.shape[1])[:, None, None] * num_steps + np.arange(num_steps)
    traces, is_labelled, prefixes = (
        np.broadcast_to(part, traces.shape).reshape(len(traces), -1, num_steps)[:, :budget] for part in (traces, is_labelled, group)
    )
    labels = np.where(verifier.ask(traces), 1.0, -1.0)[..., None]
    return Examples(traces, step_labels=np.where(is_labelled, labels, np.nan).astype(np.float32), prefixes=prefixes)
