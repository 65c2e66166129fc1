"""What scoring notes beside scores of the PRM that made them: a contract in, entries of the manifest out, and back."""

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
"""Folder in an evaluation's own for the scores of the responses as they are."""
SCORED = ("scores.jsonl", "predictions.jsonl")
"""What an evaluation writes of them beside it, and what another one may read from there."""
COUNTED = ("responses", "scored")
REMEDY = "restore or remove it"
METRICS = "metrics.json"
"""What only an evaluation that came to its end has written there."""


@dataclass(frozen=True)
class ScoringNotes:
    """How a PRM's scores are read."""

    aggregation: Aggregation
    activation: str | None = None
    """How an output of the head became a score."""
    num_scored: int = 0
    num_left_out: int = 0
    """Responses that the PRM could not read."""

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> "ScoringNotes":
        return cls(Aggregation.of(contract), contract["activation"])

    @property
    def reading(self) -> Reading | None:
        return READ_AS.get(self.activation or "")

    def to_manifest(self) -> dict[str, Any]:
        return {"aggregation": asdict(self.aggregation), "activation": self.activation}


def notes_of(path: str | Path) -> ScoringNotes | None:
    """The notes of a file of scores, of the jobs that wrote to a folder, or of an evaluation's scores; None if others made it.

    A run that was started again in other shares leaves the manifests of both divisions: those that went through most responses
    count.
    """
    path = Path(path)
    places = path.glob("manifest*.json") if path.is_dir() else filter(Path.exists, [manifest_path(path)])
    by_division = groupby(sorted(places, key=division), key=division)
    divisions = [[_read(place) for place in group] for _, group in by_division]
    noted = [manifest for manifest in max(reversed(divisions), key=num_responses, default=[]) if "aggregation" in manifest]
    if noted:
        num_scored = sum(counted(manifest, "scored") for manifest in noted)
        left_out = num_responses(noted) - num_scored
        return ScoringNotes(Aggregation(**noted[0]["aggregation"]), noted[0].get("activation"), num_scored, left_out)
    folder = path if path.is_dir() else path.parent
    holds_scores = (path / SCORED[1]).exists() if path.is_dir() else path.name in SCORED
    return notes_of(folder / SCORES) if holds_scores and (folder / METRICS).exists() else None


def _read(place: Path) -> dict[str, Any]:
    """A manifest. Raises ValueError, naming it, for what no run writes."""
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
    return sum(counted(manifest, "responses") for manifest in manifests)


def counted(manifest: Mapping[str, Any], name: str) -> int:
    """A count of a run that came to its end; 0 of one that did not."""
    return manifest.get("counts", {}).get(name, 0)


def division(manifest: Path) -> str:
    """Into how many jobs the run was divided that left this manifest, as its name says; empty for one job."""
    return manifest.stem.partition("-of-")[2]
