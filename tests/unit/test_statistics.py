"""Quantiles by hand, the table's cells, and histograms that say what was counted."""

from collections import Counter

import numpy as np
import pytest

from prm.data.histograms import bin_edges, draw_histograms
from prm.data.statistics import Statistics, distribution, mean, table
from prm.records import Response


def question(name: str, *outcomes: bool | None, steps: int = 1) -> list[Response]:
    return [Response(name, i, "?", ["s"] * (steps + i), correct) for i, correct in enumerate(outcomes)]


@pytest.fixture
def statistics() -> Statistics:
    statistics = Statistics()
    statistics.add_question(question("a", True, False, False, None), num_tokens=[10, 20, 30, 40])
    statistics.add_question(question("b", True, steps=9), num_tokens=[50])
    return statistics


def test_counts_by_hand(statistics):
    summary = statistics.summary()
    assert [summary[name] for name in ("questions", "responses", "share_correct", "with_step_labels")] == [2, 5, 0.5, 0]
    assert summary["pass_rate"]["mean"] == pytest.approx(2 / 3)
    assert [summary["steps_mean"], summary["steps_max"]] == [(1 + 2 + 3 + 4 + 9) / 5, 9]
    assert summary["tokens"] == {"mean": 30, "min": 10, "p10": 10, "p25": 20, "median": 30, "p75": 40, "p90": 50, "max": 50}


def test_quantiles_are_values_that_occur():
    values = np.random.default_rng(0).integers(0, 30, 1001).tolist()
    found = distribution(Counter(values))
    for name, share in {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}.items():
        assert found[name] == np.quantile(values, share, method="inverted_cdf")
    assert [found["min"], found["max"], found["mean"]] == [min(values), max(values), pytest.approx(np.mean(values))]


def test_without_values_there_is_nothing_to_say():
    assert mean(Counter()) is None
    assert distribution(Counter()) is None
    summary = Statistics().summary()
    assert [summary["share_correct"], summary["steps_mean"], summary["steps_max"]] == [None, 0.0, 0]
    assert table({"empty": summary})[1:] == [
        ["questions", "0"],
        ["responses", "0"],
        ["with step labels", "0"],
        ["share correct", "-"],
    ]


def test_table_has_a_column_for_every_split(statistics):
    rows = {row[0]: row[1:] for row in table({"train": statistics.summary(), "validation": Statistics().summary()})}
    assert rows[""] == ["train", "validation"]
    assert rows["steps, max"] == ["9", "-"]
    assert rows["pass rate, mean"] == ["0.667", "-"]


def test_bins_hold_every_value_and_cut_the_tail():
    assert bin_edges(Counter({0.0: 1, 1 / 3: 1, 1.0: 1}))[[0, -1]] == pytest.approx([-0.025, 1.025])
    assert bin_edges(Counter({2: 5, 4: 1})).tolist() == [1.5, 2.5, 3.5, 4.5]
    edges = bin_edges(Counter({**{n: 10 for n in range(100, 500)}, 9000: 1}))
    assert len(edges) <= 42
    assert edges[0] == 99.5
    assert 490 < edges[-1] < 520


def test_histograms_are_repeatable_and_labeled(statistics, tmp_path):
    for name in ("first", "second"):
        draw_histograms({"read": statistics, "train": statistics, "validation": Statistics()}, tmp_path / name)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()
    text = (tmp_path / "first.svg").read_text()
    assert all(
        label in text for label in ("share of right answers to a question", "tokens of a response", "questions (%)", ">train<")
    )
    assert "validation" not in text
