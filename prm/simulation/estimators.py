"""The four published ways to train a table of step values: a world in, the table W [S, T, V] after stochastic gradient descent out.

Each iteration draws fresh uniform traces of each world; gradients are averaged over traces and summed over steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from prm.simulation.environment import AdditiveWorld, Table, Traces, draw, pick, seed_index, streams, uniform_traces

BLOCK = 10
"""Iterations whose traces are drawn at a time. Part of the random streams: another number is another draw."""

Gradient = Callable[[int, Table], Table]
"""The number of an iteration within its block and W in, the sum of the gradients over its traces out."""


@dataclass(frozen=True)
class TrainingConfig:
    """The published settings."""

    learning_rate: float = 0.01
    num_iterations: int = 400
    num_traces: int = 48
    init_scale: float = 0.01
    """Standard deviation of W before training."""
    gamma: float = 0.99
    td_lambda: float = 0.8
    gate: float = 0.1
    """A pair of tokens teaches only while the better one's W leads by less than this."""
    num_alternatives: int = 4
    """Other tokens that an intervention tries at a critical step."""


def train(method: str, world: AdditiveWorld, config: TrainingConfig) -> Table:
    """W after training by one of `METHODS`.

    Raises ValueError for an unknown method, and for an intervention with more alternatives than a step has other tokens.
    """
    seeds, (_, num_steps, num_tokens) = world.seeds, world.q.shape
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    if method == "intervention" and not 1 < config.num_alternatives < num_tokens:
        raise ValueError(
            f"num_alternatives {config.num_alternatives}: an intervention compares at least 2 of the {num_tokens - 1} other tokens"
        )
    weights = draw(streams(seeds, "weights"), lambda rng: rng.normal(0, config.init_scale, (num_steps, num_tokens)))
    rngs, others = streams(seeds, "traces"), streams(seeds, "alternatives")
    for start in range(0, config.num_iterations, BLOCK):
        size = min(BLOCK, config.num_iterations - start)
        traces = uniform_traces(rngs, (size, config.num_traces, num_steps), num_tokens)
        gradient = METHODS[method](world, traces, others, config)
        for iteration in range(size):
            weights -= config.learning_rate / config.num_traces * gradient(iteration, weights)
    return weights


def monte_carlo(world: AdditiveWorld, traces: Traces, others: Sequence[np.random.Generator], config: TrainingConfig) -> Gradient:
    """Squared error to the step's true value y: what the publication calls Monte-Carlo reads the answer key."""
    return regression(traces, world.step_values(traces))


def monte_carlo_outcome(
    world: AdditiveWorld, traces: Traces, others: Sequence[np.random.Generator], config: TrainingConfig
) -> Gradient:
    """Squared error to the outcome of the trace, which is all that a Monte-Carlo estimate can see."""
    return regression(traces, np.broadcast_to(world.outcomes(traces)[..., None], traces.shape))


def regression(traces: Traces, targets: Float[np.ndarray, "S I N T"]) -> Gradient:
    def gradient(iteration: int, weights: Table) -> Table:
        cells = traces[:, iteration]
        return scatter(2 * (pick(weights, cells) - targets[:, iteration]), cells, weights)

    return gradient


def temporal_difference(
    world: AdditiveWorld, traces: Traces, others: Sequence[np.random.Generator], config: TrainingConfig
) -> Gradient:
    """TD(lambda): delta_t = r_t + gamma V_{t+1} - V_t with r = R at the last step, e_t = delta_t + gamma lambda e_{t+1}."""
    outcomes, decay = world.outcomes(traces), config.gamma * config.td_lambda
    ahead = np.arange(traces.shape[-1])[:, None] - np.arange(traces.shape[-1])
    traced = np.where(ahead >= 0, decay ** np.maximum(ahead, 0), 0.0)

    def gradient(iteration: int, weights: Table) -> Table:
        cells = traces[:, iteration]
        values = pick(weights, cells)
        following = np.concatenate([config.gamma * values[..., 1:], outcomes[:, iteration, :, None]], axis=-1)
        return scatter((values - following) @ traced, cells, weights)

    return gradient


def contrastive(world: AdditiveWorld, traces: Traces, others: Sequence[np.random.Generator], config: TrainingConfig) -> Gradient:
    """One random other token at every step: the one with the higher R is pulled above the other, by 2 |dR|."""
    rivals = other_tokens(others, traces, world.q.shape[-1], 1)
    gaps = world.outcomes(traces)[..., None] - world.outcomes_with(traces, rivals)[..., 0]
    rivals = rivals[..., 0]
    winners, losers = np.where(gaps > 0, traces, rivals), np.where(gaps > 0, rivals, traces)
    return ranking(winners, losers, 2 * np.abs(gaps), config)


def intervention(world: AdditiveWorld, traces: Traces, others: Sequence[np.random.Generator], config: TrainingConfig) -> Gradient:
    """K other tokens at every critical step: the one with the highest R is pulled above that with the lowest, by (2/K) dR."""
    rivals = other_tokens(others, traces, world.q.shape[-1], config.num_alternatives)
    outcomes = world.outcomes_with(traces, rivals)
    best, worst = (np.take_along_axis(rivals, which(outcomes, -1)[..., None], -1)[..., 0] for which in (np.argmax, np.argmin))
    weights = 2 / config.num_alternatives * np.ptp(outcomes, axis=-1) * world.is_critical[:, None, None]
    return ranking(best, worst, weights, config)


def ranking(winners: Traces, losers: Traces, strengths: Float[np.ndarray, "S I N T"], config: TrainingConfig) -> Gradient:
    """Of every pair whose winner leads by less than the gate, the winner goes up and the loser down."""

    def gradient(iteration: int, weights: Table) -> Table:
        up, down = winners[:, iteration], losers[:, iteration]
        is_open = pick(weights, up) - pick(weights, down) < config.gate
        push = strengths[:, iteration] * is_open
        return scatter(push, down, weights) - scatter(push, up, weights)

    return gradient


METHODS: dict[str, Callable[..., Gradient]] = {
    "monte_carlo": monte_carlo,
    "td": temporal_difference,
    "contrastive": contrastive,
    "intervention": intervention,
    "monte_carlo_outcome": monte_carlo_outcome,
}


def scatter(terms: Float[np.ndarray, "S N T"], cells: Int[np.ndarray, "S N T"], weights: Table) -> Table:
    """The sum of the terms of each cell."""
    _, num_steps, num_tokens = weights.shape
    flat = (seed_index(cells) * num_steps + np.arange(num_steps)) * num_tokens + cells
    return np.bincount(flat.ravel(), terms.ravel(), weights.size).reshape(weights.shape)


def other_tokens(
    rngs: Sequence[np.random.Generator], traces: Traces, num_tokens: int, num_alternatives: int
) -> Int[np.ndarray, "S *N T K"]:
    """Distinct tokens other than the trace's own at every step, any set as likely as any other (Floyd's algorithm)."""
    shape, chosen = traces.shape[1:], np.empty((*traces.shape, 0), dtype=traces.dtype)
    for last in range(num_tokens - 1 - num_alternatives, num_tokens - 1):
        drawn = draw(rngs, lambda rng, last=last: rng.integers(last + 1, size=shape))
        is_taken = (chosen == drawn[..., None]).any(-1)
        chosen = np.concatenate([chosen, np.where(is_taken, last, drawn)[..., None]], axis=-1)
    return chosen + (chosen >= traces[..., None])
