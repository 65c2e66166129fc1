"""The implicit PRM (Yuan et al. 2024): a packed row in, the log-probs of its response tokens out.

Step reward = beta * sum over the step's tokens of (log pi(token) - log pi_ref(token)). No tensor of tokens x vocabulary is held.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from prm.attention import SharedKeys
from prm.models.backbone import PackedModel
from prm.models.log_probs import LogProbHead
from prm.models.packing import batch_by_tokens, pack_responses, to_device
from prm.steps import EncodedResponse
from prm.tracking import progress


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
    """Log-probs of each response's tokens under the reference, held on the CPU, in the order of `encoded`."""
    reference.eval()
    results: dict[int, Tensor] = {}
    batches = batch_by_tokens([len(response.input_ids) for response in encoded], token_budget)
    for indices in progress(batches, desc="reference log-probs", unit="batch"):
        batch = pack_responses([encoded[i] for i in indices], with_targets=True)
        logps = reference(**reference.inputs(to_device(batch, reference.device))).cpu()
        counts = [len(encoded[i].input_ids) - encoded[i].response_start for i in indices]
        results.update(zip(indices, logps.split(counts), strict=True))
    return [results[index] for index in range(len(encoded))]
