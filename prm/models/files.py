"""The name or path of a model in; its folder on disk, its config and its weights by name out. No remote code, no open pickles."""

import hashlib
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import metadata_load
from safetensors import SafetensorError, safe_open
from torch import Tensor
from yaml import YAMLError

from prm.files import read_json
from prm.steps import CONFIG_NAME
from prm.tracking import hash_path

CONFIG_FILE = "config.json"
CARD, TRAINING_ARGS, ADAPTER_CONFIG = "README.md", "training_args.bin", "adapter_config.json"
MAX_ARGS = 1_000_000
"""Training options of more bytes are not looked through."""
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""Files of weights; those of the second kind, older than safetensors, count only where there are none of the first."""
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Of each kind the file that holds all weights. The name with `.index.json` behind is that of an index of several files."""
SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", CARD, TRAINING_ARGS]


def is_path(name: str) -> bool:
    """Whether a model is named by its place on disk and not as `owner/name` on the hub."""
    return Path(name).is_dir() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def model_folder(name_or_path: str | Path, with_weights: bool = True) -> Path:
    """Folder of a model on disk, or of one of the hub as `owner/name` or `owner/name@revision`, which is downloaded if it must be.

    Of a model that has safetensors no other weights are taken; without weights, config and tokenizer only. Raises FileNotFoundError
    for one that is neither here nor there.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        return Path(name)
    if is_path(name) or name.count("/") != 1:
        raise FileNotFoundError(f"{name}: no such checkpoint folder, and no model of the hub, whose names read owner/name")
    for pattern in WEIGHT_PATTERNS if with_weights else ():
        folder = download(name, pattern)
        if any(folder.glob(pattern)):
            return folder
    return download(name)


@cache
def download(name: str, *weights: str) -> Path:
    """Snapshot of a model of the hub in its cache: config, tokenizer and the weights that match. Asked for once a process."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*SMALL_FILES, *weights]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{name}: no such folder, and the hub gave no model of this name ({reason}); check the name, the revision, the "
            "network, HF_HUB_OFFLINE, and for gated models HF_TOKEN"
        ) from error


class ModelFiles:
    """A model's folder: config.json as it stands, and weights by name, downloaded and read only when asked for."""

    def __init__(self, name_or_path: str | Path):
        self.name = str(name_or_path)
        self.folder = model_folder(name_or_path, with_weights=False)
        if not (self.folder / CONFIG_FILE).is_file():
            self._refuse_adapter()

    @cached_property
    def config(self) -> dict[str, Any]:
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.name}: no {CONFIG_FILE}; a folder of weights alone needs the config and tokenizer of its backbone beside it"
            )
        return read_json(path, "copy the checkpoint again")

    @property
    def architecture(self) -> str:
        return (self.config.get("architectures") or ["none"])[0]

    @cached_property
    def known_as(self) -> str:
        """Names of the checkpoint in lower case, each behind a slash: the last parts of its path and of that in config.json."""
        names = [*Path(self.name).absolute().parts[-2:], *Path(self.config.get("_name_or_path") or "").parts[-2:]]
        return "".join(f"/{name}" for name in names).lower().replace("_", "-")

    @cached_property
    def tags(self) -> list[str]:
        """What the model's card is tagged with; nothing without a card, or with one that cannot be read."""
        path = self.folder / CARD
        try:
            metadata = metadata_load(path) if path.is_file() else None
        except (ValueError, YAMLError):
            return []
        tags = (metadata or {}).get("tags")
        return tags if isinstance(tags, list) else []

    @cached_property
    def step_separator(self) -> str | None:
        """TRL's option of this name, out of the pickled training options, of which nothing is run; None where there is none."""
        path = self.folder / TRAINING_ARGS
        try:
            with zipfile.ZipFile(path) as archive:
                inside = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
                return text_behind("step_separator", archive.read(inside)) if inside.file_size <= MAX_ARGS else None
        except (OSError, StopIteration, ValueError, zipfile.BadZipFile):
            return None

    @cached_property
    def weights(self) -> dict[str, str]:
        """File of every weight, of the kind that counts: by its index, unless one file holds all, or by the files themselves.

        Raises FileNotFoundError for a folder without weights.
        """
        for whole, pattern in zip(WHOLE, WEIGHT_PATTERNS, strict=True):
            index = self.folder / f"{whole}.index.json"
            if index.is_file() and not (self.folder / whole).is_file():
                return read_json(index, "copy the checkpoint again")["weight_map"]
            if any(self.folder.glob(pattern)):
                break
        if files := weight_files(model_folder(self.name)):
            return {name: file.name for file in files for name in weight_names(file)}
        self._refuse_adapter()
        raise FileNotFoundError(f"{self.name}: no weights, that is, no {' or '.join(WEIGHT_PATTERNS)} in {self.folder}")

    def _refuse_adapter(self) -> None:
        if (self.folder / ADAPTER_CONFIG).is_file():
            raise FileNotFoundError(
                f"{self.name}: holds an adapter (LoRA) and not a model; merge it into its base first: "
                "PeftModel.from_pretrained(BASE_MODEL, FOLDER).merge_and_unload().save_pretrained(MERGED), the tokenizer beside it"
            )

    def file_of(self, name: str) -> Path:
        """Where a weight lies. Raises ValueError for one that the checkpoint lacks."""
        if name not in self.weights:
            raise ValueError(f"{self.name}: has no weight {name}; it is another kind of model, or incomplete: copy it again")
        return model_folder(self.name) / self.weights[name]

    def num_rows(self, name: str) -> int:
        """First dimension of a weight, which is not read for it where it lies in safetensors."""
        if self.file_of(name).suffix == ".safetensors":
            with named_damage(self.file_of(name)), safe_open(self.file_of(name), "pt") as weights:
                return weights.get_slice(name).get_shape()[0]
        return len(self.tensors([name])[name])

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Weights by name. Raises ValueError for one that the checkpoint lacks."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of(name), []).append(name)
        return {name: tensor for file, wanted in by_file.items() for name, tensor in read_tensors(file, wanted).items()}


def hash_model(name_or_path: str | Path, with_weights: bool = True) -> str:
    """SHA-256 over the weights, config, tokenizer and contract of a model, wherever its folder lies and whatever else is in it."""
    folder = model_folder(name_or_path, with_weights)
    digest = hashlib.sha256()
    weights = weight_files(folder)
    for file in sorted(folder.iterdir()):
        is_weight = file in weights or file.suffix == ".safetensors"
        if (is_weight and with_weights) or file.name in (CONFIG_FILE, CONFIG_NAME, "tokenizer.json"):
            digest.update(f"{file.name}\0{hash_path(file)}\n".encode())
    return digest.hexdigest()


def text_behind(key: str, pickled: bytes) -> str | None:
    """The text that a pickled dict holds under `key`, read from the pickle's instructions, of which none is run; None without one.

    Raises ValueError for what is no pickle.
    """
    memo: dict[Any, Any] = {}
    last, is_next = None, False
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = last
            continue
        last = memo.get(argument) if "GET" in opcode.name else argument if "UNICODE" in opcode.name else None
        if is_next:
            return last
        is_next = last == key
    return None


@contextmanager
def named_damage(file: Path) -> Iterator[None]:
    """Raise ValueError, naming the file, for safetensors that are damaged."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or cut off ({error}); copy the checkpoint again") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights: safetensors, or without any the older kind."""
    return next((files for pattern in WEIGHT_PATTERNS if (files := sorted(folder.glob(pattern)))), [])


def weight_names(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        with named_damage(file), safe_open(file, "pt") as weights:
            return list(weights.keys())
    return [name for name, value in read_pickle(file).items() if isinstance(value, Tensor)]


def read_tensors(file: Path, names: list[str]) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        with named_damage(file), safe_open(file, "pt") as weights:
            return {name: weights.get_tensor(name) for name in names}
    weights = read_pickle(file)
    return {name: weights[name] for name in names}


def read_pickle(file: Path) -> dict[str, Any]:
    """A file of the time before safetensors: `weights_only` reads tensors and runs nothing that the file brings along."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
