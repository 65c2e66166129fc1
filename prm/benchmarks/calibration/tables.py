"""The calibration report's tables: its metrics in, tables out."""

from collections.abc import Iterator, Mapping
from typing import Any

from prm.benchmarks.tables import Table, interval, number, p_value, percent

SHIFTED = 0.01
"""Rise of the calibration error under the best temperature from which the table says that scores are shifted."""
COVARIATES = {"position": "step position", "step_length": "step length", "num_steps": "number of steps"}

READ_AS_NOTES = {
    "logits": "logits, whose sigmoid is a probability",
    "differences": "P(good) - P(bad), of which (1 + s) / 2 is P(good)",
}


def calibration_tables(result: Mapping[str, Any]) -> list[Table]:
    """Calibration before and after the fitted temperature, correlations of scores with form, and what perturbations change."""
    tables = [_calibration(result), _correlations(result)]
    if result["perturbations"]:
        tables += [_perturbed_scores(result["perturbations"]), _perturbed_choices(result["perturbations"])]
    return [table for table in tables if len(table.rows) > 1]


def _calibration(result: Mapping[str, Any]) -> Table:
    head = ["", "items", "good or right", "mean score", "AUC", "ECE", "ECE, equal mass", "Brier", "Brier of a constant", "log loss"]
    rows = [[*head, "temperature", "ECE after", "Brier after", "log loss after"]]
    for name, found in _measured(result):
        before, after, temperature = found["before"], found["after"], found["temperature"]
        rows.append(
            [
                name,
                str(found["num_items"]),
                f"{percent(found['share_positive'])}%",
                f"{before['mean_score']:.3f}",
                number(found["auc"], ".3f"),
                *(f"{before[key]:.3f}" for key in ("ece", "ece_equal_mass", "brier")),
                f"{found['brier_of_constant']:.3f}",
                f"{before['log_loss']:.3f}",
                number(temperature, ".3g"),
                *(f"{after[key]:.3f}" for key in ("ece", "brier", "log_loss")),
            ]
        )
    return Table("Are the scores probabilities?", rows, _calibration_note(result))


def _calibration_note(result: Mapping[str, Any]) -> str:
    notes = [
        f"ECE: distance of score and share of good ones over {result['num_calibration_bins']} bins of equal width "
        "(equal mass: of equal size)",
        "Brier of a constant: what always saying the share of good ones gives; below it a score knows more than that",
        "temperature: least log loss on all questions; after: at the temperature of the other half of the questions",
    ]
    for prm, found in result["prms"].items():
        if found["read_as"] != "probabilities":
            notes.append(f"{prm}: scores are read as {READ_AS_NOTES[found['read_as']]}")
        if zeros := found["num_zeros_called_good"]:
            notes.append(f"{prm}: {zeros} steps labelled 0 count as good, as neutral ones do; if 0 means wrong, give --neutral bad")
        if found["num_unscored"]:
            notes.append(f"{prm}: {found['num_unscored']} responses have no scores and are left out")
    notes += result["constant_scores"]
    if without := [prm for prm, found in result["prms"].items() if found["steps"] is None]:
        notes.append(f"no step has both a label and a score, so nothing is known of the steps: {', '.join(without)}")
    if shifted := [name for name, found in _measured(result) if found["after"]["ece"] > found["before"]["ece"] + SHIFTED]:
        notes.append(f"shifted rather than over- or underconfident, so that no temperature mends the ECE: {', '.join(shifted)}")
    if any(found["temperature"] is None for _, found in _measured(result)):
        notes.append("temperature -: scores that separate perfectly, or not at all, have none")
    return "\n".join(notes)


def _correlations(result: Mapping[str, Any]) -> Table:
    rows = [["rank correlation of score and", "all", "good ones", "interval", "bad ones", "good, within one response", "interval"]]
    for prm, found in result["prms"].items():
        for covariate, by_truth in found["bias"]["steps"].items():
            rows.append([f"{prm}: {COVARIATES[covariate]}", *_rho_cells(by_truth)])
        for aggregation, by_truth in found["bias"]["responses"].items():
            rows.append([f"{prm}, {aggregation}: number of steps (responses)", *_rho_cells(by_truth)])
    truths = {found["bias"]["truth"] for found in result["prms"].values()}
    notes = [
        "good ones: correlation that truth cannot explain; within one response (responses: one question): nor its difficulty",
        f"step length in {result['length_unit']}; intervals over questions",
    ]
    if "outcomes" in truths:
        notes.append("without step labels, good and bad are the steps of right and of wrong responses")
    return Table("Do the scores go by form?", rows, "\n".join(notes))


def _rho_cells(by_truth: Mapping[str, Any]) -> list[str]:
    every, good, bad = (by_truth.get(name, {}) for name in ("all", "good", "bad"))
    good_rho, within = good.get("rho"), good.get("rho_within")
    return [_rho(every.get("rho")), _rho(good_rho), _interval(good_rho), _rho(bad.get("rho")), _rho(within), _interval(within)]


def _perturbed_scores(result: Mapping[str, Any]) -> Table:
    rows = [
        ["", "steps before", "after", "change of score", "interval", "mean distance", "rank correlation", "AUC before", "after"]
    ]
    for name, perturbed in result["perturbations"].items():
        for aggregation, found in perturbed["responses"].items():
            change, auc = found["change"], found["auc"] or {"before": None, "after": None}
            rows.append(
                [
                    f"{name}, {aggregation}",
                    f"{perturbed['steps_before']:.1f}",
                    f"{perturbed['steps_after']:.1f}",
                    f"{change['value']:+.4f}",
                    _interval(change, 4),
                    f"{found['mean_absolute_change']:.4f}",
                    number(found["rank_correlation"], ".3f"),
                    number(auc["before"], ".3f"),
                    number(auc["after"], ".3f"),
                ]
            )
    notes = [
        f"{result['num_responses']} responses, scored anew; merge: two neighbours as one step; split: a step per sentence;",
        'filler: a step that says "Let me think about this." between any two; rank correlation: of the scores before and after',
    ]
    filler = result["perturbations"].get("filler")
    if filler:
        notes.append(f"mean score of the fillers {filler['mean_filler_score']:.3f}, of the steps {filler['mean_step_score']:.3f}")
    if result["num_left_out"]:
        notes.append(f"{result['num_left_out']} responses cannot be scored in every form and are left out")
    return Table("Do scores survive other steps?", rows, "\n".join(notes))


def _perturbed_choices(result: Mapping[str, Any]) -> Table:
    rows = [["Best-of-N (%)", "questions", "before", "after", "difference", "interval", "p", "other choice"]]
    for name, perturbed in result["perturbations"].items():
        for aggregation, found in perturbed["responses"].items():
            if best := found["best_of_n"]:
                low, high = 100 * best["low"], 100 * best["high"]
                rows.append(
                    [
                        f"{name}, {aggregation}",
                        str(best["num_questions"]),
                        percent(best["before"]),
                        percent(best["after"]),
                        f"{100 * best['difference']:+.1f}",
                        interval(low, high, "+.1f"),
                        p_value(best["p_value"]),
                        f"{percent(best['share_selection_changed'])}%",
                    ]
                )
    return Table("Does Best-of-N choose otherwise?", rows, "N: all candidates of a question; other choice: of how many questions")


def _measured(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for prm, found in result["prms"].items():
        if found["steps"]:
            yield f"{prm}: steps", found["steps"]
        yield from ((f"{prm}: responses, {name}", by_name) for name, by_name in found["responses"].items() if by_name)


def _rho(correlation: Mapping[str, float] | None) -> str:
    return "-" if correlation is None else f"{correlation['value']:+.2f}"


def _interval(found: Mapping[str, float] | None, digits: int = 2) -> str:
    return "" if found is None else interval(found["low"], found["high"], f"+.{digits}f")
