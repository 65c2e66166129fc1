"""How the PRM behind a file of scores is read: its contract in, entries of the scores' manifest out, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from prm.aggregation import Aggregation, check_aggregation
from prm.records import is_instance, to_record
from prm.steps import READ_AS, Reading
from prm.tracking import manifest_path, read_manifest

SCORES = "scores"
"""Folder within an evaluation's output folder, where its model's scores and their manifest stand."""
SCORES_FILE, PREDICTIONS_FILE = "scores.jsonl", "predictions.jsonl"
"""Copies of these scores in the output folder itself, for other evaluations to read: the first is written by Best-of-N and by
calibration, the second by ProcessBench and PRMBench."""
COUNTED = ("responses", "scored")
"""Counts of a run of scoring; the others say, by reason, how many responses were dropped."""
REMEDY = "restore or remove it"
METRICS = "metrics.json"
"""File of the output folder that only an evaluation which came to its end has written."""


@dataclass(frozen=True)
class ScoringNotes:
    """What scoring noted of the PRM that made some scores."""

    aggregation: Aggregation
    activation: str | None = None
    """How outputs of the head became scores, a key of `READ_AS`; None in manifests of older versions."""
    num_scored: int = 0
    num_left_out: int = 0
    """Responses without scores, because the PRM could not read them."""

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> "ScoringNotes":
        """What scoring with a PRM of this contract would note."""
        return cls(Aggregation.of(contract), contract["activation"])

    @property
    def reading(self) -> Reading | None:
        """Whether the scores are probabilities, differences or logits; None where that is not known."""
        return READ_AS.get(self.activation or "")

    def to_manifest(self) -> dict[str, Any]:
        return {"aggregation": asdict(self.aggregation), "activation": self.activation}


def notes_of(path: str | Path) -> ScoringNotes | None:
    """The notes of scores: a file or folder that scripts/score.py wrote, or an evaluation's folder or file of scores. None for
    scores that were made elsewhere.

    Several jobs leave a manifest each. A run that was started again with another number of jobs leaves the manifests of both
    divisions: those of the division that went through most responses count.
    """
    path = Path(path)
    places = path.glob("manifest*.json") if path.is_dir() else filter(Path.exists, [manifest_path(path)])
    by_division = groupby(sorted(places, key=division), key=division)
    divisions = [[_read(place) for place in group] for _, group in by_division]
    # Of divisions with equally many responses, the one into most jobs.
    noted = [manifest for manifest in max(reversed(divisions), key=num_responses, default=[]) if "aggregation" in manifest]
    if noted:
        num_scored = sum(counted(manifest, "scored") for manifest in noted)
        left_out = num_responses(noted) - num_scored
        return ScoringNotes(Aggregation(**noted[0]["aggregation"]), noted[0].get("activation"), num_scored, left_out)
    folder = path if path.is_dir() else path.parent
    holds_scores = (path / PREDICTIONS_FILE).exists() if path.is_dir() else path.name in (SCORES_FILE, PREDICTIONS_FILE)
    return notes_of(folder / SCORES) if holds_scores and (folder / METRICS).exists() else None


def _read(place: Path) -> dict[str, Any]:
    """A manifest of scores. Raises ValueError, naming it, for entries that no run writes."""
    manifest = read_manifest(place, REMEDY)
    try:
        for name in COUNTED:
            if not is_instance(count := manifest.get("counts", {}).get(name, 0), int):
                raise ValueError(f"{name} among the counts is {count!r:.80}")
        if not is_instance(activation := manifest.get("activation"), str | None):
            raise ValueError(f"activation is {activation!r:.80}")
        if not isinstance(row := manifest.get("aggregation", {}), dict):
            raise ValueError(f"aggregation is {row!r:.80}")
        if "aggregation" in manifest:
            aggregation = to_record(row, Aggregation, "aggregation")
            check_aggregation(aggregation.name, aggregation.tau)
    except ValueError as error:
        raise ValueError(f"{place}: {error}; {REMEDY}") from error
    return manifest


def num_responses(manifests: Sequence[Mapping[str, Any]]) -> int:
    """Responses that went through the jobs of these manifests."""
    return sum(counted(manifest, "responses") for manifest in manifests)


def counted(manifest: Mapping[str, Any], name: str) -> int:
    """A count in a run's manifest; 0 for a run that did not come to its end."""
    return manifest.get("counts", {}).get(name, 0)


def division(manifest: Path) -> str:
    """The number of jobs that a run was divided into, as the name of its manifest ends; empty for one job."""
    return manifest.stem.partition("-of-")[2]
