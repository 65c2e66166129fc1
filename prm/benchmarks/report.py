"""Tables for the terminal: the metrics of a benchmark in, aligned text out."""

from collections.abc import Mapping
from typing import Any

from prm.benchmarks.tables import align, percent


def best_of_n_table(result: Mapping[str, Any]) -> str:
    """Accuracy per N of every PRM and baseline, one block per aggregation, and the tests of the best PRM at the largest N."""
    sizes = result["candidates_per_question"]
    pool = str(sizes["max"]) if sizes["min"] == sizes["max"] else f"{sizes['min']} to {sizes['max']}"
    blocks = [
        f"Best-of-N accuracy (%) on {result['num_questions']} questions with {pool} candidates each; "
        f"{100 * result['confidence']:g}% bootstrap intervals over questions"
    ]
    for aggregation, differences in result["differences"].items():
        rows = [[aggregation, *(f"N={n}" for n in result["n"]), f"interval at N={result['n'][-1]}"]]
        rows += [_curve_row(name.replace("_", " "), curve) for name, curve in result["baselines"].items() if curve]
        for prm, by_aggregation in result["prms"].items():
            rows.append(_curve_row(prm, by_aggregation[aggregation]["best_of_n"]))
            if weighted := by_aggregation[aggregation]["weighted_vote"]:
                rows.append(_curve_row(f"{prm}, weighted vote", weighted))
        blocks += [align(rows), _tests_of_the_best(result, aggregation, differences)]
    blocks.append(_notes(result))
    return "\n\n".join(block for block in blocks if block)


def _curve_row(name: str, curve: Mapping[str, Any]) -> list[str]:
    low, high = list(curve["low"].values())[-1], list(curve["high"].values())[-1]
    return [name, *map(percent, curve["accuracy"].values()), f"[{percent(low)}, {percent(high)}]"]


def _tests_of_the_best(result: Mapping[str, Any], aggregation: str, differences: Mapping[str, Any]) -> str:
    n = str(result["n"][-1])
    best = max(result["prms"], key=lambda prm: result["prms"][prm][aggregation]["best_of_n"]["accuracy"][n])
    rows = [[f"paired at N={n}, points", "difference", "interval", "p"]]
    tests = [(second, 100, test) for second, test in differences[best].items()]
    tests += [(first, -100, by_second[best]) for first, by_second in differences.items() if best in by_second]
    for other, points, test in tests:
        low, high = sorted(points * test[end][n] for end in ("low", "high"))
        gap = points * test["difference"][n]
        rows.append([f"{best} - {other}", f"{gap:+.1f}", f"[{low:+.1f}, {high:+.1f}]", f"{test['p_value'][n]:.4f}"])
    return align(rows)


def _notes(result: Mapping[str, Any]) -> str:
    notes = []
    if result["num_without_outcome"]:
        share = f"{result['num_without_outcome']} of {result['num_candidates']} candidates"
        notes.append(f"{share} have no outcome (no answer, timeout): they stay in the pool and count as wrong.")
    if result["num_questions_dropped"]:
        notes.append(f"{result['num_questions_dropped']} questions with fewer than {result['n'][-1]} candidates were left out.")
    if result["baselines"]["majority_vote"] is None:
        notes.append("No candidate has an extracted answer, so there is no vote.")
    return "\n".join(notes)
