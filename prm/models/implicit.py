"""The implicit PRM (Yuan et al. 2024): a packed row in, the log-probs of its response tokens out.

Step reward = beta * sum over the step's tokens of log pi(token) - log pi_ref(token). No tensor of tokens x vocabulary is ever held.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from prm.attention import SharedKeys
from prm.models.backbone import CONFIG_FILE, PackedModel, whole_on_every_rank
from prm.models.files import model_folder, weight_files
from prm.models.log_probs import LogProbHead
from prm.models.packing import batch_by_tokens, pack_responses, to_device
from prm.steps import CONFIG_NAME, EncodedResponse
from prm.tracking import hash_path, is_main_process, progress


class ImplicitPRM(PackedModel):
    """The policy, with the weight names of its causal LM: a saved folder is an ordinary causal LM to every other tool."""

    auto_class = AutoModelForCausalLM
    batch_keys = (*PackedModel.batch_keys, "target_positions")

    def __init__(self, config: PreTrainedConfig, policy: PreTrainedModel | None = None):
        super().__init__(config)
        policy = self.auto_class.from_config(config) if policy is None else policy
        self.architecture_name = type(policy).__name__
        self._tied_weights_keys = policy._tied_weights_keys
        self.model = policy.model
        self.lm_head = LogProbHead(policy.lm_head)
        self.post_init()

    @classmethod
    def from_backbone(cls, name_or_path: str | Path, dtype: str | torch.dtype = "auto") -> "ImplicitPRM":
        """Policy or reference from a causal LM. Raises ValueError for one whose log-probs are not softmax(lm_head(decoder))."""
        policy = cls.load_decoder(name_or_path, dtype)
        parts = {name for name, _ in policy.named_children()}
        if parts != {"model", "lm_head"} or getattr(policy.config, "final_logit_softcapping", None):
            raise ValueError(
                f"{name_or_path}: {type(policy).__name__} is more than a decoder and an lm_head; use a Qwen- or Llama-like model"
            )
        return cls.from_parts(policy)

    @property
    def architecture(self) -> str:
        return self.architecture_name

    @classmethod
    def check_contract(cls, prm_config: dict[str, Any], directory: str | Path) -> None:
        if prm_config["num_labels"] != 0:
            raise ValueError(f"{directory}: {prm_config['loss']} trained a head; load it with RewardModel or load_model")

    def forward(
        self,
        input_ids: Int[Tensor, "1 tokens"],
        position_ids: Int[Tensor, "1 tokens"],
        cu_seqlens: Int[Tensor, " responses_plus_1"],
        max_seqlen: int,
        target_positions: Int[Tensor, " targets"],
        shared: SharedKeys | None = None,
    ) -> Float[Tensor, " targets"]:
        """Float32 log-prob of every token at `target_positions` given the tokens before it."""
        hidden = self.hidden_states(input_ids, position_ids, cu_seqlens, max_seqlen, shared, target_positions - 1)
        return self.lm_head(hidden, input_ids[0, target_positions])


def sum_by_step(
    values: Float[Tensor, " targets"], target_steps: Int[Tensor, " targets"], num_steps: int
) -> Float[Tensor, " steps"]:
    """Sum token values over each step."""
    return values.new_zeros(num_steps).index_add(0, target_steps, values)


@torch.no_grad()
def compute_ref_logps(
    reference: ImplicitPRM, encoded: Sequence[EncodedResponse], token_budget: int = 16384
) -> list[Float[Tensor, " targets"]]:
    """Log-probs of every response's tokens under the reference, on the CPU, in the order of `encoded`."""
    reference.eval()
    results: dict[int, Tensor] = {}
    batches = batch_by_tokens([len(response.input_ids) for response in encoded], token_budget)
    for indices in progress(batches, desc="reference log-probs", unit="batch"):
        batch = pack_responses([encoded[i] for i in indices], with_targets=True)
        logps = reference(**reference.inputs(to_device(batch, reference.device))).cpu()
        counts = [len(encoded[i].input_ids) - encoded[i].response_start for i in indices]
        results.update(zip(indices, logps.split(counts), strict=True))
    return [results[index] for index in range(len(encoded))]


def cached_ref_logps(
    name_or_path: str,
    encoded: Sequence[EncodedResponse],
    cache_dir: str | Path,
    token_budget: int = 16384,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
) -> list[Float[Tensor, " targets"]]:
    """`compute_ref_logps`, read from `cache_dir` when the same reference has seen the same tokens before.

    Under torch.distributed every rank computes its share and all return the whole.
    """
    file = Path(cache_dir) / f"ref_logps-{_cache_key(name_or_path, encoded, dtype)}.safetensors"
    is_cached = [file.exists()]
    if torch.distributed.is_initialized():
        # Rank 0 decides for all: a file system may show the file to one rank later than to another.
        torch.distributed.broadcast_object_list(is_cached, src=0)
    if is_cached[0]:
        flat = load_file(file)["logps"]
        return list(flat.split([len(response.input_ids) - response.response_start for response in encoded]))
    with whole_on_every_rank():
        reference = ImplicitPRM.from_backbone(name_or_path, dtype=dtype).to(device)
    logps = _over_ranks(reference, encoded, token_budget)
    if is_main_process():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".tmp")
        save_file({"logps": torch.cat(logps)}, aside)
        aside.replace(file)
    return logps


def hash_model(name_or_path: str | Path) -> str:
    """SHA-256 over the weights, config, tokenizer and contract of a model, wherever its folder lies and whatever else is in it."""
    folder = model_folder(name_or_path)
    digest = hashlib.sha256()
    weights = weight_files(folder)
    for file in sorted(folder.iterdir()):
        if file in weights or file.suffix == ".safetensors" or file.name in (CONFIG_FILE, CONFIG_NAME, "tokenizer.json"):
            digest.update(f"{file.name}\0{hash_path(file)}\n".encode())
    return digest.hexdigest()


def _cache_key(name_or_path: str, encoded: Sequence[EncodedResponse], dtype: str | torch.dtype) -> str:
    digest = hashlib.sha256(f"{hash_model(name_or_path)} {dtype}".encode())
    for response in encoded:
        digest.update(np.asarray([len(response.input_ids), response.response_start, *response.input_ids], np.int64).tobytes())
    return digest.hexdigest()[:24]


def _over_ranks(reference: ImplicitPRM, encoded: Sequence[EncodedResponse], token_budget: int) -> list[Tensor]:
    if not torch.distributed.is_initialized():
        return compute_ref_logps(reference, encoded, token_budget)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, compute_ref_logps(reference, encoded[rank::world], token_budget))
    return [shares[index % world][index // world] for index in range(len(encoded))]
