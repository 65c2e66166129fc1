"""Which weights of a model train: low-rank adapters, the head alone, or all of them; state dicts with the adapters merged in.

Adapters (LoRA, Hu et al. 2021) are injected into the decoder in place. In the saved weights they are merged, under the names of a
model that never had any, so that every tool loads the folder; a run continues from `TRAINABLE`, which holds them as they are.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import is_peft_available

from prm.models.backbone import PackedModel
from prm.models.reward_model import RewardModel
from prm.steps import CONFIG_NAME, read_prm_config

StateDict = dict[str, Tensor]

ADAPTER = "default"
TRAINABLE = "trainable.safetensors"
"""File of a checkpoint, beside its merged weights: adapters and head as they train, from which a run continues."""


def freeze_backbone(model: RewardModel) -> None:
    """Leave only the head to train, as a warm-up or as a probe."""
    model.model.requires_grad_(False)


def add_lora(
    model: PackedModel, rank: int, alpha: float, dropout: float = 0.0, target_modules: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Put adapters of `rank`, scaled by alpha / rank, on linear layers of the decoder (default: all) and freeze the rest of it.

    A new head trains in full, an lm_head is frozen. Adapters start at zero; `seed` draws their first factor. Raises ValueError
    without peft, or for names that no linear layer of the decoder has.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    known = sorted({name.rpartition(".")[2] for name, part in model.model.named_modules() if isinstance(part, nn.Linear)})
    unknown = sorted(set(target_modules or ()) - set(known))
    if unknown:
        raise ValueError(f"--lora_target_modules {' '.join(unknown)}: the decoder's linear layers are {', '.join(known)}")
    options = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(target_modules or known))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(options, model.model, ADAPTER)
    if (lm_head := getattr(model, "lm_head", None)) is not None:
        lm_head.requires_grad_(False)


def check_peft() -> None:
    """Raise ValueError, with the remedy, when adapters are wanted and peft is not installed."""
    if not is_peft_available():
        raise ValueError("--lora_rank needs peft: install it with `pip install 'prm[lora]'`, or leave the rank at 0")


def adapted_layers(model: PackedModel) -> dict[str, nn.Module]:
    """The layers that carry an adapter, by name; empty without LoRA."""
    return {name: part for name, part in model.named_modules() if hasattr(part, "lora_A") and hasattr(part, "base_layer")}


def merged_state_dict(model: PackedModel, state_dict: StateDict | None = None) -> StateDict:
    """The state dict of the same model without adapters: every adapted weight is W + alpha / rank * B A, added in float32.

    `state_dict` is that of `model`, to be given where its weights are spread over ranks.
    """
    state_dict = model.state_dict() if state_dict is None else state_dict
    merged = without_adapters(state_dict)
    for name, layer in adapted_layers(model).items():
        first, second = (state_dict[f"{name}.{factor}.{ADAPTER}.weight"] for factor in ("lora_A", "lora_B"))
        merged[f"{name}.weight"] = add_product(merged[f"{name}.weight"], first, second, layer.scaling[ADAPTER])
    return merged


def without_adapters(state_dict: StateDict) -> StateDict:
    """The same weights without the adapters', under the names of a model that never had any; no weight is changed."""
    return {name.replace(".base_layer.", "."): value for name, value in state_dict.items() if ".lora_" not in name}


def add_product(
    weight: Float[Tensor, "out in"], first: Float[Tensor, "rank in"], second: Float[Tensor, "out rank"], scale: float
) -> Float[Tensor, "out in"]:
    """`weight + scale * second @ first`, computed in float32, in the precision of `weight`."""
    return (weight.float() + scale * (second.float() @ first.float())).to(weight.dtype)


def adapter_state(model: PackedModel, state_dict: StateDict | None = None) -> StateDict:
    """The weights that train, adapters and head, under the names that they have in the model."""
    state_dict = model.state_dict() if state_dict is None else state_dict
    return {name: state_dict[name] for name, weight in model.named_parameters() if weight.requires_grad}


def save_adapter_state(model: PackedModel, checkpoint: str | Path, state_dict: StateDict | None = None) -> None:
    """Write `TRAINABLE`, from which `load_adapter_state` continues exactly; for a model without adapters, nothing."""
    if adapted_layers(model):
        state = {name: value.detach().cpu().contiguous() for name, value in adapter_state(model, state_dict).items()}
        save_file(state, Path(checkpoint) / TRAINABLE)


def load_adapter_state(model: PackedModel, checkpoint: str | Path) -> None:
    """Put what `save_adapter_state` wrote into a model that has the same frozen weights and new adapters.

    Raises FileNotFoundError when the run had no adapters, ValueError when it had others or another backbone.
    """
    file = Path(checkpoint) / TRAINABLE
    if not file.is_file():
        raise FileNotFoundError(f"{checkpoint}: no {TRAINABLE}, so it was written without adapters; use --lora_rank 0")
    saved, expected = load_file(file), adapter_state(model)
    changed = [
        n for n in sorted(saved.keys() | expected.keys()) if n not in saved or shape_of(saved[n]) != shape_of(expected.get(n))
    ]
    if changed:
        raise ValueError(f"{file}: {changed[0]} is not what trains now; use the --lora_* options that wrote it")
    check_frozen_weights(model, checkpoint)
    model.load_state_dict(saved, strict=False)


def shape_of(weight: Tensor | None) -> tuple[int, ...]:
    return () if weight is None else tuple(weight.shape)


def check_frozen_weights(model: PackedModel, checkpoint: str | Path) -> None:
    """Raise ValueError when weights that never train differ from the checkpoint's: its adapters are of another backbone."""
    changing = adapter_state(model).keys() | {f"{name}.weight" for name in adapted_layers(model)}
    # Not `merged_state_dict`: it would copy every adapted weight, which may be all weights but the embeddings.
    frozen = {name: value for name, value in without_adapters(model.state_dict()).items() if name not in changing}
    for file in sorted(Path(checkpoint).glob("model*.safetensors")):
        with safe_open(file, "pt") as saved:
            for name in sorted(frozen.keys() & set(saved.keys())):
                if not torch.equal(saved.get_tensor(name), frozen[name].cpu()):
                    raise ValueError(
                        f"{file}: {name} is not that of --model_name_or_path; its adapters continue only on the backbone that the "
                        "run started from"
                    )


def check_start(name_or_path: str | Path, num_labels: int) -> bool:
    """Whether training starts from a checkpoint of ours. Raises ValueError for one with another number of outputs."""
    if not (Path(name_or_path) / CONFIG_NAME).is_file():
        return False
    saved = read_prm_config(name_or_path)
    if saved["num_labels"] != num_labels:
        outputs = [f"{n} outputs per step" if n else "token log-probs, no head" for n in (saved["num_labels"], num_labels)]
        raise ValueError(
            f"--model_name_or_path {name_or_path}: {saved['loss']} trained a model of {outputs[0]}, this objective needs "
            f"{outputs[1]}; start from its backbone, or choose an objective of the same kind"
        )
    return True


def start_reward_model(
    name_or_path: str | Path, num_labels: int, seed: int, dtype: str | torch.dtype, vocab_size: int
) -> RewardModel:
    """A checkpoint of ours with the head that it has, or a new head on a pretrained backbone."""
    if check_start(name_or_path, num_labels):
        return RewardModel.from_pretrained(name_or_path, dtype=dtype)
    return RewardModel.from_backbone(name_or_path, num_labels, seed=seed, dtype=dtype, vocab_size=vocab_size)
