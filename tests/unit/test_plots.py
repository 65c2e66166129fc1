"""The evaluations' figures in hard cases, by what is drawn on them."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from prm.benchmarks.best_of_n.length import plot_length
from prm.benchmarks.best_of_n.plots import BASELINE_LABELS, plot_best_of_n
from prm.benchmarks.calibration.plots import plot_bias, plot_perturbations, plot_reliability
from prm.benchmarks.plots import Curve, Panel, draw
from prm.figures import GREY, PAGE_WIDTH

TEN = [
    "Gen-Verse/ReasonFlux-PRM-7B",
    "HanningZhang/Llama3.1-Math-PRM",
    "PRIME-RL/EurusPRM-Stage2",
    "Qwen/Qwen2.5-Math-PRM-7B",
    "Qwen/Qwen2.5-Math-PRM-72B@main, product over steps",
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B",
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B",
    "outputs/very/long/path/to/a/checkpoint/asymmetric_loss_seed_3_lr_1e-5",
    "peiyi9979/math-shepherd-mistral-7b-prm",
]
AGGREGATIONS = ["min", "mean", "last", "product", "geometric_mean"]
NS = [2**k for k in range(9)]


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    made = []

    def make(**options):
        made.append(Figure(**options))
        return made[-1]

    monkeypatch.setattr("prm.figures.Figure", make)
    return made


def curve(ns=NS, height=0.5):
    return {name: {str(n): height + d for n in ns} for name, d in (("accuracy", 0), ("low", -0.1), ("high", 0.1))}


def best_of_n(names=TEN, aggregations=AGGREGATIONS[:3], ns=NS):
    prms = {name: {a: {"best_of_n": curve(ns, 0.3 + 0.04 * i)} for a in aggregations} for i, name in enumerate(names)}
    baselines = {name: curve(ns) for name in BASELINE_LABELS}
    return {"confidence": 0.95, "n": ns, "differences": dict.fromkeys(aggregations), "baselines": baselines, "prms": prms}


def length(names=TEN):
    pairs = {name: {"won": 0.6, "low": 0.5, "high": 0.7} for name in ("right_longer", "similar", "right_shorter")}
    prms = {name: {"min": {"length_controlled": curve(height=0.4), "pairs": pairs}} for name in names}
    return {"baselines": {name: curve() for name in ("shortest", "longest")}, "prms": prms}


def measured(scores=(0.04, 0.15, 0.76, 0.85), num_items=(20, 20, 20, 20)):
    ends = {"share_positive": 0.5, "low": 0.4, "high": 0.6}
    bins = [
        {"index": int(10 * score), "mean_score": score, "num_items": n, **ends} for score, n in zip(scores, num_items, strict=True)
    ]
    return {"num_items": 100, "before": {"bins": bins}, "after": {"bins": bins}}


def reliability(names=TEN, aggregations=AGGREGATIONS[:3], **bins):
    prms = {name: {"steps": measured(**bins), "responses": {a: measured(**bins) for a in aggregations}} for name in names}
    return {"num_calibration_bins": 10, "prms": prms}


def bias(names=TEN):
    relation = {"good": {"bins": [{"mean": x, "score": 0.5, "low": 0.4, "high": 0.6} for x in (3, 30, 300, 3000)]}}
    steps = {covariate: relation for covariate in ("position", "step_length", "num_steps")}
    return {"length_unit": "characters", "prms": {n: {"bias": {"truth": "outcomes", "steps": steps}} for n in names}}


def perturbations(has_outcomes=True):
    change = {"value": 0.1, "difference": 0.1, "low": 0.0, "high": 0.2}
    responses = {a: {"change": change, "best_of_n": change if has_outcomes else None} for a in AGGREGATIONS}
    return {"perturbations": {"perturbations": {name: {"responses": responses} for name in ("merged", "split", "filler")}}}


def shown_texts(figure):
    """Every text that can be read on the figure, with its place."""
    figure.draw_without_rendering()
    texts = [text for legend in figure.legends for text in (legend.get_title(), *legend.get_texts())]
    for axis in figure.axes:
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        texts += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        texts += [label for label in axis.get_xticklabels() if left <= label.get_position()[0] <= right]
        texts += [label for label in axis.get_yticklabels() if bottom <= label.get_position()[1] <= top]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text()]


def check_texts(figure):
    """No text lies on another one or leaves the figure."""
    texts = shown_texts(figure)
    assert len(texts) > 10
    assert [(a, b) for (a, box_a), (b, box_b) in combinations(texts, 2) if box_a.overlaps(box_b)] == []
    width, height = figure.bbox.size
    assert [name for name, box in texts if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1] == []


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        (plot_best_of_n, (best_of_n(),)),
        (plot_best_of_n, (best_of_n(TEN[:1]),)),
        (plot_best_of_n, (best_of_n(aggregations=AGGREGATIONS[:4]),)),
        (plot_best_of_n, (best_of_n(aggregations=AGGREGATIONS, ns=[1, 2, 4, 8, 16, 17]),)),
        (plot_length, (best_of_n(), length())),
        (plot_length, (best_of_n(TEN[:1]), length(TEN[:1]))),
        (plot_reliability, (reliability(),)),
        (plot_reliability, (reliability(TEN[-2:-1]),)),
        (plot_reliability, (reliability(aggregations=AGGREGATIONS),)),
        (plot_bias, (bias(),)),
        (plot_bias, (bias(TEN[:1]),)),
        (plot_perturbations, (perturbations(),)),
    ],
)
def test_texts_have_room_on_a_page(figures, tmp_path, plot, arguments):
    plot(*arguments, tmp_path / "figure")
    assert figures[0].get_figwidth() == PAGE_WIDTH
    check_texts(figures[0])


@pytest.mark.parametrize("names", [TEN[:1], TEN])
def test_one_panel_has_room_for_its_texts(figures, tmp_path, names):
    plot_best_of_n(best_of_n(names, ["geometric_mean"]), tmp_path / "figure")
    check_texts(figures[0])


def test_no_two_of_ten_curves_look_alike_and_a_whisker_has_its_curve_s_marker(figures, tmp_path):
    plot_best_of_n(best_of_n(), tmp_path / "figure")
    for axis in figures[0].axes:
        handles = axis.get_legend_handles_labels()[0]
        assert len({(line.get_color(), line.get_linestyle()) for line in handles}) == len(BASELINE_LABELS) + len(TEN)
        whiskers = [line for line in axis.lines if line.get_markevery() == [1]]
        looks = [(line.get_color(), line.get_marker(), line.get_ydata()[1]) for line in whiskers]
        assert looks == [(line.get_color(), line.get_marker(), line.get_ydata()[-1]) for line in handles[len(BASELINE_LABELS) :]]


def test_a_prm_looks_the_same_in_both_figures_of_best_of_n(figures, tmp_path):
    plot_best_of_n(best_of_n(), tmp_path / "best_of_n")
    plot_length(best_of_n(), length(), tmp_path / "length")
    looks = []
    for figure in figures:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        lines = {
            label: (line.get_color(), line.get_marker(), line.get_linestyle()) for line, label in zip(handles, labels, strict=True)
        }
        looks.append({name: lines[name] for name in TEN})
    assert looks[0] == looks[1]


def test_a_single_n_shows_its_interval(figures, tmp_path):
    plot_best_of_n(best_of_n(TEN[:1], ["min"], [8]), tmp_path / "figure")
    assert any(np.allclose(line.get_ydata(), [20, 30, 40]) for line in figures[0].axes[0].lines)


@pytest.mark.parametrize(
    ("bins", "drawn"),
    [
        ({}, [4, 15, np.nan, 76, 85]),
        ({"num_items": (20, 3, 20, 20)}, [4, np.nan, 76, 85]),
        ({"num_items": (1, 2, 3, 4)}, []),
        ({"scores": (0.04, 0.15, 0.24, 1.0)}, [4, 15, 24, np.nan, 100]),
    ],
)
def test_no_line_runs_across_bins_that_are_left_out(figures, tmp_path, bins, drawn):
    plot_reliability(reliability(["prm"], ["min"], **bins), tmp_path / "figure")
    for axis in figures[0].axes:
        assert np.allclose(axis.lines[-1].get_xdata(), drawn, equal_nan=True)


@pytest.mark.parametrize("heights", [(50, 46, 54), (50, 50.1, 50.2)])
def test_levels_are_named_beside_their_lines_in_their_order(figures, tmp_path, heights):
    levels = dict(zip(("every step right", "1 - (i+1)/n", "random scores"), heights, strict=True))
    panel = Panel("", [Curve("PRM", [0, 1], [10, 70])], {"fixed threshold": 0.5}, levels)
    draw([panel], tmp_path / "figure", "threshold", "PRMScore (%)")
    check_texts(figures[0])
    axis = figures[0].axes[0]
    assert [line.get_ydata()[0] for line in axis.lines if line.get_color() == GREY] == list(heights)
    assert [text.get_text() for text in axis.texts] == sorted(levels, key=levels.get)
    assert all(text.get_window_extent().x0 > axis.bbox.x1 for text in axis.texts)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["PRM", "fixed threshold"]


def test_without_outcomes_there_is_no_panel_of_what_is_chosen(figures, tmp_path):
    plot_perturbations(perturbations(has_outcomes=False), tmp_path / "figure")
    (axis,) = figures[0].axes
    assert axis.get_title() == "Same text in other steps"
    check_texts(figures[0])
