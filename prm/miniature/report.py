"""The miniature's results: a finished run's folder in, metrics.json, one table, one figure and computed findings out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from prm import metrics
from prm.aggregation import Aggregation
from prm.benchmarks.best_of_n.candidates import with_unscored
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, evaluate_best_of_n
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.response_scores import OWN
from prm.benchmarks.tables import align, interval, percent
from prm.data.sources import load_responses
from prm.figures import MARKERS, PALETTE, new_figure
from prm.files import read_records, write_json, write_text
from prm.records import Response, Rollout, StepScores
from prm.steps import read_prm_config

LEARNABLE_AUC = 0.95
BASELINES = {"random": "random", "majority_vote": "majority vote", "pass_at_n": "any right (pass@N)"}


def write_report(root: Path, losses: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Write `metrics.json`, `report.txt` and `curves.png/.svg` into `root`; returns the report's text."""
    outcomes = {split: outcome_quality(root, split) for split in ("train", "eval")}
    result = measure(root, losses) | {"outcomes": outcomes, "seconds": dict(seconds)}
    result["findings"] = [*result["constant_scores"], *findings(result, losses)]
    write_json(root / "metrics.json", result)
    plot(result, losses, root / "curves")
    text = "\n\n".join([table(result, losses), outcomes_text(result), "\n".join(f"- {line}" for line in result["findings"])])
    write_text(root / "report.txt", text + "\n")
    return text


def measure(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """Best-of-N curves and step quality of the PRMs `models/NAME`, whose scores lie in `scores/NAME.jsonl`."""
    judged = {r.key: r for r in read_records(root / "labels" / "eval.jsonl", Response)}
    rollouts = load_responses(root / "graded" / "eval.jsonl")
    scores = {name: list(read_records(root / "scores" / f"{name}.jsonl", StepScores)) for name in names}
    own = {name: Aggregation.of(read_prm_config(root / "models" / name)) for name in names}
    constant = constant_notes({name: [record.step_scores for record in records] for name, records in scores.items()})
    candidates = {name: with_unscored(name, scores[name], rollouts) for name in names}
    return {
        "best_of_n": evaluate_best_of_n(candidates, BestOfNConfig(aggregation=[OWN]), own),
        "aggregation": {name: aggregation.name for name, aggregation in own.items()},
        "steps": {name: step_quality(scores[name], judged, root / "first_error" / name) for name in names},
        "constant_scores": constant,
    }


def step_quality(records: Sequence[StepScores], judged: Mapping, folder: Path) -> dict[str, Any]:
    """How well step scores separate good steps from bad ones (all steps, pooled), and first-error F1 with its interval."""
    scores = np.concatenate([r.step_scores for r in records])
    labels = np.concatenate([judged[r.key].step_labels for r in records]) > 0
    first_error = json.loads((folder / "metrics.json").read_text())
    rules = {rule: by_rule["subsets"]["miniature"] for rule, by_rule in first_error["results"].items()}
    return {
        "auc": metrics.roc_auc(scores, labels),
        "num_steps": len(scores),
        "share_good": float(labels.mean()),
        "first_error": rules,
        "random_oracle_f1": first_error["baselines"]["random_oracle"]["average"]["f1"],
    }


def outcome_quality(root: Path, split: str) -> dict[str, Any]:
    """What the outcome label says against what the judge says."""
    rollouts = list(read_records(root / "graded" / f"{split}.jsonl", Rollout))
    judged = {r.key: r for r in read_records(root / "labels" / f"{split}.jsonl", Response)}
    is_flawed = {key: min(response.step_labels) < 0 for key, response in judged.items()}
    right = [r for r in rollouts if r.correct]
    wrong = [r for r in rollouts if r.correct is False]
    return {
        "num_responses": len(rollouts),
        "num_correct": len(right),
        "num_unlabelled": len(rollouts) - len(right) - len(wrong),
        "right_with_wrong_step": sum(is_flawed.get(r.key, True) for r in right) / max(len(right), 1),
        "wrong_without_wrong_step": sum(not is_flawed.get(r.key, True) for r in wrong) / max(len(wrong), 1),
    }


def findings(result: Mapping[str, Any], losses: Sequence[str]) -> list[str]:
    """One sentence per question that the miniature was made for, each decided by the numbers."""
    curves, n = result["best_of_n"], str(result["best_of_n"]["n"][-1])
    lines = []
    if "step_ce" in losses:
        auc = result["steps"]["step_ce"]["auc"]
        verdict = (
            "the world is learnable" if auc >= LEARNABLE_AUC else "the world is not learned, and no comparison below means much"
        )
        lines.append(f"With step labels, step_ce tells good steps from bad ones with AUC {auc:.3f}: {verdict}.")
    lines += [compare(curves, loss, "majority_vote", n) for loss in losses]
    if "asym" in losses:
        lines += [compare(curves, "asym", other, n) for other in ("random", *losses) if other != "asym"]
    rate = result["outcomes"]["train"]["right_with_wrong_step"]
    lines.append(f"Of the right training answers, {100 * rate:.1f}% contain a wrong step (false positives of the outcome label).")
    return lines


def compare(curves: Mapping[str, Any], first: str, second: str, n: str) -> str:
    """A sentence from the paired test: better, worse, or not to be told apart."""
    tests = curves["differences"][OWN]
    is_listed = second in tests.get(first, {})
    sign, test = (1, tests[first][second]) if is_listed else (-1, tests[second][first])
    low, high = sorted(100 * sign * test[end][n] for end in ("low", "high"))
    verdict = "beats" if low > 0 else "loses to" if high < 0 else "cannot be told apart from"
    gap, name = 100 * sign * test["difference"][n], BASELINES.get(second, second)
    return f"At N = {n}, {first} {verdict} {name}: {gap:+.1f} points {interval(low, high, '+.1f')} (95%, paired over questions)."


def table(result: Mapping[str, Any], losses: Sequence[str]) -> str:
    curves = result["best_of_n"]
    ns = curves["n"]
    head = f"{curves['num_questions']} held-out questions, {ns[-1]} responses each; accuracy and F1 in %, 95% bootstrap intervals"
    columns = [
        "",
        "pooled by",
        *(f"N={n}" for n in ns),
        f"interval, N={ns[-1]}",
        "step AUC",
        "first-error F1",
        "interval",
        "F1 at 0.5",
    ]
    rows = [columns]
    for name, label in BASELINES.items():
        if curve := curves["baselines"][name]:
            rows.append([label, "", *curve_cells(curve, ns), "", "", "", ""])
    for loss in losses:
        steps = result["steps"][loss]
        oracle, fixed = steps["first_error"]["oracle"], steps["first_error"]["fixed"]
        cells = [
            f"{steps['auc']:.3f}",
            percent(oracle["f1"]),
            interval(oracle["low"], oracle["high"]),
            percent(fixed["f1"]),
        ]
        rows.append([loss, result["aggregation"][loss], *curve_cells(curves["prms"][loss][OWN]["best_of_n"], ns), *cells])
    random_f1 = next(iter(result["steps"].values()))["random_oracle_f1"]
    rows.append(["random step scores", *[""] * (len(ns) + 3), percent(random_f1), "", ""])
    return f"{head}\n\n{align(rows)}\n\nfirst-error F1: best threshold (oracle) and threshold 0.5"


def curve_cells(curve: Mapping[str, Any], ns: Sequence[int]) -> list[str]:
    last = str(ns[-1])
    return [*(percent(curve["accuracy"][str(n)]) for n in ns), interval(curve["low"][last], curve["high"][last])]


def outcomes_text(result: Mapping[str, Any]) -> str:
    rows = [["outcome labels", "responses", "right", "no answer", "right with a wrong step", "wrong without one"]]
    for split, o in result["outcomes"].items():
        share = [percent(o["num_correct"] / o["num_responses"]) + "%", percent(o["num_unlabelled"] / o["num_responses"]) + "%"]
        shares = [percent(o["right_with_wrong_step"]) + "%", percent(o["wrong_without_wrong_step"]) + "%"]
        rows.append([split, str(o["num_responses"]), *share, *shares])
    total = sum(result["seconds"].values())
    slowest = sorted(result["seconds"].items(), key=lambda item: -item[1])[:5]
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in slowest)
    return f"{align(rows)}\n\n{total / 60:.1f} minutes in all; longest: {times}"


def plot(result: Mapping[str, Any], losses: Sequence[str], stem: Path) -> None:
    """`stem`.png and .svg: Best-of-N curves on the left, first-error F1 per objective on the right."""
    with new_figure(stem, 10.5, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.9, 1])
        draw_curves(left, result["best_of_n"], losses)
        draw_first_error(right, result["steps"], losses)


def draw_curves(axis: Axes, curves: Mapping[str, Any], losses: Sequence[str]) -> None:
    ns = curves["n"]
    for name, grey in (("pass_at_n", "#b5b5b5"), ("majority_vote", "#444444"), ("random", "#8a8a8a")):
        if curve := curves["baselines"][name]:
            draw_curve(axis, curve, ns, BASELINES[name], grey, "--", None)
    for loss, color, marker in zip(losses, PALETTE, MARKERS, strict=False):
        draw_curve(axis, curves["prms"][loss][OWN]["best_of_n"], ns, loss, color, "-", marker)
    axis.set(xscale="log", xlabel="N, responses to choose from", ylabel="accuracy of the chosen answer (%)", title="Best-of-N")
    axis.set_xticks(ns, labels=map(str, ns))
    axis.minorticks_off()
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_curve(
    axis: Axes, curve: Mapping[str, Any], ns: Sequence[int], label: str, color: str, style: str, marker: str | None
) -> None:
    values = {name: [100 * curve[name][str(n)] for n in ns] for name in ("accuracy", "low", "high")}
    axis.plot(ns, values["accuracy"], style, color=color, marker=marker, markersize=4.5, lw=1.8, label=label)
    axis.fill_between(ns, values["low"], values["high"], color=color, alpha=0.10, lw=0)


def draw_first_error(axis: Axes, steps: Mapping[str, Any], losses: Sequence[str]) -> None:
    best = [steps[loss]["first_error"]["oracle"] for loss in losses]
    values = np.array([100 * b["f1"] for b in best])
    spread = np.abs(np.array([[100 * b["low"] for b in best], [100 * b["high"] for b in best]]) - values)
    places = np.arange(len(losses))[::-1]
    axis.barh(places, values, xerr=spread, color=PALETTE[: len(losses)], height=0.62, error_kw={"lw": 1, "ecolor": "#333333"})
    for place, value, high in zip(places, values, spread[1], strict=True):
        axis.text(value + high + 1.5, place, f"{value:.0f}", va="center", fontsize=9)
    chance = 100 * next(iter(steps.values()))["random_oracle_f1"]
    axis.axvline(chance, color="#8a8a8a", ls="--", lw=1.4)
    axis.text(chance + 1, len(losses) - 0.45, "random scores", color="#6a6a6a", fontsize=8.5, va="center")
    axis.set(xlim=(0, 108), ylim=(-0.6, len(losses) - 0.2), xlabel="F1 (%), best threshold", title="Finding the first wrong step")
    axis.set_yticks(places, labels=list(losses))
    axis.grid(False, axis="y")
