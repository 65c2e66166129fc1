"""The study as a whole: runs that are kept and reused, grids, verdicts, findings, and settings that no world allows."""

import json

import numpy as np
import pytest

from prm.simulation import report, runs
from prm.simulation.plots import plot_study
from prm.simulation.published_values import printed, verdict
from prm.simulation.runs import OutcomeRun, PublishedRun, measure_all
from prm.simulation.settings import SimulationConfig
from prm.simulation.study import breaking_rate, grid, run_study, summary

SMALL = {"num_iterations": 3, "num_steps": 4, "num_tokens": 5}
RUNS = [
    PublishedRun(method="intervention", **SMALL),
    OutcomeRun(contestant="asym", world="weakest_link", budget=12, **SMALL),
    OutcomeRun(contestant="contrastive", world="additive", budget=12, **SMALL),
]


def test_runs_are_kept_one_by_one_and_taken_from_there(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    real = OutcomeRun.measure

    def die(self, seeds):
        if self.world == "additive":
            raise Killed
        return real(self, seeds)

    expected = measure_all(RUNS, range(2), tmp_path / "uninterrupted", 1)
    monkeypatch.setattr(OutcomeRun, "measure", die)
    with pytest.raises(Killed):
        measure_all(RUNS, range(2), tmp_path / "runs", 1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(kept) == 1, "the cheaper ones came later"
    monkeypatch.undo()
    assert measure_all(RUNS, range(2), tmp_path / "runs", 1) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    def refuse(self, seeds):
        raise AssertionError("measured again")

    monkeypatch.setattr(OutcomeRun, "measure", refuse)
    monkeypatch.setattr(PublishedRun, "measure", refuse)
    assert measure_all([*RUNS, *RUNS], range(2), tmp_path / "runs", 1) == expected


def test_other_seeds_settings_and_code_are_other_runs(tmp_path, monkeypatch):
    measure_all(RUNS[:1], range(2), tmp_path, 1)
    measure_all(RUNS[:1], range(3), tmp_path, 1)
    measure_all([PublishedRun(method="intervention", **SMALL | {"num_iterations": 4})], range(2), tmp_path, 1)
    monkeypatch.setattr(runs, "code_hash", lambda: "other")
    measure_all(RUNS[:1], range(2), tmp_path, 1)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert sorted(json.loads(path.read_text())["code"] == "other" for path in files) == [False, False, False, True]


@pytest.mark.parametrize("run", RUNS, ids=["published", "outcomes", "pairs"])
def test_more_seeds_change_no_seed(run):
    many, one = run.measure(range(3)), run.measure([1])
    for name, values in many.items():
        assert values[1] == pytest.approx(one[name][0], abs=1e-5), name


def test_the_breaking_rate_by_hand():
    # 7 steps with a wrong token of ten each: P(right) = 0.9^7, and 0.7 wrong steps of 16 in a trace on average.
    right = 0.9**7
    m = 0.7 / (1 - right)
    assert breaking_rate(16, 10, 0.5) == pytest.approx(m * right / ((1 - right) * (16 - m)))
    assert 1 / 16 < breaking_rate(16, 10, 0.5) < 1.5 / 16
    assert breaking_rate(64, 10, 0.5) < breaking_rate(16, 10, 0.5) / 3.5


def test_grids():
    config = SimulationConfig(num_steps=[4, 16], methods=["asym", "td", "monte_carlo"])
    assert set(grid("lengths", config)) == {(m, t) for m in ("td", "monte_carlo") for t in ("4", "16")}
    assert set(grid("artefacts", config)) == {
        (name, length)
        for name in (
            *("monte_carlo on the outcome", "monte_carlo on the outcome, W starts at 0"),
            *("td, lambda 1", "td, ten times the rate", "td, lambda 1, ten times the rate"),
        )
        for length in ("4", "16")
    }
    budgets = grid("budgets", config)
    assert {world for world, _, _ in budgets} == {"weakest_link", "additive"}
    assert budgets["additive", "asym", "100"] is not None
    assert budgets["weakest_link", "asym", "100"] == grid("false_positives", config)["weakest_link", "asym", "0"], "run once"
    assert {name for _, name, _ in grid("completions", config)} == {"monte_carlo"}
    assert {run.num_steps for run in grid("threshold", config).values()} == {4, 16}
    assert all(run.false_positives < 1 for run in grid("threshold", config).values())
    assert SimulationConfig(experiment=["outcomes", "seeds"]).experiments[:2] == ["seeds", "budgets"]


def test_summary_and_verdict_by_hand():
    found = summary({"correlation": [0.2, 0.4, 0.6]})["correlation"]
    assert (found["mean"], found["sd"], found["min"], found["max"]) == pytest.approx((0.4, 0.2, 0.2, 0.6))
    assert 0.2 <= found["low"] < found["mean"] < found["high"] <= 0.6
    assert [verdict(value, found) for value in (0.45, 0.55, 0.61, 0.7)] == ["yes", "range", "no", "no"]


def test_where_asym_breaks_is_interpolated():
    def cell(value):
        return {"correlation": {"mean": value}}

    cells = {"0": cell(1.0), "1": cell(0.9), "2": cell(0.1)}
    assert report._breaking("T = 16", cells) == "T = 16: asym has lost half of its correlation at 1.50 e*."
    assert "keeps half of its correlation up to 1 e*" in report._breaking("T = 16", {"0": cell(1.0), "1": cell(0.9)})


def test_published_numbers_stand_beside_their_own_settings_only():
    assert set(printed(SimulationConfig())) == {"methods", "lengths", "sparsity", "seeds"}
    assert set(printed(SimulationConfig(num_steps=[8, 32]))) == {"lengths"}
    for other in ({"num_tokens": 9}, {"num_iterations": 20}, {"num_alternatives": 3}):
        assert printed(SimulationConfig(**other)) == {}


def test_more_kinds_of_world_than_colors(tmp_path):
    cells = {"0": summary({"correlation": [0.9, 0.8]})}
    plot_study({"threshold": {f"T = {length}, 50% right": cells for length in range(2, 12)}}, tmp_path, SimulationConfig())
    assert "T = 11, 50% right" in (tmp_path / "noise.svg").read_text()


def test_noise_is_told_against_none():
    cells = {rate: summary({"correlation": values}) for rate, values in {"0": [0.9, 0.8], "0.2": [0.5, 0.4]}.items()}
    line = report._noise("false_positives", "asym", cells)
    assert line == "False positives, asym: 0.850 without, and from there at 0.2: -0.400 [-0.400, -0.400]."
    alone = {"false_positives": {"weakest_link": {"asym": {"0.2": cells["0.2"]}}}}
    assert report.findings(alone, SimulationConfig()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": [1]}, "1 steps: a trace needs at least 2"),
        ({"num_tokens": 1}, "1 tokens: a step needs at least 2"),
        ({"methods": ["mcts"]}, "--methods mcts: unknown; choose from asym"),
        ({"num_alternatives": 10}, "num_alternatives 10: an intervention compares at least 2 of the 9 other tokens"),
        ({"num_alternatives": 10, "experiment": ["budgets"]}, "num_alternatives 10: intervention takes 1 to 9 of them"),
        (
            {"num_alternatives": 0, "experiment": ["budgets"], "methods": ["monte_carlo"]},
            "num_alternatives 0: monte_carlo takes 1 or more",
        ),
        ({"methods": ["asym"], "experiment": ["published"]}, "--methods asym: no experiment of methods lengths"),
        ({"budgets": [1], "experiment": ["budgets"]}, "budget 1: contrastive needs 2 outcomes for its first label"),
        ({"noise_rates": [1.0], "experiment": ["false_positives"]}, "give a share of at least 0 and below 1"),
        ({"experiment": ["table"]}, "--experiment table: choose from"),
        ({"experiment": []}, "--experiment is empty"),
        ({"num_seeds": 0}, "--num_seeds 0: give at least 1"),
        ({"num_workers": 0}, "--num_workers 0: give at least 1"),
        ({"budgets": []}, "--budgets is empty"),
    ],
)
def test_mistakes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_study(SimulationConfig(output_dir=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists(), "refused before anything ran"


def test_a_table_that_nothing_moved_knows_nothing():
    run = OutcomeRun(contestant="intervention", world="weakest_link", budget=2, num_others=1, num_iterations=2)
    assert np.isfinite(run.measure(range(3))["correlation"]).all()
