"""The study for people: its nested results in; tables, published against measured and of contestants, and computed findings out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from prm.benchmarks.tables import Table
from prm.metrics import paired_difference
from prm.simulation import published_values
from prm.simulation.study import SPARSITY

PUBLISHED_MEASURES = {
    "mse": "MSE",
    "calibrated_mse": "MSE after an affine map",
    "correlation": "correlation",
    "ranking": "ranking of all pairs",
    "ranking_critical": "ranking at critical steps",
    "ranking_within_steps": "ranking within a step",
}
MEASURES = {"correlation": "correlation of step scores with the truth", "first_error_f1": "first-error F1 at the best threshold"}
SWEEPS = {
    "budgets": "outcome queries",
    "horizons": "steps T",
    "completions": "K",
    "false_negatives": "false negatives",
    "false_positives": "false positives",
    "threshold": "e / e*",
}
"""Experiment on outcomes -> what its columns are."""
THRESHOLD_NOTE = "asym; e: false-positive rate, e*: the rate predicted to break it, P(right) / (P(wrong) T)"
WORLD_LABELS = {"weakest_link": "weakest-link world", "additive": "additive world"}
HALF = 0.5


def study_tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of every experiment in `result`, and the verdicts on the published ones."""
    makers = {"methods": _methods, "lengths": _lengths, "sparsity": _sparsity, "seeds": _seeds, "artefacts": _artefacts}
    tables = [makers[name](result[name]) for name in makers if name in result]
    for name in (sweep for sweep in SWEEPS if sweep in result):
        tables += _sweep_tables(name, result[name])
    return tables


def verdicts(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """How many cells of each published table got which verdict."""
    counts: dict[str, dict[str, int]] = {}
    for table, published, ours in _published_cells(result):
        counts.setdefault(table, {"yes": 0, "range": 0, "no": 0})[published_values.verdict(published, ours)] += 1
    return counts


def _published_cells(result: Mapping[str, Any]) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    for method, found in result.get("methods", {}).items():
        for measure, value in published_values.METHODS[method].items():
            yield "methods", value, found[measure]
    for name, values, measure in (
        ("lengths", published_values.LENGTHS, "correlation"),
        ("sparsity", published_values.SPARSITY, "ranking"),
    ):
        for method, columns in result.get(name, {}).items():
            yield from ((name, values[method][x], found[measure]) for x, found in columns.items() if x in values[method])
    for method, found in result.get("seeds", {}).items():
        yield "seeds", published_values.SEEDS[method][0], found["correlation"]


def _methods(found: Mapping[str, Any]) -> Table:
    rows = [["", "published", "ours", "seeds", "verdict"]]
    for method, measured in found.items():
        published = published_values.METHODS[method]
        rows += [[f"{method}: {label}", *_cells(published.get(name), measured[name])] for name, label in PUBLISHED_MEASURES.items()]
    return Table("Published study: four training signals", rows, published_values.VERDICT_NOTE)


def _lengths(found: Mapping[str, Any]) -> Table:
    rows = [["", "published", "ours", "seeds", "verdict"]]
    for method, columns in found.items():
        for x, measured in columns.items():
            cells = _cells(published_values.LENGTHS[method].get(x), measured["correlation"])
            rows.append([f"{method}: T = {x}", *cells])
    return Table("Published study: correlation with the true step values, by length", rows, published_values.VERDICT_NOTE)


def _sparsity(found: Mapping[str, Any]) -> Table:
    others = ("ranking_critical", "ranking_within_steps")
    rows = [["", "published", "ours", "seeds", "verdict", *(f"ours, {PUBLISHED_MEASURES[name]}" for name in others)]]
    for method, columns in found.items():
        for x, measured in columns.items():
            cells = _cells(published_values.SPARSITY[method][x], measured["ranking"])
            rows.append([f"{method}: {x}", *cells, *(f"{measured[name]['mean']:.3f}" for name in others)])
    shares = ", ".join(f"{name} {share:g}" for name, share in SPARSITY.items())
    note = f"Share of critical steps, which the publication does not give: {shares}. {published_values.VERDICT_NOTE}"
    return Table("Published study: ranking accuracy, by share of critical steps", rows, note)


def _seeds(found: Mapping[str, Any]) -> Table:
    rows = [["", "published, 5 seeds", "ours", "seeds", "verdict"]]
    for method, measured in found.items():
        mean, spread = published_values.SEEDS[method]
        _, ours, seeds, said = _cells(mean, measured["correlation"])
        rows.append([method, f"{mean:.3f} ± {spread:.3f}", ours, seeds, said])
    return Table("Published study: correlation over seeds, mean ± standard deviation", rows, published_values.VERDICT_NOTE)


def _artefacts(found: Mapping[str, Any]) -> Table:
    lengths = list(next(iter(found.values())))
    rows = [["", *(f"T = {x}" for x in lengths)]]
    rows += [[name, *(_mean_sd(columns[x]["correlation"]) for x in lengths)] for name, columns in found.items()]
    note = "One setting changed at a time, all others as published; mean ± standard deviation over seeds."
    return Table("What the published differences hang on: correlation with the true step values", rows, note)


def _sweep_tables(name: str, found: Mapping[str, Any]) -> list[Table]:
    by_world = found if name != "threshold" else {"weakest_link": found}
    tables = []
    for world, by_method in by_world.items():
        columns = list(dict.fromkeys(x for cells in by_method.values() for x in cells))
        for measure, label in MEASURES.items():
            if measure not in next(iter(next(iter(by_method.values())).values())):
                continue
            rows = [[SWEEPS[name], *columns]]
            rows += [
                [m, *(_with_interval(cells[x][measure]) if x in cells else "" for x in columns)] for m, cells in by_method.items()
            ]
            note = "95% bootstrap intervals over seeds" + (f". {THRESHOLD_NOTE}" if name == "threshold" else "")
            tables.append(Table(f"{WORLD_LABELS[world].capitalize()}, {SWEEPS[name]}: {label}", rows, note))
    return tables


def findings(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, computed: verdicts, the order of the contestants, what noise does, and where asym breaks."""
    lines = [
        f"{name.capitalize()} table: {counts['yes']} of {sum(counts.values())} published cells within {published_values.TOLERANCE} "
        f"of our mean, {counts['range']} more within the range of seeds."
        for name, counts in verdicts(result).items()
    ]
    for world, by_method in result.get("budgets", {}).items():
        budget = _shared_column(by_method)
        lines += [_order(world, by_method, budget), *_against_asym(world, by_method, budget)]
    for name in ("false_negatives", "false_positives"):
        for by_method in result.get(name, {}).values():
            lines += [_noise(name, method, by_method[method]) for method in ("asym", "min", "robust_asym") if method in by_method]
    return lines + [_breaking(kind, cells) for kind, cells in result.get("threshold", {}).items()]


def _shared_column(by_method: Mapping[str, Any]) -> str:
    columns = list(next(iter(by_method.values())))
    return "100" if "100" in columns else columns[0]


def _order(world: str, by_method: Mapping[str, Any], column: str) -> str:
    means = {method: cells[column]["correlation"]["mean"] for method, cells in by_method.items()}
    ranked = ", ".join(f"{method} {means[method]:.3f}" for method in sorted(means, key=means.get, reverse=True))
    return f"{WORLD_LABELS[world].capitalize()}, {column} outcomes, correlation: {ranked}."


def _against_asym(world: str, by_method: Mapping[str, Any], column: str) -> Iterator[str]:
    if "asym" not in by_method:
        return
    for other in (name for name in ("min", "geometric_mean", "orm_sum") if name in by_method):
        gap = _paired(by_method["asym"][column], by_method[other][column])
        yield f"{WORLD_LABELS[world].capitalize()}, {column} outcomes: asym less {other} {gap} (95%, paired over seeds)."


def _noise(name: str, method: str, cells: Mapping[str, Any]) -> str:
    first, *rates = cells
    gaps = "; ".join(f"{rate}: {_paired(cells[rate], cells[first])}" for rate in rates)
    return f"{SWEEPS[name].capitalize()}, {method}: {cells[first]['correlation']['mean']:.3f} at {first}, and from there {gaps}."


def _breaking(kind: str, cells: Mapping[str, Any]) -> str:
    """Where the correlation falls below half of what it is without false positives, interpolated."""
    x, y = (np.array(values) for values in zip(*((float(m), c["correlation"]["mean"]) for m, c in cells.items()), strict=True))
    below = np.flatnonzero(y < HALF * y[0])
    if not below.size:
        return f"{kind}: asym keeps half of its correlation up to {x[-1]:g} times the predicted breaking rate."
    i = below[0]
    place = x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - HALF * y[0]) / (y[i - 1] - y[i])
    return f"{kind}: asym has lost half of its correlation at {place:.2f} times the predicted breaking rate."


def _paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    gap = paired_difference(*(np.array(part["correlation"]["seeds"]) for part in (first, second)))
    return f"{gap.difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def _cells(published: float | None, ours: Mapping[str, Any]) -> list[str]:
    if published is None:
        return ["", *_ours(ours), ""]
    return [f"{published:.3f}", *_ours(ours), published_values.verdict(published, ours)]


def _ours(ours: Mapping[str, Any]) -> list[str]:
    return [_mean_sd(ours), f"{ours['min']:.3f} to {ours['max']:.3f}"]


def _mean_sd(ours: Mapping[str, Any]) -> str:
    return f"{ours['mean']:.3f} ± {ours['sd']:.3f}"


def _with_interval(ours: Mapping[str, Any]) -> str:
    return f"{ours['mean']:.3f} [{ours['low']:.3f}, {ours['high']:.3f}]"
