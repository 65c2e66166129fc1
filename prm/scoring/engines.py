"""Scoring engines: encoded responses in, one score per step end of each out, in order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from prm.models import ImplicitPRM, load_model
from prm.models.backbone import PackedModel
from prm.models.packing import batch_by_tokens
from prm.models.step_scores import score_batch
from prm.steps import EncodedResponse, StepEncoder

ENGINES = ("torch", "vllm")
"""This project's packed forward pass, and vLLM's pooling models of an exported checkpoint."""


@runtime_checkable
class ScoringEngine(Protocol):
    """A loaded model that scores. `Scorer` drops copies before, and checks number and finiteness of the scores after."""

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """One list per response, in order, with as many scores as it has step ends."""
        ...


@dataclass
class TorchEngine:
    """The model in this process: responses sorted by length, packed into rows of `token_budget` tokens."""

    model: PackedModel
    encoder: StepEncoder
    reference: ImplicitPRM | None = None
    token_budget: int = 16384

    @classmethod
    def load(
        cls,
        directory: str | Path,
        token_budget: int = 16384,
        reference: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> "TorchEngine":
        """Load a checkpoint and, for an implicit PRM, its reference."""
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        dtype = "bfloat16" if dtype == "auto" and device.startswith("cuda") else dtype
        model, encoder = load_model(directory, dtype, device)
        loaded = None if reference is None else ImplicitPRM.from_backbone(reference, model.dtype).to(device).eval()
        return cls(model, encoder, loaded, token_budget)

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        scores: dict[int, list[float]] = {}
        for indices in batch_by_tokens([len(tokens.input_ids) for tokens in encoded], self.token_budget):
            values = score_batch(self.model, self.encoder, [encoded[i] for i in indices], self.reference)
            scores.update(zip(indices, values, strict=True))
        return [scores[index] for index in range(len(encoded))]
