"""Datasets of the Hugging Face hub by name: a source in, its rows with their places out, streamed, and the revision they are of.

A source is a path, a name of `PRESETS` as `NAME[@REVISION][:SPLIT]`, or `hub:OWNER/NAME[@REVISION][[:CONFIG]:SPLIT]`. A path that
exists always wins. Code that a dataset brings is never run.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from prm.files import READERS, read_rows
from prm.records import Row, clean_values
from prm.tracking import hash_path


class Preset(NamedTuple):
    """A known dataset; its first split is the default."""

    dataset: str
    config: str | None
    splits: tuple[str, ...]
    columns: dict[str, str] | None = None
    """Its name of a column -> the name that the shapes know, where they differ."""


PRESETS: dict[str, Preset] = {
    # Questions with reference answers.
    "gsm8k": Preset("openai/gsm8k", "main", ("train", "test")),
    "math": Preset("DigitalLearningGmbH/MATH-lighteval", "default", ("train", "test")),
    "math500": Preset("HuggingFaceH4/MATH-500", None, ("test",)),
    "aime24": Preset("HuggingFaceH4/aime_2024", None, ("train",)),
    "aime25": Preset("math-ai/aime25", None, ("test",)),
    "aimo_validation_aime": Preset("AI-MO/aimo-validation-aime", None, ("train",)),
    "aimo_validation_amc": Preset("AI-MO/aimo-validation-amc", None, ("train",)),
    "openthoughts": Preset("open-thoughts/OpenThoughts-114k", "metadata", ("train",), {"ground_truth_solution": "solution"}),
    # Responses with step labels.
    "prm800k_phase1": Preset("plaguss/prm800k", "phase1", ("train", "test")),
    "prm800k": Preset("plaguss/prm800k", "phase2", ("train", "test")),
    "math_shepherd": Preset("peiyi9979/Math-Shepherd", None, ("train",)),
    "processbench": Preset("Qwen/ProcessBench", None, ("gsm8k", "math", "olympiadbench", "omnimath")),
    "prmbench": Preset("hitsmy/PRMBench_Preview", None, ("train",)),
}

_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w.-]+))??(?::([\w.-]+))?")
_PRESET = re.compile(r"([\w-]+)(?:@([\w./-]+))?(?::([\w.-]+))?")


@dataclass(frozen=True)
class HubDataset:
    """One split of a hub dataset; without a split, the only one that there is."""

    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return ":".join(filter(None, ("hub", self.dataset, self.config, self.split)))


def parse_source(source: str | Path) -> HubDataset | None:
    """The hub dataset that a source names; None for a path that exists.

    Raises FileNotFoundError, naming the presets, for what is neither, and ValueError for a split that a preset does not have.
    """
    if Path(source).exists():
        return None
    if match := _HUB.fullmatch(str(source)):
        dataset, revision, config, split = match.groups()
        return HubDataset(dataset, config, split, revision)
    match = _PRESET.fullmatch(str(source))
    if match is None or match[1] not in PRESETS:
        if Path(source).suffix in READERS:
            raise FileNotFoundError(f"{source}: no such file")
        raise FileNotFoundError(
            f"{source}: no such file or folder, and no preset: presets are {', '.join(PRESETS)}; "
            "any other dataset of the hub is hub:OWNER/NAME[@REVISION][[:CONFIG]:SPLIT]"
        )
    preset, revision, split = PRESETS[match[1]], match[2], match[3] or PRESETS[match[1]].splits[0]
    if split not in preset.splits:
        raise ValueError(f"{source}: {preset.dataset} has no split {split!r}; its splits are {', '.join(preset.splits)}")
    return HubDataset(preset.dataset, preset.config, split, revision, preset.columns or {})


def read_source(source: str | Path) -> Iterator[tuple[Row, str]]:
    """Rows with their places, of a path or of the hub. Raises as `read_rows`, `parse_source` and `commit_of` do.

    ValueError also for a config or a split that the dataset does not have, and for a dataset that is a script.
    """
    hub = parse_source(source)
    if hub is None:
        yield from read_rows(source)
        return
    for index, row in enumerate(_stream(hub)):
        yield clean_values({hub.columns.get(name, name): value for name, value in row.items()}), f"{hub}[{index}]"


def hash_source(source: str | Path) -> str:
    """What identifies the content of a source in manifests: the hash of a path; name and commit of a hub dataset."""
    hub = parse_source(source)
    return hash_path(source) if hub is None else f"{hub}@{commit_of(hub.dataset, hub.revision)}"


def hash_sources(sources: Iterable[str | Path]) -> dict[str, str]:
    """`hash_source` of each, as `write_manifest` takes its inputs."""
    return {str(source): hash_source(source) for source in sources}


@cache
def commit_of(dataset: str, revision: str | None = None) -> str:
    """The commit that a revision (default: the newest) stands for, asked once, so that what is read is what manifests name.

    Raises FileNotFoundError for a dataset or revision that is not there or not open to us, ConnectionError without the hub.
    """
    from huggingface_hub import dataset_info
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name = f"hub:{dataset}" + (f"@{revision}" if revision else "")
    try:
        return str(dataset_info(dataset, revision=revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"{name}: the hub has no such dataset or revision, or it is not open to you: check the name, or accept its terms on "
            f"the hub and run `hf auth login` ({type(error).__name__})"
        ) from error
    except (HTTPError, OSError) as error:
        raise ConnectionError(
            f"{name}: the hub does not answer ({error}); where there is no network, give the file or folder that "
            f"`hf download {dataset} --repo-type dataset --local-dir DIR` made elsewhere"
        ) from error


def _stream(hub: HubDataset) -> Iterable[dict[str, Any]]:
    import datasets

    commit = commit_of(hub.dataset, hub.revision)
    try:
        data = datasets.load_dataset(hub.dataset, hub.config, split=hub.split, revision=commit, streaming=True)
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{hub}: {error}. Give hub:{hub.dataset}:CONFIG:SPLIT, or a file downloaded from it") from error
    if isinstance(data, dict):
        if len(data) > 1:
            raise ValueError(f"{hub}: has the splits {', '.join(data)}; name one, {hub}:{next(iter(data))}")
        (data,) = data.values()
    return data
