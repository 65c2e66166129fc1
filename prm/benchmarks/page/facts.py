"""What was evaluated: an evaluation's folder in; the names and values of the page's header out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prm.benchmarks.results import METRICS, REMEDY
from prm.tracking import manifest_path, read_manifest


@dataclass(frozen=True)
class Facts:
    """The header of a page; what the manifest does not say is absent."""

    rows: dict[str, str]
    command: list[str]
    """Its words, empty without a manifest."""
    manifest: dict[str, Any]
    """As it stands in the folder, empty without one."""


def read_facts(folder: str | Path) -> Facts:
    """The facts of an evaluation's folder. Raises ValueError for a damaged manifest."""
    folder = Path(folder)
    path = manifest_path(folder)
    manifest = read_manifest(path, REMEDY) if path.exists() else {}
    command = [str(word) for word in manifest.get("command", [])]
    rows = {
        "Evaluation": Path(command[0]).name if command else "",
        **_source(manifest),
        "Data": ", ".join(f"{name} ({str(digest)[:12]})" for name, digest in manifest.get("inputs", {}).items()),
        "Date": _date(folder / METRICS),
        "Code": str(manifest.get("code_version", "")),
        "Libraries": ", ".join(f"{name} {version}" for name, version in manifest.get("libraries", {}).items()),
        "Counts": ", ".join(f"{name} {count}" for name, count in _counts(manifest)),
        "Responses": str(manifest.get("items", "")),
    }
    return Facts({name: value for name, value in rows.items() if value}, ["python", *command] if command else [], manifest)


def _source(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What was evaluated: the checkpoint, or the files that its scores or predictions were read from."""
    config = manifest.get("config")
    config = config if isinstance(config, dict) else {}
    for name in ("model", "scores", "predictions"):
        if found := (name == "model" and manifest.get("model")) or config.get(name):
            return {name.capitalize(): ", ".join(map(str, found)) if isinstance(found, list) else str(found)}
    return {}


def _date(path: Path) -> str:
    """When the numbers were written, in UTC."""
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC" if path.exists() else ""


def _counts(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of the counts that are not zero. What stands behind a space in a name is a PRM's, and is left as it is."""
    counts = [(*name.removeprefix("num_").partition(" "), value) for name, value in manifest.get("counts", {}).items()]
    return [
        (what.replace("_", " ") + space + prm, value)
        for what, space, prm, value in counts
        if value and isinstance(value, int | float | str)
    ]
