"""Ways of scoring: options and a folder in; one builder per way out, each making a `ScoringEngine` that is ready to score."""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM

from prm.attention import PACKED
from prm.benchmarks.speed.candidates import ScoringSpeedConfig
from prm.benchmarks.speed.workload import stub_encoder
from prm.models import ImplicitPRM, RewardModel
from prm.models.kernels import compile_layers
from prm.models.reward_model import build_head
from prm.scoring import Scorer, ScoringEngine, TorchEngine
from prm.scoring.engines import TOKEN_BUDGETS
from prm.steps import EncodedResponse, StepEncoder

Build = Callable[[ScoringSpeedConfig, Path], ScoringEngine]
"""What makes an engine; the folder takes what it must read from disk."""

VLLM_LIMIT = 2048
"""Longest response that vLLM is told to expect, in tokens."""
VLLM_MEMORY = 0.3
"""Share of a GPU's memory for each of two vLLM engines, which stand beside the others all the time; pooling keeps no cache."""


def discriminative(config: ScoringSpeedConfig) -> RewardModel:
    """The random PRM with a head, the same for every variant."""
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    with config.device:  # numbers drawn on a CPU would take minutes
        backbone = AutoModel.from_config(config.model_config, attn_implementation=PACKED, dtype=dtype)
        head = build_head(backbone.config.hidden_size, backbone.config.num_labels).to(dtype)
        return RewardModel.from_parts(backbone, head).eval()


@dataclass
class PaddedEngine:
    """What published scoring code does: padded batches, one after the other, the head at every position."""

    model: RewardModel
    encoder: StepEncoder
    batch_size: int
    token_budget: int | None = None
    """Sort by length first, and let batches hold this many tokens, padding included, instead of `batch_size` responses."""
    computed_tokens: int = field(default=0, init=False)
    """Without padding."""

    def __post_init__(self) -> None:
        config, weights = copy.deepcopy(self.model.config), self.model.model.state_dict()
        with self.model.device:
            self.backbone = AutoModel.from_config(config, attn_implementation="sdpa", dtype=self.model.dtype).eval()
        self.backbone.load_state_dict(weights)

    def batches(self, encoded: list[EncodedResponse]) -> list[list[int]]:
        """Indices of the responses of each batch."""
        indices = list(range(len(encoded)))
        if self.token_budget is None:
            return [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        batches: list[list[int]] = []
        for index in sorted(indices, key=lambda i: -len(encoded[i].input_ids)):
            if not batches or (len(batches[-1]) + 1) * len(encoded[batches[-1][0]].input_ids) > self.token_budget:
                batches.append([])
            batches[-1].append(index)
        return batches

    @torch.no_grad()
    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        self.computed_tokens += sum(len(response.input_ids) for response in encoded)
        scores: dict[int, list[float]] = {}
        for batch in self.batches(encoded):
            tokens = [torch.tensor(encoded[index].input_ids) for index in batch]
            inputs = {"input_ids": tokens, "attention_mask": [torch.ones_like(ids) for ids in tokens]}
            padded = {name: pad_sequence(rows, batch_first=True).to(self.model.device) for name, rows in inputs.items()}
            hidden = self.backbone(**padded, use_cache=False).last_hidden_state
            probabilities = self.model.score(hidden)[..., 0].float().sigmoid().cpu()
            scores |= {index: probabilities[row, encoded[index].step_ends].tolist() for row, index in enumerate(batch)}
        return [scores[index] for index in range(len(encoded))]


def padded(is_sorted: bool) -> Build:
    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        budget = (config.token_budget or TOKEN_BUDGETS[config.device.type]) if is_sorted else None
        return PaddedEngine(discriminative(config), stub_encoder("asym"), config.padded_batch_size, budget)

    return build


def packed(share_prefixes: bool, torch_compile: bool = False) -> Build:
    """This project's engine, as scripts/score.py has it: copies are scored once."""

    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        model, encoder = discriminative(config), stub_encoder("asym")
        if torch_compile:
            compile_layers(model)
        engine = TorchEngine(model, encoder, None, config.token_budget, share_prefixes)
        return Scorer(engine, encoder)

    return build


def vllm(is_eager: bool) -> Build:
    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        from prm.scoring.vllm_engine import VLLMScoringEngine

        discriminative(config).save_pretrained(folder)
        encoder = replace(stub_encoder("asym"), max_length=VLLM_LIMIT)
        return VLLMScoringEngine(folder, encoder, config.dtype, is_eager, VLLM_MEMORY)

    return build


def implicit(with_reference: bool) -> Build:
    """An implicit PRM; without its reference, whose log-probs were computed before."""

    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        torch.manual_seed(config.seed)
        dtype = getattr(torch, config.dtype)
        with config.device:
            policy = AutoModelForCausalLM.from_config(config.model_config, attn_implementation=PACKED, dtype=dtype)
            model = ImplicitPRM.from_parts(policy).eval()
        reference = copy.deepcopy(model) if with_reference else None
        encoder = stub_encoder("implicit_prm")
        return Scorer(TorchEngine(model, encoder, reference, config.token_budget), encoder)

    return build


VARIANTS: dict[str, Build] = {
    "padded": padded(is_sorted=False),
    "padded_sorted": padded(is_sorted=True),
    "packed": packed(share_prefixes=False),
    "packed_compiled": packed(share_prefixes=False, torch_compile=True),
    "shared": packed(share_prefixes=True),
    "shared_compiled": packed(share_prefixes=True, torch_compile=True),
    "vllm": vllm(is_eager=True),
    "vllm_compiled": vllm(is_eager=False),
    "implicit": implicit(with_reference=True),
    "implicit_cached": implicit(with_reference=False),
}
"""Name -> what builds its engine. The first ones score the same PRM; `shared` is what scripts/score.py does."""


def default_variants(torch_compile: bool) -> list[str]:
    """What can be measured here without waiting for a compiler."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    names = [name for name in VARIANTS if torch_compile or not name.endswith("_compiled")]
    return [name for name in names if has_vllm or not name.startswith("vllm")]
