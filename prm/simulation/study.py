"""The experiments: options in; the runs of each, where they stand in it, and their means with intervals over seeds out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prm.metrics import bootstrap_interval
from prm.simulation.contestants import CONTESTANTS
from prm.simulation.environment import WeakestLinkWorld
from prm.simulation.runs import Measures, OutcomeRun, PublishedRun, Run, measure_all
from prm.simulation.settings import PUBLISHED, SimulationConfig

Grid = dict[tuple[str, ...], Run]
"""Where a run stands in its experiment -> the run."""
SPARSITY = {"dense": 0.6, "moderate": 0.3, "sparse": 0.15, "very sparse": 0.05}
"""Share of critical steps. The publication names these four and gives no numbers; 0.3 is its default."""
PUBLISHED_METHODS = ("monte_carlo", "contrastive", "intervention", "td")
WORLDS = ("weakest_link", "additive")
THRESHOLD_SHARES = (0.25, 0.5, 0.75)
THRESHOLD_MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
NUM_COMPLETIONS = (1, 2, 4, 8)


def run_study(config: SimulationConfig) -> dict[str, Any]:
    """Every chosen experiment's means, spreads and intervals, `result[experiment][place...][measure]`.

    Raises ValueError, before anything runs, for settings that a world or a method does not allow.
    """
    if unknown := [name for name in config.methods if name not in CONTESTANTS]:
        raise ValueError(f"--methods {unknown[0]}: unknown; choose from {', '.join(CONTESTANTS)}")
    grids = {name: runs for name in config.experiments if (runs := grid(name, config))}
    runs = [run for runs in grids.values() for run in runs.values()]
    if not runs:
        raise ValueError(f"--methods {' '.join(config.methods)}: no experiment of {' '.join(config.experiments)} has any of them")
    for run in dict.fromkeys(runs):
        run.check()
    found = measure_all(runs, config.seeds, Path(config.output_dir) / "runs", config.num_workers)
    return {name: nested({place: summary(found[run]) for place, run in runs.items()}) for name, runs in grids.items()}


def grid(experiment: str, config: SimulationConfig) -> Grid:
    """The runs of an experiment."""
    return published_grid(experiment, config) if experiment in PUBLISHED else outcome_grid(experiment, config)


def published_grid(experiment: str, config: SimulationConfig) -> Grid:
    chosen = [name for name in PUBLISHED_METHODS if not config.methods or name in config.methods]
    common = {
        "num_tokens": config.num_tokens,
        "num_alternatives": config.num_alternatives,
        "num_iterations": config.num_iterations,
        "num_steps": config.length,
    }
    if experiment in ("methods", "seeds"):
        return {(name,): PublishedRun(method=name, **common) for name in chosen}
    if experiment == "sparsity":
        places = ((name, kind, rate) for name in chosen for kind, rate in SPARSITY.items())
        return {(name, kind): PublishedRun(method=name, **common | {"critical_rate": rate}) for name, kind, rate in places}
    variants = {name: {} for name in chosen} if experiment == "lengths" else artefacts(chosen)
    places = ((name, length) for name in variants for length in config.num_steps)
    return {
        (name, str(length)): PublishedRun(**{"method": name} | common | {"num_steps": length} | variants[name])
        for name, length in places
    }


def artefacts(chosen: list[str]) -> dict[str, dict[str, Any]]:
    """What the published differences hang on, by name: the settings that are changed."""
    changed = {
        "contrastive": {"contrastive, W starts at 0": {"init_scale": 0.0}},
        "intervention": {"intervention, W starts at 0": {"init_scale": 0.0}},
        "td": {
            "td, lambda 1": {"td_lambda": 1.0},
            "td, ten times the rate": {"learning_rate": 0.1},
            "td, lambda 1, ten times the rate": {"td_lambda": 1.0, "learning_rate": 0.1},
        },
        "monte_carlo": {
            "monte_carlo on the outcome": {"method": "monte_carlo_outcome"},
            "monte_carlo on the outcome, W starts at 0": {"method": "monte_carlo_outcome", "init_scale": 0.0},
        },
    }
    return {name: {"method": method} | change for method in chosen for name, change in changed[method].items()}


def outcome_grid(experiment: str, config: SimulationConfig) -> Grid:
    chosen = [name for name in CONTESTANTS if not config.methods or name in config.methods]
    common = {
        "num_tokens": config.num_tokens,
        "num_others": config.num_alternatives,
        "num_iterations": config.num_iterations,
        "num_steps": config.length,
        "budget": config.budget,
    }
    if experiment == "threshold":
        return threshold_grid(common, config) if "asym" in chosen else {}
    field, values = {
        "budgets": ("budget", config.budgets),
        "horizons": ("num_steps", config.num_steps),
        "completions": ("num_others", [k for k in NUM_COMPLETIONS if k < config.num_tokens]),
        "false_negatives": ("false_negatives", config.noise_rates),
        "false_positives": ("false_positives", config.noise_rates),
    }[experiment]
    if experiment == "completions":
        chosen = [name for name in chosen if name in ("monte_carlo", "intervention")]
    worlds = WORLDS if experiment in ("budgets", "horizons", "completions") else WORLDS[:1]
    return {
        (world, name, f"{value:g}"): OutcomeRun(**common | {"contestant": name, "world": world, field: value})
        for world in worlds
        for name in chosen
        for value in values
    }


def threshold_grid(common: Mapping[str, Any], config: SimulationConfig) -> Grid:
    """asym at multiples of the false-positive rate at which it is predicted to break, for several T and shares of right traces."""
    kinds = [(length, 0.5) for length in config.num_steps]
    kinds += [(config.length, share) for share in THRESHOLD_SHARES if share != 0.5]
    places = [(length, share, multiple) for length, share in kinds for multiple in THRESHOLD_MULTIPLES]
    runs: Grid = {}
    for length, share, multiple in places:
        rate = multiple * breaking_rate(length, config.num_tokens, share)
        changed = {"num_steps": length, "share_right": share, "budget": max(config.budgets), "false_positives": rate}
        if rate < 1:
            name = f"T = {length}, {100 * share:g}% right"
            runs[name, f"{multiple:g}"] = OutcomeRun(**{**common, **changed, "contestant": "asym", "world": "weakest_link"})
    return runs


def breaking_rate(num_steps: int, num_tokens: int, share_right: float) -> float:
    """The chance e of calling a wrong trace right from which asym pushes good steps down: m P(right) / (P(wrong) (T - m)).

    A wrong trace has m wrong steps on average. Called right (e), the minimum pulls one of them up with weight 1 - r; called wrong
    (1 - e), the geometric mean A pushes every step down with weight (1 - r) A / (1 - A) / T. The m wrong steps rest where both
    cancel, e = (1 - e) m A / (1 - A) / T. There the T - m good steps of a wrong trace are pushed, (1 - r) aside, with
    (1 - e) (T - m) A / (1 - A) / T = e (T - m) / m in all, and those of a right trace pulled with 1 by its minimum. Push exceeds
    pull if P(wrong) e (T - m) / m > P(right). With m = 1 and half of the traces right that is about 1 / T.
    """
    world = WeakestLinkWorld.make([0], num_steps, num_tokens, share_right)
    right, m = world.prob_right, world.wrong_steps_of_wrong
    return m * right / ((1 - right) * (num_steps - m))


def summary(measured: Measures) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and range over seeds, and the bootstrap interval of the mean."""
    found = {}
    for name, column in measured.items():
        values = np.array(column)
        low, high = bootstrap_interval(values)
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        numbers = {"mean": values.mean(), "sd": spread, "low": low, "high": high, "min": values.min(), "max": values.max()}
        found[name] = {key: float(value) for key, value in numbers.items()} | {"seeds": column}
    return found


def nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """`{(a, b): x}` as `{a: {b: x}}`."""
    tree: dict[str, Any] = {}
    for place, value in flat.items():
        node = tree
        for name in place[:-1]:
            node = node.setdefault(name, {})
        node[place[-1]] = value
    return tree
