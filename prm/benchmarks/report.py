"""Tables for the terminal: the metrics of a benchmark in, aligned text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from prm.benchmarks.tables import align, percent


def processbench_table(result: Mapping[str, Any]) -> str:
    """F1 per subset and threshold rule, both accuracies, step AUC and the content-free baseline."""
    subsets = list(result["step_auc"]["subsets"])
    rows = [["ProcessBench, F1 (%)", *subsets, "average"]]
    for rule, by_rule in result["results"].items():
        scores = [by_rule["subsets"][name] for name in subsets]
        rows.append(
            [
                rule if rule == "prediction" else f"{rule} threshold",
                *(percent(score["f1"]) for score in scores),
                percent(by_rule["average"]["f1"]),
            ]
        )
        rows.append(["  interval", *(f"[{percent(score['low'])}, {percent(score['high'])}]" for score in scores), ""])
        if rule != "prediction":
            rows.append(["  value", *(f"{score['threshold']:.4g}" for score in scores), ""])
        for name, key in (("  items with an error", "acc_error"), ("  correct items", "acc_correct")):
            rows.append([name, *(percent(score[key]) for score in scores), percent(by_rule["average"][key])])
    rows.append(_plain_row("random scores, oracle", result["random_oracle_f1"], subsets))
    rows.append(_plain_row("step AUC", result["step_auc"], subsets))
    return align(rows)


def _plain_row(name: str, by_subset: Mapping[str, Any], subsets: Sequence[str]) -> list[str]:
    return [name, *(percent(by_subset["subsets"][subset]) for subset in subsets), percent(by_subset["average"])]
