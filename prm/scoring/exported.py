"""What vLLM serves: an exported folder in; the kind, length and precision of its outputs, and how they become scores, out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from prm.files import read_json
from prm.models.files import CONFIG_FILE
from prm.models.step_scores import ACTIVATIONS
from prm.scoring.engines import resolve_device, resolve_dtype
from prm.scoring.options import ModelConfig
from prm.steps import CONFIG_NAME, EncodedResponse, StepEncoder

CLASSIFIERS = ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel", "ForTokenClassification")
"""How the names of the architectures end whose outputs vLLM calls token_classify."""
MODULES = "modules.json"
"""Lists layers behind the decoder in the format of sentence-transformers; without it a bare decoder has no head."""


def check_exported(config: ModelConfig, engine: str, torch_compile: bool) -> None:
    """Raises FileNotFoundError or ValueError for a model that is not served by vLLM, and for options that `engine` lacks."""
    if config.reference_model is not None:
        raise ValueError(f"--engine {engine}: {config.model} is an implicit PRM, which has no pooling model; use --engine torch")
    if torch_compile:
        raise ValueError("--torch_compile is of --engine torch; vLLM compiles on a GPU by itself: leave it out")
    if not (Path(config.model) / CONFIG_NAME).exists():
        raise FileNotFoundError(
            f"--engine {engine}: {config.model} is no folder with a {CONFIG_NAME}; write one with scripts/export_vllm.py "
            f"--model {config.model} --output FOLDER, and score with --model FOLDER"
        )
    config.check_engine(engine)


def read_config(directory: str | Path) -> dict[str, Any]:
    """config.json of a folder. Raises FileNotFoundError without one."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; vLLM scores a folder that scripts/export_vllm.py or scripts/train.py wrote")
    return read_json(path, "copy the checkpoint again")


def pooling_task(config: dict[str, Any], directory: str | Path) -> str:
    """vLLM's name for the outputs of a folder's head. Raises ValueError for a folder that it cannot serve as it is."""
    architecture = (config.get("architectures") or ["no architecture"])[0]
    if architecture.endswith(CLASSIFIERS):
        return "token_classify"
    if architecture.endswith("Model") and (Path(directory) / MODULES).is_file():
        return "token_embed"
    raise ValueError(
        f"{directory}: vLLM knows no pooling model {architecture}; write one with scripts/export_vllm.py --model {directory} "
        "--output FOLDER and score with that folder"
    )


def served_dtype(dtype: str, config: dict[str, Any]) -> str:
    """The precision that the torch engine would have. vLLM's own `auto` takes half precision for float32 weights."""
    dtype = resolve_dtype(dtype, resolve_device("auto"))
    return config.get("dtype", "float32") if dtype == "auto" else dtype


def served_length(config: dict[str, Any], encoder: StepEncoder) -> int:
    """Longest response in tokens: the contract's `max_length`, or the model's positions where those are fewer."""
    return min(encoder.max_length, config.get("max_position_embeddings", encoder.max_length))


def check_encoded(encoded: Sequence[EncodedResponse], max_length: int, vocab_size: int) -> None:
    """Raises ValueError for a response that vLLM would refuse, which would end the call for all others, too."""
    for index, response in enumerate(encoded):
        length = len(response.input_ids)
        if not 0 < length <= max_length:
            raise ValueError(f"response {index} has {length} tokens, the served model takes 1 to {max_length}")
        if not all(0 <= token < vocab_size for token in response.input_ids):
            raise ValueError(f"response {index} holds token {max(response.input_ids)}, the vocabulary ends at {vocab_size - 1}")
        if not all(0 <= end < length for end in response.step_ends):
            raise ValueError(f"response {index} has step ends {response.step_ends} outside of its {length} tokens")


def scores_of_logits(logits: Float32[np.ndarray, "steps labels"], encoder: StepEncoder) -> list[float]:
    """The contract's reading of the head's outputs at the step ends of a response, before any activation of vLLM's own."""
    return ACTIVATIONS[encoder.activation](torch.from_numpy(logits), encoder.good_class).tolist()
