"""Scoring engines: encoded responses in, one score per step end of each out, in order."""

import logging
import re
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from prm.attention.varlen import aligns_right
from prm.models import ImplicitPRM, load_model
from prm.models.backbone import PackedModel
from prm.models.files import model_folder
from prm.models.inference import prepare_for_inference
from prm.models.kernels import compile_layers
from prm.models.packing import batch_by_tokens
from prm.models.prefixes import Layout, batch_by_prefix, lay_out
from prm.models.step_scores import score_rows
from prm.scoring.options import ModelConfig
from prm.steps import EncodedResponse, StepEncoder

logger = logging.getLogger(__name__)

ENGINES = ("torch", "vllm", "server")
"""`torch` is this project's packed forward pass; `vllm` and `server` pool an exported checkpoint, here or behind an address."""
FLOPS_PER_WINDOW = {"cpu": 1.5e12, "cuda": 6e15}
"""About half a minute's on one CPU core in float32, and on one large GPU in bfloat16."""
TYPICAL_TOKENS = 500
"""Tokens of a response whose length is not known yet."""
TOKEN_BUDGETS = {"cpu": 4096, "cuda": 16384}
"""Tokens of a packed row. On a CPU longer rows take memory and are hardly faster, unless two responses fill one."""


@runtime_checkable
class ScoringEngine(Protocol):
    """A loaded model that scores. `Scorer` passes no copies to it, and checks that there is one finite score a step."""

    computed_tokens: int
    """Tokens computed in all calls so far: fewer than those of the responses where shared prefixes are computed once."""

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """One list per response, in order, with as many scores as it has step ends."""
        ...


@dataclass
class TorchEngine:
    """The model in this process, on packed rows of `token_budget` tokens, in which shared prefixes are computed once."""

    model: PackedModel
    encoder: StepEncoder
    reference: ImplicitPRM | None = None
    token_budget: int | None = None
    share_prefixes: bool = True
    computed_tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.token_budget is None:
            self.token_budget = TOKEN_BUDGETS[self.model.device.type]
        if self.share_prefixes and not self.can_share:
            logger.warning("the attention kernel here does not align queries with the last keys: every response is computed whole")
            self.share_prefixes = False
        for part in (self.model, self.reference):
            if part is not None:
                prepare_for_inference(part, part.device.type)

    @classmethod
    def load(cls, config: ModelConfig, torch_compile: bool = False) -> "TorchEngine":
        """Load a checkpoint or a published PRM and, for an implicit PRM, its reference. Raises as `load_model` does."""
        device, reference = resolve_device(config.device), config.reference_model
        model, encoder = load_model(config.model, resolve_dtype(config.dtype, device), device, config.recipe)
        loaded = None if reference is None else ImplicitPRM.from_backbone(model_folder(reference), model.dtype).to(device).eval()
        for part in (model, loaded):
            if torch_compile and part is not None:
                compile_layers(part)
        return cls(model, encoder, loaded, config.token_budget)

    @property
    def is_implicit(self) -> bool:
        return isinstance(self.model, ImplicitPRM)

    @property
    def can_share(self) -> bool:
        """Whether the attention kernels take continuations: fewer queries than keys, aligned at the end."""
        windows = {None, getattr(self.model.config, "sliding_window", None)}
        return all(aligns_right(self.model.device, self.model.dtype, window) for window in windows)

    @property
    def largest_window(self) -> int:
        """Responses of a typical length for half a minute, by the number of weights and the kind of device alone."""
        parts = [part for part in (self.model, self.reference) if part is not None]
        num_weights = sum(weight.numel() for part in parts for weight in part.parameters())
        return int(FLOPS_PER_WINDOW[self.model.device.type] / (2 * num_weights * TYPICAL_TOKENS))

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        rows = self.rows(encoded)
        batches = [[encoded[i] for i in row] for row in rows]
        self.computed_tokens += sum(self.lay_out(batch).num_tokens for batch in batches)
        values = score_rows(self.model, self.encoder, batches, self.reference, self.share_prefixes)
        scores = {i: s for row, of_row in zip(rows, values, strict=True) for i, s in zip(row, of_row, strict=True)}
        return [scores[index] for index in range(len(encoded))]

    def lay_out(self, row: list[EncodedResponse]) -> Layout:
        """What is computed for the responses of a packed row."""
        return lay_out(row, self.is_implicit, self.share_prefixes)

    def rows(self, encoded: list[EncodedResponse]) -> list[list[int]]:
        """Which responses share a packed row."""
        if self.share_prefixes:
            return batch_by_prefix(encoded, self.token_budget, self.is_implicit)
        return batch_by_tokens([len(response.input_ids) for response in encoded], self.token_budget)


def resolve_device(device: str) -> str:
    """cpu, cuda or cuda:N; `auto` is CUDA where there is one. Raises ValueError for others, and for a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise ValueError(f"--device {device!r} is unknown: choose auto, cpu, cuda or cuda:N")
    if device != "cpu" and int(match[1] or 0) >= count:
        raise ValueError(f"--device {device}: PyTorch sees {count} CUDA devices here; choose another, or cpu")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """Precision of the weights; `auto` is bfloat16 on CUDA, and stays `auto`, the checkpoint's own, elsewhere."""
    return "bfloat16" if dtype == "auto" and device.startswith("cuda") else dtype
