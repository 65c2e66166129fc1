"""The study for people: its nested results in; tables, published against measured and of contestants, and computed findings out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from prm.benchmarks.tables import Table, interval
from prm.metrics import paired_difference
from prm.simulation import published_values
from prm.simulation.settings import SimulationConfig
from prm.simulation.study import SPARSITY

PUBLISHED_MEASURES = {
    "mse": "MSE",
    "calibrated_mse": "MSE after an affine map",
    "correlation": "correlation",
    "ranking": "ranking of all pairs",
    "ranking_critical": "ranking at critical steps",
    "ranking_within_steps": "ranking within a step",
}
MEASURES = {"correlation": "correlation of step scores with the truth", "first_error_f1": "first-error F1"}
SWEEPS = {
    "budgets": "outcome queries",
    "horizons": "steps T",
    "completions": "K",
    "false_negatives": "false negatives",
    "false_positives": "false positives",
    "threshold": "e / e*",
}
"""Experiment on outcomes -> what its columns are."""
THRESHOLD_NOTE = "asym; e: false-positive rate, e*: the rate from which good steps are predicted to sink"
NOISE_METHODS = ("asym", "min", "robust_asym")
"""Contestants whose changes under noise the findings state."""
WORLD_LABELS = {"weakest_link": "weakest-link world", "additive": "additive world"}
HEAD = ["", "published", "ours", "seeds", "verdict"]


def study_tables(result: Mapping[str, Any], config: SimulationConfig) -> list[Table]:
    """The tables of every experiment in `result`; the published ones with verdicts, if their settings are the published ones."""
    printed = published_values.printed(config)
    makers = {"methods": _methods, "lengths": _lengths, "sparsity": _sparsity, "seeds": _seeds}
    tables = [make(result[name], printed.get(name, {})) for name, make in makers.items() if name in result]
    tables += [_artefacts(result["artefacts"])] if "artefacts" in result else []
    for name in (sweep for sweep in SWEEPS if sweep in result):
        tables += _sweep_tables(name, result[name])
    return tables


def verdicts(result: Mapping[str, Any], config: SimulationConfig) -> dict[str, dict[str, int]]:
    """How many cells of each published table got which verdict."""
    counts: dict[str, dict[str, int]] = {}
    for table, published, ours in _published_cells(result, published_values.printed(config)):
        counts.setdefault(table, {"yes": 0, "range": 0, "no": 0})[published_values.verdict(published, ours)] += 1
    return counts


def _published_cells(result: Mapping[str, Any], printed: Mapping[str, Any]) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    for name, by_method in printed.items():
        for method, found in result.get(name, {}).items():
            if name == "methods":
                yield from ((name, value, found[measure]) for measure, value in by_method[method].items())
            elif name == "seeds":
                yield name, by_method[method][0], found["correlation"]
            else:
                measure = "correlation" if name == "lengths" else "ranking"
                yield from ((name, by_method[method][x], cell[measure]) for x, cell in found.items() if x in by_method[method])


def _methods(found: Mapping[str, Any], printed: Mapping[str, Any]) -> Table:
    rows = [HEAD]
    for method, measured in found.items():
        published = printed.get(method, {})
        rows += [[f"{method}: {label}", *_cells(published.get(name), measured[name])] for name, label in PUBLISHED_MEASURES.items()]
    return Table("Published study: four training signals", rows, published_values.VERDICT_NOTE)


def _lengths(found: Mapping[str, Any], printed: Mapping[str, Any]) -> Table:
    rows = [HEAD]
    for method, columns in found.items():
        published = printed.get(method, {})
        rows += [[f"{method}: T = {x}", *_cells(published.get(x), measured["correlation"])] for x, measured in columns.items()]
    return Table("Published study: correlation with the true step values, by length", rows, published_values.VERDICT_NOTE)


def _sparsity(found: Mapping[str, Any], printed: Mapping[str, Any]) -> Table:
    others = ("ranking_critical", "ranking_within_steps")
    rows = [[*HEAD, *(f"ours, {PUBLISHED_MEASURES[name]}" for name in others)]]
    for method, columns in found.items():
        for x, measured in columns.items():
            cells = _cells(printed.get(method, {}).get(x), measured["ranking"])
            rows.append([f"{method}: {x}", *cells, *(f"{measured[name]['mean']:.3f}" for name in others)])
    shares = ", ".join(f"{name} {share:g}" for name, share in SPARSITY.items())
    note = f"Share of critical steps, which the publication does not give: {shares}. {published_values.VERDICT_NOTE}"
    return Table("Published study: ranking accuracy, by share of critical steps", rows, note)


def _seeds(found: Mapping[str, Any], printed: Mapping[str, Any]) -> Table:
    rows = [["", "published, 5 seeds", "ours", "seeds", "verdict on the mean", "our spread over theirs"]]
    for method, measured in found.items():
        mean, spread = printed.get(method, (None, None))
        _, ours, seeds, said = _cells(mean, measured["correlation"])
        published = ratio = ""
        if mean is not None:
            published, ratio = f"{mean:.3f} ± {spread:.3f}", f"{measured['correlation']['sd'] / spread:.1f}"
        rows.append([method, published, ours, seeds, said, ratio])
    return Table("Published study: correlation over seeds, mean ± standard deviation", rows, published_values.VERDICT_NOTE)


def _artefacts(found: Mapping[str, Any]) -> Table:
    lengths = list(next(iter(found.values())))
    rows = [["", *(f"T = {x}" for x in lengths)]]
    rows += [[name, *(_mean_sd(columns[x]["correlation"]) for x in lengths)] for name, columns in found.items()]
    note = "The named settings changed, all others as published; mean ± standard deviation over seeds."
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
            notes = ["95% bootstrap intervals over seeds"]
            notes += ["threshold tuned on other traces"] if measure == "first_error_f1" else []
            notes += [THRESHOLD_NOTE] if name == "threshold" else []
            tables.append(Table(f"{WORLD_LABELS[world].capitalize()}, {SWEEPS[name]}: {label}", rows, "; ".join(notes)))
    return tables


def findings(result: Mapping[str, Any], config: SimulationConfig) -> list[str]:
    """What the numbers say, computed: verdicts, the order of the contestants, what noise does, and where asym breaks."""
    lines = [
        f"{name.capitalize()} table: {counts['yes']} of {sum(counts.values())} published cells within {published_values.TOLERANCE} "
        f"of our mean, {counts['range']} more within the range of seeds."
        for name, counts in verdicts(result, config).items()
    ]
    for world, by_method in result.get("budgets", {}).items():
        budget = _shared_column(by_method)
        lines += [_order(world, by_method, budget), *_against_asym(world, by_method, budget)]
    for name in ("false_negatives", "false_positives"):
        for by_method in result.get(name, {}).values():
            lines += [_noise(name, m, by_method[m]) for m in NOISE_METHODS if m in by_method and "0" in by_method[m]]
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
    gaps = "; ".join(f"{rate}: {_paired(cells[rate], cells['0'])}" for rate in cells if rate != "0")
    return f"{SWEEPS[name].capitalize()}, {method}: {cells['0']['correlation']['mean']:.3f} without, and from there at {gaps}."


def _breaking(kind: str, cells: Mapping[str, Any]) -> str:
    """Where the correlation falls below half of what it is without false positives, interpolated."""
    x, y = (np.array(values) for values in zip(*((float(m), c["correlation"]["mean"]) for m, c in cells.items()), strict=True))
    half = y[0] / 2
    below = np.flatnonzero(y < half)
    if not below.size or not below[0]:
        return f"{kind}: asym keeps half of its correlation up to {x[-1]:g} e*."
    i = below[0]
    place = x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - half) / (y[i - 1] - y[i])
    return f"{kind}: asym has lost half of its correlation at {place:.2f} e*."


def _paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    gap = paired_difference(*(np.array(part["correlation"]["seeds"]) for part in (first, second)))
    return f"{gap.difference:+.3f} {interval(float(gap.low), float(gap.high), '+.3f')}"


def _cells(published: float | None, ours: Mapping[str, Any]) -> list[str]:
    if published is None:
        return ["", *_ours(ours), ""]
    return [f"{published:.3f}", *_ours(ours), published_values.verdict(published, ours)]


def _ours(ours: Mapping[str, Any]) -> list[str]:
    return [_mean_sd(ours), f"{ours['min']:.3f} to {ours['max']:.3f}"]


def _mean_sd(ours: Mapping[str, Any]) -> str:
    return f"{ours['mean']:.3f} ± {ours['sd']:.3f}"


def _with_interval(ours: Mapping[str, Any]) -> str:
    return f"{ours['mean']:.3f} {interval(ours['low'], ours['high'], '.3f')}"
