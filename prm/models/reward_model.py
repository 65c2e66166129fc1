"""The discriminative PRM: a packed row and its step ends in, one logit vector per step out."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from prm.attention import SharedKeys
from prm.models.backbone import PackedModel

ARCHITECTURE_SUFFIXES = {1: "ForRewardModel", 2: "ForProcessRewardModel"}
"""By number of outputs, how vLLM names the class that serves the head (of Qwen2) without a plugin: one raw logit, two classes."""
OTHER_SUFFIX = "ForStepClassification"
LINEAR_SUFFIX = "ForTokenClassification"
"""A head of one linear layer, as transformers saves and loads it under this name."""


class RewardModel(PackedModel):
    """Decoder `.model` and a head `.score`, which runs at step ends only; there is no lm_head.

    The head has two layers, whose weights are named as in Qwen2.5-Math-PRM (`model.*`, `score.0.*`, `score.2.*`), or one, as some
    published checkpoints have it, named as in transformers' token classification (`model.*`, `score.*`).
    """

    auto_class = AutoModel
    batch_keys = (*PackedModel.batch_keys, "step_ends")

    def __init__(
        self, config: PreTrainedConfig, backbone: PreTrainedModel | None = None, head: nn.Sequential | nn.Linear | None = None
    ):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = self.auto_class.from_config(config) if backbone is None else backbone
        self.score = build_head(config.hidden_size, config.num_labels, is_linear(config)) if head is None else head
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        num_labels: int,
        seed: int = 0,
        dtype: str | torch.dtype = "auto",
        vocab_size: int | None = None,
    ) -> "RewardModel":
        """A new head, drawn from `seed`, on a pretrained causal LM or base model.

        `vocab_size` is the tokenizer's length: embeddings that are shorter grow to it.
        """
        backbone = cls.load_decoder(name_or_path, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = build_head(backbone.config.hidden_size, num_labels).to(backbone.dtype)
            if vocab_size is not None and vocab_size > backbone.get_input_embeddings().num_embeddings:
                backbone.resize_token_embeddings(vocab_size, mean_resizing=False)
        backbone.config.num_labels = num_labels
        return cls.from_parts(backbone, head)

    @property
    def architecture(self) -> str:
        family = type(self.model).__name__.removesuffix("Model")
        if isinstance(self.score, nn.Linear):
            return family + LINEAR_SUFFIX
        return family + ARCHITECTURE_SUFFIXES.get(self.num_labels, OTHER_SUFFIX)

    @classmethod
    def check_contract(cls, prm_config: dict[str, Any], directory: str | Path) -> None:
        if prm_config["num_labels"] == 0:
            raise ValueError(
                f"{directory}: an implicit PRM ({prm_config['loss']}) has no head; load it with ImplicitPRM or load_model"
            )

    def forward(
        self,
        input_ids: Int[Tensor, "1 tokens"],
        position_ids: Int[Tensor, "1 tokens"],
        cu_seqlens: Int[Tensor, " responses_plus_1"],
        max_seqlen: int,
        step_ends: Int[Tensor, " steps"],
        shared: SharedKeys | None = None,
    ) -> Float[Tensor, "steps labels"]:
        """Logits at the step ends of all responses in the row, in order."""
        return self.score(self.hidden_states(input_ids, position_ids, cu_seqlens, max_seqlen, shared, step_ends))


def is_linear(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint of this config has a head of one linear layer."""
    return any(name.endswith(LINEAR_SUFFIX) for name in config.architectures or [])


def build_head(hidden_size: int, num_labels: int, linear: bool = False) -> nn.Sequential | nn.Linear:
    """The head of Qwen2.5-Math-PRM, or one linear layer."""
    if linear:
        return nn.Linear(hidden_size, num_labels)
    return nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_labels))
