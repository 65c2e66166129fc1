"""What an evaluation of responses reads: files of scores, or a model, in; step scores by PRM, texts and lengths out."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from prm.benchmarks.response_scores import ResponseScoreConfig
from prm.data.hub import read_source
from prm.data.shapes import Shape
from prm.data.sources import RESPONSE_SHAPES, ROLLOUT_SHAPES, iter_responses, iter_rollouts, list_prms, load_scores
from prm.files import write_jsonl
from prm.records import Key, Response, StepScores
from prm.scoring import ModelConfig, Scorer, ScoringNotes, notes_of, score_kept
from prm.scoring.notes import SCORES_FILE


@dataclass(kw_only=True)
class ScoresConfig(ModelConfig, ResponseScoreConfig):
    """What gives responses their scores: files of them, or a model."""

    scored: ClassVar[str]
    """Name of the option (`rollouts`, `responses`) that says what --model scores."""
    output_dir: str = ""
    """Folder of this evaluation."""
    scores: list[str] | None = None
    """Step scores, FILE or NAME=FILE: one PRM per file, named after it, and in a file of candidate pools one per name."""
    prm: list[str] | None = None
    """PRMs to take from candidate pools; all by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.scores) == bool(self.model) or (self.model and not getattr(self, self.scored)):
            raise ValueError(f"give either --scores FILE... or both --model MODEL and --{self.scored} FILE")
        self.check_unused("--scores")
        if self.scores:
            self.check_tau()
        if self.model and self.prm:
            raise ValueError("--prm chooses among the PRMs of candidate pools, but --model scores: leave one of the two out")

    @property
    def score_files(self) -> list[str]:
        """The files of --scores, without their names."""
        return [split_name(entry)[1] for entry in self.scores or []]

    def load_scores(
        self, responses: Sequence[Response], load: Callable[[], Scorer] | None = None
    ) -> tuple[dict[str, list[StepScores]], dict[str, ScoringNotes]]:
        """Scores, and what scoring noted of their PRM where that is known, by the name of the PRM.

        With --model, `responses` are scored as `score_kept` does, options that the user left open are filled in from the model's
        contract, and `output_dir` gets scores.jsonl.
        """
        if self.scores:
            return read_scores(self.scores, self.prm), scoring_notes(self.scores)
        notes = ScoringNotes.of(self.contract)
        self.take_defaults_of(notes)
        records, _ = score_kept(self, responses, self.output_dir, load=load)
        write_jsonl(Path(self.output_dir) / SCORES_FILE, records)
        return {self.model_name: records}, {self.model_name: notes}


def read_scores(entries: Sequence[str], prms: Sequence[str] | None = None) -> dict[str, list[StepScores]]:
    """Scores by the name of their PRM, from `FILE` or `NAME=FILE` of step scores or of candidate pools.

    A file of step scores gives one PRM, called NAME or else as the file. A pool of candidates gives those of its PRMs that `prms`
    names, by default all, under their own names. With NAME a single PRM of a pool is called NAME, several are called NAME/PRM.
    Raises ValueError for two PRMs of one name and for `prms` that no pool holds.
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
        for name in chosen or [None]:
            curve = f"{label}/{name}" if label and len(chosen) > 1 else label or name or Path(path).stem
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


def scoring_notes(entries: Sequence[str]) -> dict[str, ScoringNotes]:
    """What scoring noted of the PRM of each file, by its name; nothing for files that were made elsewhere."""
    named = [split_name(entry) for entry in entries]
    noted = {label or Path(path).stem: notes_of(path) for label, path in named}
    return {label: notes for label, notes in noted.items() if notes}


def split_name(entry: str) -> tuple[str | None, str]:
    """Name and path of `NAME=FILE`, or None and the path of `FILE`.

    Both may hold a `=`: the path begins behind the first one that an existing path follows, else behind the first one.
    """
    if Path(entry).exists() or "=" not in entry.lstrip("="):
        return None, entry
    places = [place for place, sign in enumerate(entry) if sign == "=" and place]
    place = next((place for place in places if Path(entry[place + 1 :]).exists()), places[0])
    return entry[:place], entry[place + 1 :]


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


def check_keys(prm: str, scored: Collection[Key], known: Collection[Key], where: str) -> None:
    """Raises ValueError for scores of responses that `where` does not hold."""
    if strangers := set(scored).difference(known):
        other = f", where {min(known)!r} is the first" if known else ""
        raise ValueError(
            f"{prm}: {len(strangers)} scored responses are not among {where}, such as {min(strangers)!r}{other}; give the "
            "responses that were scored, with the same question_id and sample_index"
        )


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
