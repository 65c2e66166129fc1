"""Best-of-N: step scores of candidates under one or several PRMs in, accuracy curves with intervals out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from prm import metrics
from prm.aggregation import NEEDS_PROBABILITIES, Aggregation, aggregate_lists
from prm.benchmarks.best_of_n.candidates import CandidatePool, build_pool
from prm.benchmarks.response_scores import OWN, ResponseScoreConfig, resolve_aggregation
from prm.benchmarks.results import without_nan
from prm.records import StepScores

BENCHMARK = "Best-of-N"
BASELINES = ("random", "majority_vote")
MAX_VOTE_DRAWS = 100_000
MAJORITY = ("baselines", "majority_vote")
Place = tuple[str, ...]
Curves = dict[Place, Float[np.ndarray, "questions ns"]]


@dataclass
class BestOfNConfig(ResponseScoreConfig):
    """How candidates are ranked and how sure the curves are."""

    knows_own: ClassVar[bool] = True
    num_candidates: list[int] | None = None
    """Values of N of the curves; by default the powers of two up to the smallest pool, and its size."""
    drop_small_pools: bool = False
    """Leave out (and count) the questions with fewer candidates than the largest of --num_candidates."""
    answer_grouping: Literal["spelling", "math_verify"] = "spelling"
    """When two answers are one vote: equal normalized strings, or equal values by Math-Verify (slower)."""
    num_vote_draws: int = 400
    """Random subsets per question and N behind the voting curves, which have no closed form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bad := [n for n in self.num_candidates or () if n < 1]:
            raise ValueError(f"--num_candidates {bad[0]}: N counts the candidates to choose from, give at least one")
        if self.num_vote_draws < 1:
            raise ValueError(f"--num_vote_draws {self.num_vote_draws}: a voting curve is a mean over draws, give at least one")
        if self.num_vote_draws > MAX_VOTE_DRAWS:
            raise ValueError(f"--num_vote_draws {self.num_vote_draws}: {MAX_VOTE_DRAWS} at most, each of which is a vote")
        if self.drop_small_pools and not self.num_candidates:
            raise ValueError("--drop_small_pools: say with --num_candidates how many candidates a question must have")


@dataclass(frozen=True)
class MeasuredCurves:
    """What every curve averages: `values[place]` and `errors[place]` hold one row per question of the pool and one column per N.

    A place is where the curve stands in the metrics: ("baselines", name) or ("prms", prm, aggregation, kind).
    """

    pool: CandidatePool
    ns: list[int]
    values: Curves
    errors: Curves
    """Standard errors of the curves that are drawn (votes)."""
    response_scores: dict[tuple[str, str], list[np.ndarray]]
    """By (prm, aggregation), for each question the scores of its candidates."""
    num_questions_dropped: int
    own_aggregation: dict[str, str]
    """What `own` stood for under each PRM, where it was asked for."""


def evaluate_best_of_n(
    records: Mapping[str, Sequence[StepScores]], config: BestOfNConfig, own: Mapping[str, Aggregation] | None = None
) -> dict[str, Any]:
    """All curves of all PRMs as plain nested dicts: `summarize` of `measure_best_of_n`."""
    return summarize(measure_best_of_n(records, config, own), config)


def measure_best_of_n(
    records: Mapping[str, Sequence[StepScores]], config: BestOfNConfig, own: Mapping[str, Aggregation] | None = None
) -> MeasuredCurves:
    """Every curve per question. `own` has what the aggregation `own` stands for under each PRM.

    Raises ValueError as `build_pool` does, for a product of signed scores, an N beyond a pool, a PRM without an `own`, and one that
    is called as a baseline is.
    """
    check_names(records)
    pool = build_pool(records, config.answer_grouping)
    used = {
        (prm, name): resolve_aggregation(prm, name, config.softmin_tau, own or {})
        for prm in records
        for name in config.aggregations
    }
    for (prm, _), aggregation in used.items():
        _refuse_signed(prm, pool, aggregation.name)
    num_questions = len(pool.questions)
    if config.drop_small_pools and config.num_candidates:
        pool = pool.restrict(max(config.num_candidates))
    if unread := [prm for prm in records if pool.num_unscored(prm) == pool.sizes.sum()]:
        raise ValueError(f"{unread[0]}: the PRM could read none of the {pool.sizes.sum()} candidates")
    ns = sorted(set(config.num_candidates or _default_ns(int(pool.sizes.min()))))
    response_scores = {place: _response_scores(place[0], pool, aggregation) for place, aggregation in used.items()}
    votes = _votes(pool, ns, response_scores, config)
    curves: Curves = {}
    curves["baselines", "random"] = metrics.over_ragged(metrics.random_choice, ns, pool.correct)
    if MAJORITY in votes:
        curves[MAJORITY] = votes[MAJORITY].values
    curves["baselines", "pass_at_n"] = metrics.over_ragged(metrics.pass_at_n, ns, pool.correct)
    for (prm, aggregation), scores in response_scores.items():
        place = ("prms", prm, aggregation)
        curves[(*place, "best_of_n")] = metrics.over_ragged(metrics.best_of_n, ns, scores, pool.correct)
        curves[(*place, "first_n")] = metrics.over_ragged(metrics.first_n, ns, scores, pool.correct)
        if (*place, "weighted_vote") in votes:
            curves[(*place, "weighted_vote")] = votes[(*place, "weighted_vote")].values
    errors = {place: estimate.standard_error for place, estimate in votes.items()}
    own_used = {prm: str(aggregation) for (prm, name), aggregation in used.items() if name == OWN}
    return MeasuredCurves(pool, ns, curves, errors, response_scores, num_questions - len(pool.questions), own_used)


def check_names(prms: Iterable[str]) -> None:
    """Raises ValueError for a PRM that is called as a baseline is."""
    if taken := [prm for prm in prms if prm in (*BASELINES, "pass_at_n")]:
        raise ValueError(
            f"a PRM is called {taken[0]!r}, as a baseline is: give it another name, --scores NAME=FILE, or --model another folder"
        )


def summarize(measured: MeasuredCurves, config: BestOfNConfig) -> dict[str, Any]:
    """Means, intervals and paired tests; N stands as a string, as JSON would have it.

    `prms[name][aggregation]` holds `best_of_n` (exact expectation), `first_n` (argmax over the first n, as published code does) and
    `weighted_vote` (null for signed scores); `baselines` holds `random`, `majority_vote` (null if no candidate has an
    extracted answer) and `pass_at_n`; `first_n` the `majority_vote` of published code; `differences[aggregation][first][second]`
    the paired tests.
    """
    pool, ns = measured.pool, measured.ns
    result = {
        "benchmark": BENCHMARK,
        "num_questions": len(pool.questions),
        "num_questions_dropped": measured.num_questions_dropped,
        "candidates_per_question": {"min": int(pool.sizes.min()), "max": int(pool.sizes.max())},
        "num_candidates": int(pool.sizes.sum()),
        "num_without_outcome": pool.num_without_outcome,
        "num_without_answer": pool.num_without_answer,
        "num_unscored": {prm: number for prm in pool.step_scores if (number := pool.num_unscored(prm))},
        "own_aggregation": measured.own_aggregation,
        "n": ns,
        "confidence": config.confidence,
        **_nest(measured.values, measured.errors, ns, config),
        "differences": {a: _differences(measured.values, a, list(pool.step_scores), ns, config) for a in config.aggregations},
    }
    if _can_vote(pool):
        result["first_n"] = {"majority_vote": curve_of(metrics.first_n_vote(pool.answers, pool.correct, ns), ns, config)}
    for (prm, aggregation), scores in measured.response_scores.items():
        auc = metrics.roc_auc(np.concatenate(scores), np.concatenate(pool.correct))
        result["prms"][prm][aggregation]["outcome_auc"] = None if np.isnan(auc) else auc
    return result


def curve_of(values: Float[np.ndarray, "questions ns"], ns: Sequence[int], config: BestOfNConfig) -> dict[str, Any]:
    """Mean over questions at every N and its bootstrap interval."""
    return _curve(values, *metrics.bootstrap_interval(values, *config.draws), ns)


def _curve(
    values: Float[np.ndarray, "questions ns"], low: Float[np.ndarray, " ns"], high: Float[np.ndarray, " ns"], ns: Sequence[int]
) -> dict[str, Any]:
    return {"accuracy": by_n(ns, values.mean(axis=0)), "low": by_n(ns, low), "high": by_n(ns, high)}


def _default_ns(smallest: int) -> list[int]:
    powers = [2**k for k in range(smallest.bit_length())]
    return powers if powers[-1] == smallest else [*powers, smallest]


def _can_vote(pool: CandidatePool) -> bool:
    return any((answers >= 0).any() for answers in pool.answers)


def _refuse_signed(prm: str, pool: CandidatePool, aggregation: str) -> None:
    if aggregation in NEEDS_PROBABILITIES and pool.is_signed(prm):
        raise ValueError(
            f"{prm} has step scores outside [0, 1], to which {aggregation} does not apply: "
            "choose min, mean, sum or last for signed rewards"
        )


def _response_scores(prm: str, pool: CandidatePool, aggregation: Aggregation) -> list[np.ndarray]:
    """Scores of every question's candidates; those that the PRM could not read have one below all others."""
    flat = [scores for group in pool.step_scores[prm] for scores in group]
    scores = aggregate_lists(flat, aggregation.name, aggregation.tau, signed=pool.is_signed(prm))
    is_scored = np.concatenate(pool.is_scored[prm])
    if not is_scored.all():
        scores = np.where(is_scored, scores, -np.inf)
    return np.split(scores, np.cumsum(pool.sizes)[:-1])


def _votes(
    pool: CandidatePool, ns: Sequence[int], response_scores: Mapping[tuple[str, str], list[np.ndarray]], config: BestOfNConfig
) -> dict[Place, metrics.VoteEstimate]:
    """Majority vote and the vote weighted by every PRM without signed scores; none if no candidate has an answer."""
    if not _can_vote(pool):
        return {}
    is_signed = {prm: pool.is_signed(prm) for prm in pool.step_scores}
    weightings: dict[Place, list[np.ndarray] | None] = {MAJORITY: None}
    for (prm, aggregation), scores in response_scores.items():
        if not is_signed[prm]:
            weights = [np.where(scored, s, 0.0) for scored, s in zip(pool.is_scored[prm], scores, strict=True)]
            weightings["prms", prm, aggregation, "weighted_vote"] = weights
    estimates = metrics.vote_each(pool.answers, pool.correct, ns, list(weightings.values()), config.num_vote_draws, config.seed)
    return dict(zip(weightings, estimates, strict=True))


def _nest(curves: Curves, errors: Curves, ns: Sequence[int], config: BestOfNConfig) -> dict[str, Any]:
    """Every curve with its interval, nested as its place says; with `errors`, the sampling error of its mean too."""
    stacked = np.stack(list(curves.values()), axis=1)
    low, high = metrics.bootstrap_interval(stacked, *config.draws)
    nested: dict[str, Any] = {"baselines": {"random": None, "majority_vote": None}, "prms": {}}
    for index, (place, values) in enumerate(curves.items()):
        curve = _curve(values, low[index], high[index], ns)
        if place in errors:
            curve["sampling_error"] = by_n(ns, np.sqrt((errors[place] ** 2).sum(axis=0)) / len(values))
        *folders, name = place
        node = nested
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = curve
    for by_aggregation in nested["prms"].values():
        for curves_of_one in by_aggregation.values():
            curves_of_one.setdefault("weighted_vote", None)
    return nested


def _differences(curves: Curves, aggregation: str, prms: Sequence[str], ns: Sequence[int], config: BestOfNConfig) -> dict[str, Any]:
    """Paired tests of every PRM against each later PRM, random choice and majority voting."""
    systems = {prm: curves[("prms", prm, aggregation, "best_of_n")] for prm in prms}
    systems |= {name: curves[("baselines", name)] for name in BASELINES if ("baselines", name) in curves}
    pairs = [(a, b) for a, b in combinations(systems, 2) if a in prms]
    test = metrics.paired_difference(
        np.stack([systems[a] for a, _ in pairs], axis=1),
        np.stack([systems[b] for _, b in pairs], axis=1),
        *config.draws,
    )
    nested: dict[str, Any] = {prm: {} for prm in prms}
    for i, (a, b) in enumerate(pairs):
        nested[a][b] = {name: by_n(ns, values[i]) for name, values in vars(test).items()}
    return nested


def by_n(ns: Sequence[int], values: Float[np.ndarray, " ns"]) -> dict[str, float | None]:
    """The value of every N, None where it is undefined."""
    return without_nan({str(n): value for n, value in zip(ns, values, strict=True)})
