"""Step scores are read in one way for all subsets, by what is known of the PRM."""

import numpy as np
import pytest

from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, evaluate_processbench
from prm.benchmarks.processbench.items import FirstErrorItem
from prm.benchmarks.step_calibration import reading_of, step_calibration

ITEMS = [
    FirstErrorItem(f"{subset}-{i}", subset, "?", ["a", "b"], label=label)
    for subset in ("math", "omnimath")
    for i, label in enumerate((-1, 1))
]
DIFFERENCES = [[0.9, 0.8], [0.5, 0.1], [0.6, 0.4], [0.2, -0.9]]
"""P(good) - P(bad); in the first subset none is negative, so that they could be taken for probabilities."""


@pytest.mark.parametrize("known", ["differences", None])
def test_all_subsets_are_read_alike(known):
    config = ProcessBenchConfig(threshold=["fixed"], num_bootstrap=10)
    config.reading = known
    found = evaluate_processbench(ITEMS, DIFFERENCES, config)
    assert found["read_as"] == (known or "logits")
    briers = {name: group["brier"] for name, group in found["calibration"].items()}
    if known is None:
        assert briers == {"math": None, "omnimath": None}
        return
    # Judged: both steps of a right item, of a wrong one those up to its first error.
    expected = {"math": (0.95, 0.9, 0.75, 1 - 0.55), "omnimath": (0.8, 0.7, 0.6, 1 - 0.05)}
    for name, shares in expected.items():
        assert briers[name] == pytest.approx(np.mean([(1 - share) ** 2 for share in shares]))


def test_raw_values_have_no_brier_score():
    found = step_calibration(np.array([0.2, 0.9]), np.array([False, True]), 10, "logits")
    assert np.isnan(found["brier"])
    assert np.isnan(found["ece"])
    assert found["brier_of_constant"] == 0.25


def test_scores_are_read_by_their_range_unless_told():
    assert reading_of("x", [[0.5], [1.0]], "auto") == "probabilities"
    assert reading_of("x", [[0.5], [1.5]], "auto") == "logits"
    assert reading_of("x", [[-1.0]], "differences") == "differences"
