"""Ways of scoring: options and a folder in; one builder per way out, each making a `ScoringEngine` that is ready to score."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from prm.attention import PACKED
from prm.benchmarks.published_values import parse_published
from prm.benchmarks.speed.padded_engine import PaddedEngine
from prm.benchmarks.speed.workload import SpeedConfig, model_config, stub_encoder
from prm.models import ImplicitPRM, RewardModel
from prm.models.kernels import compile_layers
from prm.models.reward_model import build_head
from prm.scoring import Scorer, ScoringEngine, TorchEngine
from prm.scoring.engines import TOKEN_BUDGETS

VLLM_MEMORY = 0.3
"""Share of a GPU's memory for each of two vLLM engines, which stand beside the others all the time; pooling keeps no cache."""
DISCRIMINATIVE = "shared"
IMPLICIT = {"implicit": "with its reference", "implicit_cached": "with cached reference log-probs"}
"""The variants whose inference times are compared to that of `DISCRIMINATIVE`: token log-probs or a head, one engine."""


@dataclass
class ScoringSpeedConfig(SpeedConfig):
    """What is scored, and how it is measured."""

    num_candidates: int = 256
    """Responses to score."""
    num_questions: int = 1
    """Questions that share the candidates evenly."""
    copies: float = 0.0
    """Share of the candidates that repeat another one word for word; packed, shared and implicit engines score them once."""
    tokens_per_fork: float = 0.0
    """Tokens after which candidates that agree so far part into two groups, on average; 0: only the question is common."""
    prompt_length: int = 78
    """Tokens of a question with its instructions."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of every variant; auto is bfloat16 on CUDA and float32 elsewhere."""
    published: list[str] = field(default_factory=list)
    """Published inference times, implicit over discriminative PRM, to show beside the measured ones, LABEL=VALUE (such as 1.21)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose_variants(VARIANTS)
        if not 0 <= self.copies < 1:
            raise ValueError(f"--copies {self.copies}: a share of the candidates, expected 0 <= copies < 1")
        if not self.num_distinct:
            raise ValueError(f"--copies {self.copies} of --num_candidates {self.num_candidates}: leaves no candidate to repeat")
        if self.tokens_per_fork and not 1 <= self.tokens_per_fork < math.inf:
            raise ValueError(f"--tokens_per_fork {self.tokens_per_fork}: expected 0, or 1 or more tokens")
        for name in ("mean_length", "max_length"):
            if getattr(self, name) <= self.prompt_length:
                raise ValueError(f"--{name} {getattr(self, name)} counts the question, so it must exceed {self.prompt_length}")
        parse_published(self.published, is_share=False)
        if self.published and not (DISCRIMINATIVE in self.variants and IMPLICIT.keys() & set(self.variants)):
            raise ValueError(f"--published stands beside {' or '.join(IMPLICIT)} over {DISCRIMINATIVE}: add both to --variants")
        if self.dtype == "auto":
            self.dtype = "float32" if self.use_cpu else "bfloat16"

    @property
    def num_distinct(self) -> int:
        """Candidates that are not made as a copy of another."""
        return self.num_candidates - round(self.copies * self.num_candidates)

    @property
    def model_config(self) -> Qwen2Config:
        config = model_config(self.shape)
        config.num_labels = 1
        config.max_position_embeddings = self.max_length  # vLLM refuses longer responses
        return config


Build = Callable[[ScoringSpeedConfig, Path], ScoringEngine]
"""What makes an engine; the folder takes what it must read from disk."""


def random_decoder(config: ScoringSpeedConfig, auto_class: Any, attention: str = PACKED) -> PreTrainedModel:
    torch.manual_seed(config.seed)
    with config.device:  # billions of numbers drawn on a CPU would take minutes
        options = {"attn_implementation": attention, "dtype": getattr(torch, config.dtype)}
        return auto_class.from_config(config.model_config, **options).eval()


def random_parts(config: ScoringSpeedConfig, attention: str = PACKED) -> tuple[PreTrainedModel, nn.Module]:
    """Decoder and head of the random PRM, the same for every variant."""
    decoder = random_decoder(config, AutoModel, attention)
    with config.device:
        return decoder, build_head(decoder.config.hidden_size, decoder.config.num_labels).to(decoder.dtype)


def discriminative(config: ScoringSpeedConfig) -> RewardModel:
    return RewardModel.from_parts(*random_parts(config)).eval()


def padded(is_sorted: bool) -> Build:
    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        budget = (config.token_budget or TOKEN_BUDGETS[config.device.type]) if is_sorted else None
        return PaddedEngine(*random_parts(config, "sdpa"), config.padded_batch_size, budget)

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
        encoder = replace(stub_encoder("asym"), max_length=config.max_length)
        return VLLMScoringEngine(folder, encoder, config.dtype, is_eager, VLLM_MEMORY)

    return build


def implicit(with_reference: bool) -> Build:
    """An implicit PRM; without its reference, whose log-probs were computed before."""

    def build(config: ScoringSpeedConfig, folder: Path) -> ScoringEngine:
        model = ImplicitPRM.from_parts(random_decoder(config, AutoModelForCausalLM)).eval()
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
