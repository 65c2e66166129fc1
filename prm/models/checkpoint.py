"""Checkpoints: a model and its step contract in, a folder out, and back, with a self-test that both still agree.

`load_model` loads every kind of model: checkpoints of this project and published PRMs.
"""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prm.models.adapt import merged_state_dict
from prm.models.backbone import PackedModel
from prm.models.files import model_folder
from prm.models.implicit import ImplicitPRM
from prm.models.published import load_published, published_contract
from prm.models.reward_model import RewardModel
from prm.models.step_scores import largest_difference, score_batch
from prm.records import Response
from prm.steps import CONFIG_NAME, EncodedResponse, StepEncoder, read_prm_config
from prm.steps.saved import REMEDY

logger = logging.getLogger(__name__)

EXAMPLE = Response(
    question_id="self-test",
    sample_index=0,
    question="Mia has 3 apples and buys 4 more. How many apples does she have?",
    steps=["Mia starts with 3 apples.", "3 + 4 = 7, so the answer is \\boxed{7}."],
)
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest change of a self-test score, absolute below 1 and relative above, for the coarser of the saved and the loaded dtype."""


def self_test(model: PackedModel, encoder: StepEncoder) -> dict[str, Any]:
    """Encode and score the fixed example. Under ZeRO-3 every rank must call this."""
    encoded = encode_example(encoder)
    was_training = model.training
    model.eval()
    (scores,) = score_batch(model, encoder, [encoded])
    model.train(was_training)
    return example_record(encoded, scores, str(model.dtype).removeprefix("torch."))


def encode_example(encoder: StepEncoder) -> EncodedResponse:
    """The fixed example, whatever `max_length` the run had."""
    return dataclasses.replace(encoder, max_length=sys.maxsize).encode_batch([EXAMPLE])[0]


def example_record(encoded: EncodedResponse, scores: list[float], dtype: str) -> dict[str, Any]:
    """What a checkpoint keeps of its example."""
    return {
        "question": EXAMPLE.question,
        "steps": EXAMPLE.steps,
        "input_ids": encoded.input_ids,
        "step_ends": encoded.step_ends,
        "step_scores": scores,
        "dtype": dtype,
    }


def save_model(
    model: PackedModel,
    encoder: StepEncoder,
    directory: str | Path,
    state_dict: dict[str, Tensor] | None = None,
    result: dict[str, Any] | None = None,
) -> None:
    """Write weights, tokenizer and contract to `directory`; `prm_config.json` comes last, so a folder that has it is complete.

    `state_dict` and `result` (of `self_test`) are for a model whose weights are spread over ranks. Adapters are merged into the
    weights: who loads the folder sees a model without any.
    """
    result = self_test(model, encoder) if result is None else result
    model.save_pretrained(directory, state_dict=merged_state_dict(model, state_dict))
    if encoder.reference_model is not None and Path(encoder.reference_model).is_dir():
        encoder = dataclasses.replace(encoder, reference_model=str(Path(encoder.reference_model).resolve()))
    encoder.save(directory, self_test=result)


def is_own(folder: Path) -> bool:
    """Whether a model is a checkpoint of this project and not a published one."""
    return (folder / CONFIG_NAME).is_file()


def read_contract(name_or_path: str | Path, recipe: str | None = None) -> dict[str, Any]:
    """The contract of a checkpoint of ours or of a published PRM, before any weight is loaded. Raises as `load_model` does."""
    folder = model_folder(name_or_path, with_weights=False)
    if not is_own(folder):
        return published_contract(name_or_path, recipe)
    if recipe is not None:
        raise ValueError(
            f"--recipe {recipe}: {name_or_path} is a checkpoint of this project, whose {CONFIG_NAME} says how to read it"
        )
    return read_prm_config(folder)


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> tuple[PackedModel, StepEncoder]:
    """Load model and contract, in eval mode: a checkpoint of ours, whose self-test is repeated, or a published PRM.

    Either is a folder or a name of the hub, `owner/name` or `owner/name@revision`. A published PRM is read by `recipe`, or by
    the one that its files tell. Raises FileNotFoundError or ValueError for what is neither, is incomplete, or no longer scores
    as saved.
    """
    if not is_own(model_folder(name_or_path, with_weights=False)):
        return load_published(name_or_path, recipe, dtype, device)
    config, folder = read_contract(name_or_path, recipe), model_folder(name_or_path)
    encoder = StepEncoder.load(folder)
    model_class = ImplicitPRM if config["num_labels"] == 0 else RewardModel
    model = model_class.from_pretrained(folder, dtype=dtype).to(device).eval()
    check_self_test(model, encoder, config.get("self_test"), name_or_path)
    return model, encoder


def check_self_test(model: PackedModel, encoder: StepEncoder, saved: dict[str, Any] | None, directory: str | Path) -> None:
    """Raise ValueError when the fixed example is no longer encoded to the same tokens or scored the same."""
    if saved is None:
        logger.warning("%s: %s holds no self-test; nothing shows that it scores as when it was saved", directory, CONFIG_NAME)
        return
    remedy = "the weights are not those that were saved; copy the checkpoint again"
    compare_examples(self_test(model, encoder), saved, directory, remedy)


def compare_examples(now: dict[str, Any], saved: dict[str, Any], directory: str | Path, remedy: str) -> None:
    """Raise ValueError for other tokens of the fixed example than were saved, and for other scores, with `remedy`."""
    if not isinstance(saved, dict) or now.keys() - saved.keys():
        raise ValueError(f"{directory}: {CONFIG_NAME} holds the self-test {saved!r:.80}; {REMEDY}")
    for name in ("input_ids", "step_ends"):
        if now[name] != saved[name]:
            raise ValueError(
                f"{directory}: the self-test's {name} changed from {saved[name]} to {now[name]}: tokenizer, chat template or "
                f"{CONFIG_NAME} are not those of the training run; restore them"
            )
    tolerance = max(TOLERANCES[now["dtype"]], TOLERANCES[saved["dtype"]])
    if not largest_difference([saved["step_scores"]], [now["step_scores"]]) <= tolerance:
        raise ValueError(
            f"{directory}: the self-test scores {now['step_scores']}, saved were {saved['step_scores']} (tolerance "
            f"{tolerance}): {remedy}"
        )
