"""What an evaluation reads: score files as curves by name, or a model's scores, and their texts, lengths and question fields."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from prm.benchmarks.response_scores import OwnAggregation
from prm.data.hub import read_source
from prm.data.shapes import Place, Shape
from prm.data.sources import RESPONSE_SHAPES, ROLLOUT_SHAPES, iter_responses, iter_rollouts, list_prms, load_scores, question_text
from prm.files import read_json, write_jsonl
from prm.records import Key, Response, Row, StepScores
from prm.scoring import ModelConfig, Scorer, score_kept
from prm.tracking import manifest_path

ID_KEYS = ("question_id", "unique_id", "problem_id", "id", "idx")


def read_scores(entries: Sequence[str], prms: Sequence[str] | None = None) -> dict[str, list[StepScores]]:
    """Curve label -> records, from `FILE` or `NAME=FILE` of step scores and of candidate pools; `prms` chooses in the pools.

    Raises ValueError for two curves of one name and for `prms` that a pool does not hold.
    """
    records: dict[str, list[StepScores]] = {}
    found: set[str] = set()
    for entry in entries:
        label, path = split_name(entry)
        names = list_prms(path)
        found.update(names)
        chosen = [name for name in names if prms is None or name in prms]
        if names and not chosen:
            raise ValueError(f"--prm {' '.join(prms or [])}: {path} holds step scores of {', '.join(names)}")
        prefix = f"{label}/" if label and len(chosen) > 1 else label
        curves = {f"{prefix or ''}{'' if prefix == label and label else name}": name for name in chosen}
        for curve, name in (curves or {label or Path(path).stem: None}).items():
            if curve in records:
                raise ValueError(f"--scores {entry}: a second curve named {curve!r}; name the files apart, NAME={path}")
            records[curve] = load_scores(path, name)
    if prms is not None and not found:
        raise ValueError(
            f"--prm {' '.join(prms)}: chooses among the PRMs of candidate pools, and none of {', '.join(entries)} is one"
        )
    if unknown := sorted(set(prms or ()) - found):
        raise ValueError(f"--prm {unknown[0]}: {', '.join(entries)} hold step scores of {', '.join(sorted(found))}")
    return records


@dataclass(frozen=True)
class ScoringNotes:
    """What scripts/score.py noted of a file of scores and the PRM that made them."""

    own: OwnAggregation | None = None
    num_left_out: int = 0
    """Responses that the PRM could not read."""
    activation: str | None = None
    """How an output of the head became a score."""


def scoring_notes(entries: Sequence[str]) -> dict[str, ScoringNotes]:
    """Curve label -> the notes of its file; none of a file that others made."""
    named = [split_name(entry) for entry in entries]
    noted = {label or Path(path).stem: notes_of(path) for label, path in named}
    return {label: notes for label, notes in noted.items() if notes}


def notes_of(path: str | Path) -> ScoringNotes | None:
    """The notes of a file of scores, or of the jobs that wrote to a folder; None if others made it.

    A run that was started again in other shares leaves the manifests of both divisions: those that went through most responses
    count.
    """
    places = Path(path).glob("manifest*.json") if Path(path).is_dir() else filter(Path.exists, [manifest_path(path)])
    by_division = groupby(sorted(places, key=division), key=division)
    divisions = [[read_json(place, "restore or remove it") for place in group] for _, group in by_division]
    noted = [manifest for manifest in max(reversed(divisions), key=num_responses, default=[]) if "aggregation" in manifest]
    if not noted:
        return None
    left_out = num_responses(noted) - sum(counted(manifest, "scored") for manifest in noted)
    return ScoringNotes(OwnAggregation(**noted[0]["aggregation"]), left_out, noted[0].get("activation"))


def num_responses(manifests: Sequence[Mapping[str, Any]]) -> int:
    return sum(counted(manifest, "responses") for manifest in manifests)


def counted(manifest: Mapping[str, Any], name: str) -> int:
    """A count of a run that came to its end; 0 of one that did not."""
    return (manifest.get("counts") or {}).get(name, 0)


def division(manifest: Path) -> str:
    """Into how many jobs the run was divided that left this manifest, as its name says; empty for one job."""
    return manifest.stem.partition("-of-")[2]


def score_all(
    config: ModelConfig, responses: Sequence[Response], output_dir: str | Path, load: Callable[[], Scorer] | None = None
) -> list[StepScores]:
    """Score every response that the model can read, as `score_kept` does, and write scores.jsonl."""
    records, _ = score_kept(config, responses, output_dir, load=load)
    write_jsonl(Path(output_dir) / "scores.jsonl", records)
    return records


def split_name(entry: str) -> tuple[str | None, str]:
    """`NAME=FILE` or `FILE`."""
    name, _, path = entry.rpartition("=")
    return (None, entry) if not name or Path(entry).exists() else (name, path)


@dataclass(frozen=True)
class Texts:
    """The responses behind scores, and how many tokens the policy generated where the source says so."""

    responses: dict[Key, Response] = field(default_factory=dict)
    num_tokens: dict[Key, int] = field(default_factory=dict)


def load_texts(sources: Iterable[str]) -> Texts:
    """The texts of those sources that hold any (rollouts, responses, candidate pools); files of bare scores are passed over."""
    texts = Texts()
    for source in sources:
        if holds_any(source, RESPONSE_SHAPES):
            texts.responses.update((response.key, response) for response in iter_responses(source))
        if holds_any(source, ROLLOUT_SHAPES):
            texts.num_tokens.update((rollout.key, rollout.num_tokens) for rollout in iter_rollouts(source) if rollout.num_tokens)
    return texts


def holds_any(source: str, shapes: Iterable[Shape]) -> bool:
    """Whether the first row of a file or folder is of one of the shapes."""
    row, _ = next(iter(read_source(source)), ({}, source))
    return any(shape.matches(row) for shape in shapes)


def check_steps(prm: str, records: Sequence[StepScores], responses: Mapping[Key, Response]) -> None:
    """Raises ValueError where steps and scores differ in number, unless every response has one score (an outcome model's)."""
    if all(len(record.step_scores) == 1 for record in records):
        return
    for record in records:
        response = responses.get(record.key)
        if response and response.steps and len(record.step_scores) != len(response.steps):
            raise ValueError(
                f"{prm}: response {record.key!r} has {len(record.step_scores)} step scores but {len(response.steps)} steps; "
                "give the responses in the steps that were scored, or leave the texts out"
            )


@dataclass(frozen=True)
class QuestionFields:
    """Fields such as source, level or subject, found by a question's id or, for a file with other ids, by its text."""

    by_id: dict[str, Row]
    by_text: dict[str, Row]

    def of(self, question_id: str, text: str | None) -> Row:
        """The fields of a question, none if it is unknown."""
        return self.by_id.get(question_id) or self.by_text.get(_plain(text or ""), {})


def load_question_fields(source: str) -> QuestionFields:
    """The plain fields (strings, numbers) of every row of a question file, a candidate pool or rollouts."""
    by_id, by_text = {}, {}
    for index, (row, where) in enumerate(read_source(source)):
        place = Place(where, index)
        fields = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
        given = [row[name] for name in ID_KEYS if row.get(name) is not None]
        for question_id in {place.question_id(name) for name in given or [None]}:
            by_id.setdefault(question_id, fields)
        if any(isinstance(row.get(name), str) for name in ("question", "problem")):
            by_text.setdefault(_plain(question_text(row, where)), fields)
    return QuestionFields(by_id, by_text)


def groups_by_field(
    fields: QuestionFields,
    questions: Sequence[tuple[str, str | None]],
    names: Sequence[str] | None,
    defaults: Sequence[str],
    source: str,
) -> dict[str, list[str]]:
    """The value of each named field for every question (id, text); "unknown" where a question has none.

    Without `names`, those of `defaults` that there are. Raises ValueError if no question is found, or none has a field asked for.
    """
    rows = [fields.of(question_id, text) for question_id, text in questions]
    if not any(rows):
        raise ValueError(f"{source}: holds none of the {len(rows)} questions, such as {questions[0][0]!r}, by id or by text")
    found = {name: [_value(row.get(name)) for row in rows] for name in names or defaults}
    if missing := [name for name in names or () if not any(name in row for row in rows)]:
        known = sorted({name for row in rows for name in row})
        raise ValueError(f"--breakdown {missing[0]}: no question in {source} has that field; they have {', '.join(known)}")
    return {name: values for name, values in found.items() if set(values) != {"unknown"}}


def _value(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _plain(text: str) -> str:
    return " ".join(text.split())
