"""Does a PRM win by length? Measured curves and the lengths of the candidates in, length-controlled curves and preferences out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes

from prm import metrics
from prm.benchmarks.best_of_n.candidates import CandidatePool
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, MeasuredCurves, by_n, curve_of
from prm.benchmarks.response_scores import of_step_scores
from prm.benchmarks.score_files import Texts
from prm.figures import DARK_GREY, GREY, curve_look, figure_paths, legend_below, legend_label, log_scale, page_figure

LengthUnit = Literal["auto", "tokens", "characters", "steps"]
PAIR_LABELS = {"right_longer": "right one longer", "similar": "similar length", "right_shorter": "right one shorter"}


def candidate_lengths(pool: CandidatePool, texts: Texts, unit: LengthUnit = "auto") -> tuple[str, list[np.ndarray]]:
    """The unit and every candidate's length in it; auto is the first of tokens, characters and steps that all candidates have.

    Tokens are those that the policy generated, as the rollouts or the pool say; without texts a step is a step score.
    Raises ValueError for a unit that is not known for every candidate.
    """
    keys = [key for group in pool.keys for key in group]
    has_texts, has_tokens = (all(key in known for key in keys) for known in (texts.responses, texts.num_tokens))
    if unit == "auto":
        unit = "tokens" if has_tokens else "characters" if has_texts else "steps"
    if unit == "tokens" and not has_tokens:
        raise ValueError("--length_unit tokens: not every candidate has a num_tokens; give --rollouts with it, or choose steps")
    if unit == "characters" and not has_texts:
        raise ValueError("--length_unit characters: not every candidate has a text; give --rollouts, or choose steps")
    if unit == "tokens":
        flat = [texts.num_tokens[key] for key in keys]
    elif unit == "characters":
        flat = [sum(map(len, texts.responses[key].steps)) for key in keys]
    elif has_texts:
        flat = [len(texts.responses[key].steps) for key in keys]
    else:
        # A PRM with one score per response, an outcome model, does not tell; the others agree.
        by_prm = [[len(scores) for group in groups for scores in group] for groups in pool.step_scores.values()]
        flat = max(by_prm, key=max)
    return unit, np.split(np.array(flat, dtype=np.float64), np.cumsum(pool.sizes)[:-1])


def evaluate_length(
    measured: MeasuredCurves, unit: str, lengths: Sequence[np.ndarray], config: BestOfNConfig
) -> dict[str, Any] | None:
    """What length explains of each PRM's choices; None if no two candidates of a question differ in length.

    `baselines` choose the shortest or the longest. `prms[name][aggregation]` holds, as metrics/length.py defines them, the
    `preference` for length, the `pairs` won by class and the `length_controlled` curve; the `loss`, accuracy that the control takes
    (paired over questions); and `length_selected`, the mean length of the selected response at each N.
    """
    pool, ns = measured.pool, measured.ns
    if all(len(np.unique(group)) == 1 for group in lengths):
        return None
    by_length = {"shortest": [-group for group in lengths], "longest": list(lengths)}
    baselines = {name: metrics.over_ragged(metrics.best_of_n, ns, scores, pool.correct) for name, scores in by_length.items()}
    prms: dict[str, Any] = {}
    for (prm, aggregation), scores in measured.response_scores.items():
        selected = measured.values["prms", prm, aggregation, "best_of_n"]
        prms.setdefault(prm, {})[aggregation] = _of_prm(scores, lengths, pool.is_scored[prm], selected, measured, config)
    return {
        "unit": unit,
        "mean_length": float(np.concatenate(lengths).mean()),
        "mean_length_of_right": _mean_where(lengths, pool.correct, True),
        "mean_length_of_wrong": _mean_where(lengths, pool.correct, False),
        "baselines": {name: curve_of(values, ns, config) for name, values in baselines.items()},
        "prms": prms,
    }


def _of_prm(
    scores: Sequence[np.ndarray],
    lengths: Sequence[np.ndarray],
    is_scored: Sequence[np.ndarray],
    selected: np.ndarray,
    measured: MeasuredCurves,
    config: BestOfNConfig,
) -> dict[str, Any]:
    """The entry of one PRM and aggregation; `selected` is its Best-of-N curve per question.

    Preference and pairs count only candidates that the PRM could read: what is too long for it comes last, but not by its choice.
    """
    pool, ns = measured.pool, measured.ns
    groups = (scores, lengths, pool.correct)
    read = [[values[known] for values, known in zip(group, is_scored, strict=True)] for group in groups]
    preference = metrics.length_preference(*read)
    moments = metrics.length_moments(*read)
    low, high = metrics.ratio_interval(moments[:, 0], moments[:, 1], *config.draws)
    is_known = not np.isnan(preference)
    controlled_read = metrics.length_controlled(*read[:2], preference if is_known else 0.0)
    controlled_scores = [_unread_last(values, known) for values, known in zip(controlled_read, is_scored, strict=True)]
    controlled = metrics.over_ragged(metrics.best_of_n, ns, controlled_scores, pool.correct)
    loss = metrics.paired_difference(selected, controlled, *config.draws)
    wins, pairs = metrics.pair_wins(*read)
    return {
        "preference": {"slope": preference, "low": float(low), "high": float(high)} if is_known else None,
        "pairs": _pairs(wins, pairs, config),
        "length_controlled": curve_of(controlled, ns, config),
        "loss": {name: by_n(ns, values) for name, values in vars(loss).items()},
        "length_selected": by_n(ns, metrics.over_ragged(metrics.best_of_n, ns, scores, lengths).mean(axis=0)),
    }


def _unread_last(values: Float[np.ndarray, " read"], is_read: Bool[np.ndarray, " candidates"]) -> Float[np.ndarray, " candidates"]:
    every = np.full(len(is_read), values.min(initial=0.0) - 1)
    every[is_read] = values
    return every


def _pairs(wins: np.ndarray, pairs: np.ndarray, config: BestOfNConfig) -> dict[str, Any]:
    low, high = metrics.ratio_interval(wins, pairs, *config.draws)
    totals = pairs.sum(axis=0)
    return {
        name: {
            "num_pairs": int(totals[i]),
            "won": float(wins[:, i].sum() / totals[i]) if totals[i] else None,
            "low": float(low[i]) if totals[i] else None,
            "high": float(high[i]) if totals[i] else None,
        }
        for i, name in enumerate(metrics.PAIR_CLASSES)
    }


def _mean_where(lengths: Sequence[np.ndarray], correct: Sequence[np.ndarray], outcome: bool) -> float | None:
    chosen = np.concatenate(lengths)[np.concatenate(correct).astype(bool) == outcome]
    return float(chosen.mean()) if len(chosen) else None


def plot_length(result: Mapping[str, Any], length: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Write `path_stem`.png and .svg, for the first aggregation: curves with and without control, and pairs won by length."""
    aggregation = next(iter(result["differences"]))
    with page_figure(path_stem, 2, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        _draw_curves(left, result, length, aggregation)
        _draw_pairs(right, length, aggregation)
        legend_below(figure, [left], of_step_scores(aggregation))
    return figure_paths(path_stem)


def _draw_curves(axis: Axes, result: Mapping[str, Any], length: Mapping[str, Any], aggregation: str) -> None:
    ns = result["n"]
    for name, grey in (("shortest", DARK_GREY), ("longest", GREY)):
        values = [100 * value for value in length["baselines"][name]["accuracy"].values()]
        axis.plot(ns, values, ".:", color=grey, lw=1.6, label=f"always the {name}")
    for index, (prm, by_aggregation) in enumerate(length["prms"].items()):
        look = {**curve_look(index), "markersize": 4, "lw": 1.4}
        plain = result["prms"][prm][aggregation]["best_of_n"]["accuracy"].values()
        controlled = by_aggregation[aggregation]["length_controlled"]["accuracy"].values()
        axis.plot(ns, [100 * value for value in plain], **look, label=legend_label(prm))
        axis.plot(ns, [100 * value for value in controlled], **look | {"linestyle": "--"}, markerfacecolor="white")
    log_scale(axis, ns)
    axis.set(
        xlabel="N (candidates per question)",
        ylabel="accuracy of the selected answer (%)",
        title="Dashed, open marks: length-controlled",
    )


def _draw_pairs(axis: Axes, length: Mapping[str, Any], aggregation: str) -> None:
    num_prms = len(length["prms"])
    for index, by_aggregation in enumerate(length["prms"].values()):
        for place, pairs in enumerate(by_aggregation[aggregation]["pairs"].values()):
            if pairs["won"] is None:
                continue
            x = place + 0.6 * ((index + 0.5) / num_prms - 0.5)
            won, low, high = (100 * pairs[name] for name in ("won", "low", "high"))
            spread = [[max(won - low, 0)], [max(high - won, 0)]]
            axis.errorbar([x], [won], yerr=spread, capsize=2, lw=1.2, markersize=4.5, **curve_look(index))
    axis.axhline(50, color=GREY, ls="--", lw=1.2)
    axis.set_xticks(range(len(PAIR_LABELS)), labels=["\n".join(label.rsplit(" ", 1)) for label in PAIR_LABELS.values()])
    axis.set(xlim=(-0.5, 2.5), ylabel="right one scored higher (%)", title="Pairs of a right and a wrong candidate")
