"""The calibration and bias report: scores, responses and (to perturb them) a scorer in; its folder out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prm.benchmarks.calibration.bias import evaluate_bias
from prm.benchmarks.calibration.evaluate import CalibrationConfig, evaluate_calibration, exportable_temperature
from prm.benchmarks.calibration.plots import plot_bias, plot_perturbations, plot_reliability
from prm.benchmarks.calibration.scored_steps import ScoredResponses, first_bad, join_scores, soft_labels, step_truths
from prm.benchmarks.calibration.tables import calibration_tables
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.results import Item, response_item, write_results
from prm.benchmarks.tables import Table
from prm.figures import remove_figure
from prm.files import write_json
from prm.records import Response, StepScores
from prm.steps import load_tokenizer, token_counts


def report_calibration(
    records: Mapping[str, Sequence[StepScores]],
    responses: Sequence[Response],
    config: CalibrationConfig,
    folder: str | Path,
    tokenizer: str | None = None,
    perturbations: Mapping[str, Any] | None = None,
    readings: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[Table]]:
    """Evaluate and write metrics, tables, items, figures and `calibration.json` (with several PRMs, `calibration-NAME.json` each).

    The length of a step is counted in tokens of `tokenizer`, without one in characters. `readings` say of PRMs how their scores
    are read where the config leaves it open.
    Raises ValueError as `join_scores` and `check_sum` do, and for product and geometric mean of signed scores, before anything is
    written.
    """
    files = {prm: f"calibration-{prm.replace('/', '-')}.json" if len(records) > 1 else "calibration.json" for prm in records}
    if len(set(files.values())) < len(files):
        raise ValueError(f"the names {', '.join(files)} make one file of two; tell the PRMs apart by more than / and -")
    step_length, length_unit = (len, "characters") if tokenizer is None else (token_counter(tokenizer), "tokens")
    reading = dict.fromkeys(records, config.read_as) | (readings or {} if config.read_as == "auto" else {})
    scored = {
        prm: join_scores(prm, rows, responses, config.neutral, config.behind_error, step_length, read_as=reading[prm])
        for prm, rows in records.items()
    }
    for prm, one in scored.items():
        config.check_sum(prm, one.read_as)
    prms = {prm: {**evaluate_calibration(one, config), "bias": evaluate_bias(one, config)} for prm, one in scored.items()}
    result = {
        "num_calibration_bins": config.num_calibration_bins,
        "confidence": config.confidence,
        "length_unit": length_unit,
        "constant_scores": constant_notes({prm: one.step_scores for prm, one in scored.items()}),
        "prms": prms,
        "perturbations": perturbations,
    }
    tables = calibration_tables(result)
    folder = Path(folder)
    write_results(folder, result, tables, calibration_items(scored, config))
    plot_reliability(result, folder / "reliability")
    if any(found["bias"]["steps"] for found in prms.values()):
        plot_bias(result, folder / "bias")
    else:
        remove_figure(folder / "bias")
    if perturbations:
        plot_perturbations(result, folder / "perturbations")
    else:
        remove_figure(folder / "perturbations")
    for earlier in (folder / "calibration.json", *folder.glob("calibration-*.json")):
        earlier.unlink(missing_ok=True)
    for prm, found in prms.items():
        write_json(folder / files[prm], {**exportable_temperature(found), "prm": prm, "read_as": found["read_as"]})
    return result, tables


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """Number of tokens of a text."""
    loaded = load_tokenizer(tokenizer)
    return lambda text: token_counts(loaded, [text])[0]


def calibration_items(scored: Mapping[str, ScoredResponses], config: CalibrationConfig) -> Iterator[Item]:
    """Every scored response, with its first labelled error and its score under the first aggregation; grouped by PRM."""
    for prm, one in scored.items():
        values = one.response_scores(config.aggregations[0], config.softmin_tau)
        rows = zip(one.responses, one.step_scores, values, soft_labels(one.responses), strict=True)
        for response, step_scores, value, is_soft in rows:
            item = response_item(response, step_scores, float(value), prm if len(scored) > 1 else None, prm)
            truths = step_truths(response, config.neutral, config.behind_error, is_soft)
            yield replace(item, first_error=first_bad(truths))
