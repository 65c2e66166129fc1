"""Best-of-N's tables: the evaluation's metrics in, tables out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from prm.benchmarks.best_of_n.length import PAIR_LABELS
from prm.benchmarks.best_of_n.plots import BASELINE_LABELS
from prm.benchmarks.response_scores import of_step_scores
from prm.benchmarks.tables import Table, interval, p_value, percent


def best_of_n_tables(result: Mapping[str, Any]) -> list[Table]:
    """First all PRMs under all aggregations at the largest N. Then, for each aggregation, accuracies and the tests of the best PRM,
    folded from the second aggregation on. Then length and breakdown, if measured."""
    tables = [_overview(result)] if len(result["prms"]) * len(result["differences"]) > 1 else []
    for index, (aggregation, differences) in enumerate(result["differences"].items()):
        pair = (_accuracy(result, aggregation), _tests_of_the_best(result, aggregation, differences))
        tables += [replace(table, is_folded=index > 0) for table in pair]
    if length := result.get("length"):
        tables += [_length(result, length), _pairs(length)]
    tables += [_breakdown(result, name, groups) for name, groups in result.get("breakdown", {}).items()]
    return tables


def _overview(result: Mapping[str, Any]) -> Table:
    n, aggregations = str(result["n"][-1]), list(result["differences"])
    rows = [["", *aggregations, *(f"AUC, {aggregation}" for aggregation in aggregations)]]
    for name, curve in result["baselines"].items():
        if curve:
            rows.append([BASELINE_LABELS[name], *[percent(curve["accuracy"][n])] * len(aggregations), *[""] * len(aggregations)])
    for prm, by_aggregation in result["prms"].items():
        found = [by_aggregation[aggregation] for aggregation in aggregations]
        accuracies = [percent(of_one["best_of_n"]["accuracy"][n]) for of_one in found]
        rows.append([prm, *accuracies, *(percent(of_one["outcome_auc"]) for of_one in found)])
    notes = ["AUC: how often a right candidate outscores a wrong one, of the same question or of another"]
    notes += result.get("constant_scores", [])  # what makes all these numbers void comes first
    return Table(f"Best-of-{n} accuracy (%) by aggregation of the step scores", rows, "\n".join(notes))


def _accuracy(result: Mapping[str, Any], aggregation: str) -> Table:
    sizes = result["candidates_per_question"]
    pool = str(sizes["max"]) if sizes["min"] == sizes["max"] else f"{sizes['min']} to {sizes['max']}"
    on = f"{result['num_questions']} questions with {pool} candidates each"
    title = f"Best-of-N accuracy (%) on {on}, {of_step_scores(aggregation)}"
    rows = [[aggregation, *(f"N={n}" for n in result["n"]), f"interval at N={result['n'][-1]}"]]
    rows += [_curve_row(BASELINE_LABELS[name], curve) for name, curve in result["baselines"].items() if curve]
    for prm, by_aggregation in result["prms"].items():
        rows.append(_curve_row(prm, by_aggregation[aggregation]["best_of_n"]))
        if weighted := by_aggregation[aggregation]["weighted_vote"]:
            rows.append(_curve_row(f"{prm}, weighted vote", weighted))
        rows.append(_curve_row(f"{prm}, first N", by_aggregation[aggregation]["first_n"]))
    if "first_n" in result:
        rows.append(_curve_row("majority vote, first N", result["first_n"]["majority_vote"]))
    return Table(title, rows, _notes(result))


def _tests_of_the_best(result: Mapping[str, Any], aggregation: str, differences: Mapping[str, Any]) -> Table:
    n = str(result["n"][-1])
    best = max(result["prms"], key=lambda prm: result["prms"][prm][aggregation]["best_of_n"]["accuracy"][n])
    rows = [[f"{aggregation}, N={n}", "difference", "interval", "p"]]
    tests = [(second, 100, test) for second, test in differences[best].items()]
    tests += [(first, -100, by_second[best]) for first, by_second in differences.items() if best in by_second]
    order = [*result["baselines"], *result["prms"]]  # the table's before this one
    for other, points, test in sorted(tests, key=lambda test: order.index(test[0])):
        low, high = sorted(points * test[end][n] for end in ("low", "high"))
        gap = points * test["difference"][n]
        rows.append(
            [
                f"{best} - {BASELINE_LABELS.get(other, other)}",
                f"{gap:+.1f}",
                interval(low, high, "+.1f"),
                p_value(test["p_value"][n]),
            ]
        )
    note = "the best is chosen on these very questions, and p is not corrected for the number of tests" if len(rows) > 2 else ""
    return Table(f"The best PRM against the others, points, paired over questions, {of_step_scores(aggregation)}", rows, note)


def _length(result: Mapping[str, Any], length: Mapping[str, Any]) -> Table:
    n, unit = str(result["n"][-1]), length["unit"]
    rows = [["", f"accuracy at N={n}", "length-controlled", "difference", "interval", "preference", "interval", f"{unit} selected"]]
    for name, curve in length["baselines"].items():
        rows.append([f"always the {name}", percent(curve["accuracy"][n]), *[""] * 6])
    for prm, aggregation, found in _each(length):
        loss, preference = found["loss"], found["preference"]
        low, high = (100 * loss[end][n] for end in ("low", "high"))
        slope = ["-", ""]
        if preference:
            slope = [f"{preference['slope']:+.3f}", interval(preference["low"], preference["high"], "+.3f")]
        rows.append(
            [
                f"{prm}, {aggregation}",
                percent(result["prms"][prm][aggregation]["best_of_n"]["accuracy"][n]),
                percent(found["length_controlled"]["accuracy"][n]),
                f"{100 * loss['difference'][n]:+.1f}",
                interval(low, high, "+.1f"),
                *slope,
                f"{found['length_selected'][n]:.4g}",
            ]
        )
    means = ", ".join(
        f"{length[key]:.4g} {label}"
        for key, label in (("mean_length_of_right", "right"), ("mean_length_of_wrong", "wrong"))
        if length[key] is not None
    )
    return Table(
        "Does the PRM win by length?",
        rows,
        "length-controlled: ranked by score less what length explains among equally right candidates of a question\n"
        "preference: ranks won there per rank of length (1: scores by length, 0: blind to it, -1: by brevity)\n"
        f"mean {unit}: {length['mean_length']:.4g} ({means})",
    )


def _pairs(length: Mapping[str, Any]) -> Table:
    rows = [["right one scored higher (%)", *(f"{label}  interval" for label in PAIR_LABELS.values())]]
    for prm, aggregation, found in _each(length):
        rows.append([f"{prm}, {aggregation}", *(_won(found["pairs"][name]) for name in PAIR_LABELS)])
    counts = next(_each(length))[2]["pairs"]
    rows.append(["pairs", *(str(counts[name]["num_pairs"]) for name in PAIR_LABELS)])
    return Table(
        "Pairs of a right and a wrong candidate of one question, by their lengths", rows, "similar: within 10% of the longer one"
    )


def _won(pairs: Mapping[str, Any]) -> str:
    return "-" if pairs["won"] is None else f"{percent(pairs['won'])}  {interval(pairs['low'], pairs['high'])}"


def _each(length: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for prm, by_aggregation in length["prms"].items():
        for aggregation, found in by_aggregation.items():
            yield prm, aggregation, found


def _breakdown(result: Mapping[str, Any], name: str, groups: Mapping[str, Any]) -> Table:
    n, aggregation = str(result["n"][-1]), next(iter(result["differences"]))
    prms = list(result["prms"])
    baselines = [baseline for baseline, curve in result["baselines"].items() if curve]
    rows = [[name, "questions", *(BASELINE_LABELS[baseline] for baseline in baselines), *prms]]
    for value, group in groups.items():
        cells = [percent(group["baselines"][baseline]["accuracy"][n]) for baseline in baselines]
        curves = [group["prms"][prm][aggregation] for prm in prms]
        cells += [f"{percent(c['accuracy'][n])} {interval(c['low'][n], c['high'][n])}" for c in curves]
        rows.append([value, str(group["num_questions"]), *cells])
    return Table(f"Best-of-{n} accuracy (%) by {name}, {of_step_scores(aggregation)}", rows)


def _curve_row(name: str, curve: Mapping[str, Any]) -> list[str]:
    low, high = list(curve["low"].values())[-1], list(curve["high"].values())[-1]
    return [name, *map(percent, curve["accuracy"].values()), interval(low, high)]


def _notes(result: Mapping[str, Any]) -> str:
    sizes = result["candidates_per_question"]
    notes = [
        f"{100 * result['confidence']:g}% bootstrap intervals over questions",
        "first N: one draw, the N candidates that were sampled first, as published code has it; of tied ones the first is chosen, "
        "where the other curves average over them",
    ]
    if sizes["min"] < sizes["max"]:
        notes.append(
            f"pools are of unequal size: the curves are defined up to N = {sizes['min']}, the smallest, as every point averages "
            "the same questions; --num_candidates with --drop_small_pools leaves small pools out"
        )
    if result["num_without_outcome"]:
        share = f"{result['num_without_outcome']} of {result['num_candidates']} candidates"
        notes.append(f"{share} have no outcome (no answer, timeout): they stay in the pool and count as wrong")
    notes += result.get("constant_scores", [])
    for prm, number in result["num_unscored"].items():
        notes.append(f"{prm} has no scores for {number} of {result['num_candidates']} candidates: they are ranked last")
    for prm, number in result.get("left_out_by_scoring", {}).items():
        notes.append(f"{prm}: scoring left out {number} responses that it could not read; --rollouts puts them last into the pools")
    if own := result["own_aggregation"]:
        notes.append("own: " + "; ".join(f"{prm} {name}" for prm, name in own.items()))
    if result["num_questions_dropped"]:
        notes.append(f"{result['num_questions_dropped']} questions with fewer than {result['n'][-1]} candidates were left out")
    if result["baselines"]["majority_vote"] is None:
        notes.append("no candidate has an extracted answer, so there is no vote")
    signed = [prm for prm, by_name in result["prms"].items() if not any(c["weighted_vote"] for c in by_name.values())]
    if signed and result["baselines"]["majority_vote"]:
        notes.append(
            f"no weighted vote by {', '.join(signed)}: signed scores are no weights, and have no product or geometric mean"
        )
    return "\n".join(notes)
