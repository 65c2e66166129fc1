"""Evaluations on the same data joined: what PRMs reach in; a table per benchmark and data, and every number in long form, out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prm.benchmarks.summary.read import READERS, Number, Summary
from prm.benchmarks.summary.training_runs import measure_runs, method_of, run_tables
from prm.benchmarks.tables import Table, interval, percent

NOTE = "Intervals are each PRM's alone; whether two PRMs differ is a paired test: --compare, or one Best-of-N evaluation of both."


@dataclass(frozen=True)
class SameData:
    """What PRMs reach on the same data of one benchmark."""

    benchmark: str
    title: str
    columns: list[str]
    """The metrics that a table shows."""
    numbers: dict[str, dict[str, Number]]
    """PRM or baseline -> metric -> number."""
    notes: list[str]

    @property
    def prms(self) -> list[str]:
        return [name for name, found in self.numbers.items() if not any(number.is_baseline for number in found.values())]

    @property
    def values(self) -> dict[str, dict[str, float | None]]:
        """What each PRM reaches by each metric."""
        return {prm: {metric: number.value for metric, number in self.numbers[prm].items()} for prm in self.prms}

    @cached_property
    def runs(self) -> dict[str, list[dict[str, Any]]] | None:
        """`measure_runs`, where some PRMs are runs of one method."""
        return measure_runs(self.values) if len(set(map(method_of, self.prms))) < len(self.prms) else None


def by_data(summaries: Sequence[Summary]) -> list[SameData]:
    """One for the data of each benchmark. Raises ValueError for a PRM that has two evaluations there which do not agree."""
    groups: dict[tuple[str, str, int], list[Summary]] = {}
    for s in sorted(summaries, key=lambda summary: list(READERS).index(summary.benchmark)):
        groups.setdefault((s.benchmark, s.data, s.data_hash), []).append(s)
    same_words = Counter((benchmark, data) for benchmark, data, _ in groups)
    return [_join(group, is_alone=same_words[benchmark, data] == 1) for (benchmark, data, _), group in groups.items()]


def summary_tables(groups: Sequence[SameData]) -> list[Table]:
    """A table per data of each benchmark: PRMs, best first by the first column in which all have a number; then the baselines.

    Where PRMs are runs of one method (`method_of`), what methods reach over their runs.
    """
    tables = []
    for group in groups:
        tables.append(_table(group))
        if group.runs:
            tables += run_tables(group.runs, group.columns, group.title)
    return tables


def long_form(summaries: Sequence[Summary]) -> Iterator[dict[str, Any]]:
    """A row per number, as a data frame has it."""
    for s in summaries:
        for number in s.numbers:
            yield {
                "benchmark": s.benchmark,
                "data": s.data,
                "method": method_of(number.prm),
                **vars(number),
                "folder": str(s.folder),
            }


def runs_long_form(groups: Sequence[SameData]) -> dict[str, list[dict[str, Any]]]:
    """`methods` and `differences` of `measure_runs`, with their benchmark and data, where methods have several runs."""
    found: dict[str, list[dict[str, Any]]] = {"methods": [], "differences": []}
    for group in groups:
        for name, rows in (group.runs or {}).items():
            found[name] += [{"benchmark": group.benchmark, "data": group.title, **row} for row in rows]
    return found


def _join(group: Sequence[Summary], is_alone: bool) -> SameData:
    """The summaries of one benchmark and data. Where others of the same words exist (not `is_alone`), the title names a folder."""
    columns = list(dict.fromkeys(column for summary in group for column in summary.columns))
    places: dict[str, Path] = {}
    cells: dict[str, dict[str, Number]] = {}
    for summary in group:
        for number in summary.numbers:
            first = places.setdefault(number.prm, summary.folder)
            known = cells.setdefault(number.prm, {}).setdefault(number.metric, number)
            if known != number and not number.is_baseline:
                raise ValueError(
                    f"{summary.folder}: {number.metric} of {number.prm!r} is another than in {first}, on the same data; give one "
                    "of the two, or name them apart: NAME=FOLDER (runs of one method: NAME-seed0=FOLDER, NAME-seed1=FOLDER)"
                )
    title = f"{group[0].benchmark}: {group[0].data}" + (f" as in {group[0].folder}" if not is_alone else "")
    constant = dict.fromkeys(note for summary in group for note in summary.constant_scores)
    return SameData(group[0].benchmark, title, columns, cells, [*constant, NOTE])


def _table(group: SameData) -> Table:
    prms, values = group.prms, group.values
    ranked_by = next((column for column in group.columns if all(column in values[prm] for prm in prms)), group.columns[0])
    baselines = [name for name in group.numbers if name not in prms]
    order = [*sorted(prms, key=lambda prm: values[prm].get(ranked_by) or 0.0, reverse=True), *baselines]
    rows = [[name, *(_cell(group.numbers[name].get(column)) for column in group.columns)] for name in order]
    return Table(f"{group.title} (%)", [["PRM", *group.columns], *rows], "\n".join(group.notes))


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    return percent(number.value) + (f" {interval(number.low, number.high)}" if number.low is not None else "")
