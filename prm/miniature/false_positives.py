"""What objectives make of false positives: wrong responses called right in; metrics, a table and a figure over the rates out."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from prm.benchmarks.response_scores import OWN
from prm.benchmarks.tables import align, interval, percent
from prm.figures import MARKERS, PALETTE, new_figure
from prm.files import read_records, write_json, write_jsonl, write_text
from prm.miniature.report import compare, measure
from prm.records import Response, to_row


def prm_name(loss: str, rate: float) -> str:
    """The name of a PRM's folder and files; the labels as graded (rate 0) add nothing to the objective's."""
    return f"{loss}-{rate:g}" if rate else loss


def dataset_folder(root: Path, rate: float) -> Path:
    return root / prm_name("dataset", rate)


def flip_outcomes(root: Path, rate: float, seed: int) -> None:
    """Write the dataset of this rate: the same responses as in `root/dataset`, some wrong ones called right."""
    for split in ("train", "validation"):
        responses = list(read_records(root / "dataset" / f"{split}.jsonl", Response))
        write_jsonl(dataset_folder(root, rate) / f"{split}.jsonl", with_false_positives(responses, rate, seed))


def with_false_positives(responses: list[Response], rate: float, seed: int) -> list[Response]:
    """Call wrong responses right until a share `rate` of the right ones contains a wrong step by their step labels.

    Raises ValueError if there are too few wrong responses.
    """
    num_flawed = sum(r.correct and is_flawed(r) for r in responses)
    num_right = sum(r.correct for r in responses)
    num_flips = max(0, round((rate * num_right - num_flawed) / (1 - rate)))
    candidates = sorted(r.key for r in responses if not r.correct and is_flawed(r))
    if num_flips > len(candidates):
        raise ValueError(f"false positive rate {rate} needs {num_flips} wrong responses to flip, there are {len(candidates)}")
    flipped = set(random.Random(seed).sample(candidates, num_flips))
    return [Response(**{**to_row(r), "correct": True}) if r.key in flipped else r for r in responses]


def is_flawed(response: Response) -> bool:
    return min(response.step_labels) < 0


def write_study(root: Path, losses: Sequence[str], rates: Sequence[float]) -> str:
    """Write `metrics.json`, `report.txt` and `curves.png/.svg` into `root/false_positives`; returns the report's text."""
    names = [prm_name(loss, rate) for rate in rates for loss in losses]
    result = measure(root, names) | {"labels": {f"{rate:g}": label_quality(dataset_folder(root, rate)) for rate in rates}}
    result["findings"] = [*result["constant_scores"], *findings(result, losses, rates)]
    folder = root / "false_positives"
    write_json(folder / "metrics.json", result)
    plot(result, losses, rates, folder / "curves")
    text = "\n\n".join([table(result, losses, rates), "\n".join(f"- {line}" for line in result["findings"])])
    write_text(folder / "report.txt", text + "\n")
    return text


def label_quality(dataset: Path) -> dict[str, Any]:
    """What the training labels of one rate say: how many are right, how many of those have a wrong step, and the reverse.

    `flip_rate` is the chance that a response with a wrong step is called right: what robust_asym's option of this name assumes.
    """
    responses = list(read_records(dataset / "train.jsonl", Response))
    right = [r for r in responses if r.correct]
    num_false = sum(map(is_flawed, right))
    return {
        "num_responses": len(responses),
        "num_right": len(right),
        "right_with_wrong_step": num_false / max(len(right), 1),
        "flip_rate": num_false / max(sum(map(is_flawed, responses)), 1),
    }


def findings(result: Mapping[str, Any], losses: Sequence[str], rates: Sequence[float]) -> list[str]:
    """The first objective against the others at every rate, and every objective against itself without added false positives."""
    curves, n = result["best_of_n"], str(result["best_of_n"]["n"][-1])
    pairs = [(other, losses[0], rate, rate) for rate in rates for other in losses[1:]]
    pairs += [(loss, loss, max(rates), min(rates)) for loss in losses if len(rates) > 1]
    return [compare(curves, prm_name(first, rate), prm_name(second, other), n) for first, second, rate, other in pairs]


def table(result: Mapping[str, Any], losses: Sequence[str], rates: Sequence[float]) -> str:
    curves = result["best_of_n"]
    n, num_questions = str(curves["n"][-1]), curves["num_questions"]
    responses = next(iter(result["labels"].values()))["num_responses"]
    head = f"{responses} training responses; {num_questions} held-out questions, {n} responses each; 95% bootstrap intervals"
    rows = [["right with a wrong step", "flip rate", "loss", f"Best-of-{n}", "interval", "step AUC", "first-error F1", "interval"]]
    for rate in rates:
        labels = result["labels"][f"{rate:g}"]
        for loss in losses:
            name = prm_name(loss, rate)
            curve, steps = curves["prms"][name][OWN]["best_of_n"], result["steps"][name]
            f1 = steps["first_error"]["oracle"]
            cells = [percent(labels["right_with_wrong_step"]) + "%", f"{labels['flip_rate']:.2f}", loss]
            cells += [percent(curve["accuracy"][n]), interval(curve["low"][n], curve["high"][n])]
            rows.append([*cells, f"{steps['auc']:.3f}", percent(f1["f1"]), interval(f1["low"], f1["high"])])
    vote = curves["baselines"]["majority_vote"]
    baselines = f"random {percent(curves['baselines']['random']['accuracy'][n])}"
    baselines += f", majority vote {percent(vote['accuracy'][n])}" if vote else ""
    return f"{head}\n\n{align(rows)}\n\nBest-of-{n} of {baselines}; first-error F1 at the best threshold"


def plot(result: Mapping[str, Any], losses: Sequence[str], rates: Sequence[float], stem: Path) -> None:
    """`stem`.png and .svg: Best-of-N on the left, first-error F1 on the right, over the share of false positives."""
    n = str(result["best_of_n"]["n"][-1])
    shares = [100 * result["labels"][f"{rate:g}"]["right_with_wrong_step"] for rate in rates]
    with new_figure(stem, 9, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        for loss, color, marker in zip(losses, PALETTE, MARKERS, strict=False):
            names = [prm_name(loss, rate) for rate in rates]
            chosen = [result["best_of_n"]["prms"][name][OWN]["best_of_n"] for name in names]
            draw(left, shares, [[c[key][n] for c in chosen] for key in ("accuracy", "low", "high")], loss, color, marker)
            found = [result["steps"][name]["first_error"]["oracle"] for name in names]
            draw(right, shares, [[f[key] for f in found] for key in ("f1", "low", "high")], loss, color, marker)
        if vote := result["best_of_n"]["baselines"]["majority_vote"]:
            left.axhline(100 * vote["accuracy"][n], color="#444444", ls="--", lw=1.4, label="majority vote")
        left.set(title=f"Best-of-{n}", ylabel="accuracy of the chosen answer (%)")
        right.set(title="Finding the first wrong step", ylabel="F1 (%), best threshold")
        for axis in (left, right):
            axis.set(xlabel="right training answers with a wrong step (%)", ylim=(0, 103))
        left.legend(loc="lower left")


def draw(axis: Axes, x: Sequence[float], y_low_high: Sequence[Sequence[float]], label: str, color: str, marker: str) -> None:
    y, low, high = ([100 * value for value in values] for values in y_low_high)
    axis.plot(x, y, color=color, marker=marker, lw=1.8, label=label)
    axis.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
