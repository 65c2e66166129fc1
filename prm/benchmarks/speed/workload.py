"""Work for the speed benchmarks: a shape, a seed and a length distribution in; a random model's config and labelled tokens out.

Lengths are log-normal, as those of sampled solutions are. Tokens are random: what they are does not change the time they take.
"""

import importlib.util
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from prm.data.examples import Example
from prm.planning import MODELS
from prm.steps import EncodedResponse, StepEncoder

logger = logging.getLogger(__name__)

SHAPES = {
    "tiny": {
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "small": {
        "vocab_size": 2752,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2.5-math-1.5b": MODELS["Qwen/Qwen2.5-Math-1.5B-Instruct"],
}
"""Qwen2 architectures. In `small` the lm_head has the same share of a forward pass as in Qwen2.5-Math-1.5B: 18%."""

TOKENS_PER_STEP = 40
PROMPT_SHARE = 0.2
"""Share of a response's tokens that are its question, and have no log-prob to learn from."""
NUM_LABELS = 2
"""Good and bad: the classes of a token-classification PRM."""
SPECIAL_TOKENS = ("<pad>", "<eos>")


@dataclass
class SpeedConfig:
    """What training and scoring are measured on, and how."""

    shape: Literal[tuple(SHAPES)] = "small"  # type: ignore[valid-type]
    """Architecture of the random model."""
    variants: list[str] = field(default_factory=list)
    """Ways to measure; default: all that can run here, compiled ones only with --torch_compile."""
    torch_compile: bool = False
    """Without --variants: measure compiled layers too; compiling takes minutes."""
    repetitions: int = 3
    """Times that every variant is measured."""
    token_budget: int | None = None
    """Tokens of a packed row. Default: that of scripts/train.py and scripts/score.py."""
    padded_batch_size: int = 8
    """Responses of a padded batch; TRL's default."""
    mean_length: float = 390.0
    """Mean length of a response with its question, in tokens."""
    max_length: int = 2047
    """Greatest length, in tokens."""
    spread: float = 0.75
    """Standard deviation of the logarithm of the lengths: 0.75 as sampled over many questions, 0.15 within one."""
    use_cpu: bool = False
    """Leave a GPU alone."""
    num_threads: int = 1
    """Threads of a CPU."""
    seed: int = 0
    """Seed of lengths, tokens, labels and weights."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int and value <= 0 and name != "seed":
                raise ValueError(f"--{name} is {value}, expected a positive number")
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()

    def choose_variants(self, known: Collection[str]) -> None:
        """By default all but compiled ones and, where it is missing, vLLM's. Raises ValueError for a name that is not `known`."""
        unknown = sorted(set(self.variants) - set(known))
        if unknown:
            raise ValueError(f"--variants {' '.join(unknown)}: unknown; choose from {', '.join(known)}")
        if self.variants:
            self.variants = list(dict.fromkeys(self.variants))
            return
        self.variants = [name for name in known if self.torch_compile or not name.endswith("_compiled")]
        served = [name for name in self.variants if name.startswith("vllm")]
        if served and importlib.util.find_spec("vllm") is None:
            logger.warning("%s: left out, since vLLM is not installed", ", ".join(served))
            self.variants = [name for name in self.variants if name not in served]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.use_cpu else "cuda")


@dataclass(frozen=True)
class Workload:
    """One epoch of responses, the same for every way of training on them."""

    model_config: Qwen2Config
    examples: list[Example]
    seed: int

    @property
    def lengths(self) -> list[int]:
        return [example.num_tokens for example in self.examples]

    @property
    def num_steps(self) -> int:
        return sum(len(example.encoded.step_ends) for example in self.examples)

    @property
    def num_targets(self) -> int:
        """Response tokens: those whose log-probs the implicit PRM learns from."""
        return sum(example.num_tokens - example.encoded.response_start for example in self.examples)


def make_workload(shape: str, num_responses: int, mean_length: float, max_length: int, spread: float, seed: int) -> Workload:
    """Random responses with random step labels and outcomes, and random reference log-probs."""
    config = model_config(shape)
    lengths = log_normal_lengths(num_responses, mean_length, max_length, spread, seed)
    generator = np.random.default_rng([seed, 1])
    examples = [random_example(index, n, config.vocab_size, generator) for index, n in enumerate(lengths)]
    return Workload(config, examples, seed)


def model_config(shape: str) -> Qwen2Config:
    """Tied embeddings, as in Qwen2.5-Math-1.5B."""
    options = {"num_labels": NUM_LABELS, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return Qwen2Config(**{"tie_word_embeddings": True, **SHAPES[shape]}, max_position_embeddings=4096, **options)


def save_backbone(workload: Workload, folder: Path, device: torch.device) -> None:
    """A random causal LM of the workload's shape, for trainers that load their model from a folder."""
    torch.manual_seed(workload.seed)
    with device:  # billions of numbers drawn on a CPU would take minutes
        AutoModelForCausalLM.from_config(workload.model_config).save_pretrained(folder)


def log_normal_lengths(num: int, mean: float, maximum: int, spread: float, seed: int) -> list[int]:
    """Lengths whose logarithm has the standard deviation `spread`, scaled to `mean`, then clipped to 8 .. `maximum` tokens."""
    draws = np.random.default_rng([seed, 0]).lognormal(0.0, spread, num)
    return np.clip(np.round(draws * mean / draws.mean()), 8, maximum).astype(int).tolist()


def step_ends(start: int, length: int) -> list[int]:
    """Of a response from `start` on, whose last step may be shorter."""
    return sorted({*range(start + TOKENS_PER_STEP - 1, length - 1, TOKENS_PER_STEP), length - 1})


def random_example(index: int, length: int, vocab_size: int, generator: np.random.Generator) -> Example:
    start = max(1, round(PROMPT_SHARE * length))
    ends = step_ends(start, length)
    tokens = generator.integers(len(SPECIAL_TOKENS), vocab_size, length).tolist()
    labels = generator.choice([-1.0, 1.0], len(ends)).tolist()
    logps = torch.from_numpy(-generator.exponential(1.0, length - start)).float()
    return Example(("random", index), EncodedResponse(tokens, ends, start), bool(index % 2), labels, logps)


def token_rows(examples: Sequence[Example]) -> list[dict[str, list[int]]]:
    """The same tokens and labels as token classification has them: -100 everywhere but at the step ends."""
    rows = []
    for example in examples:
        labels = [-100] * example.num_tokens
        for position, label in zip(example.encoded.step_ends, example.step_labels or (), strict=True):
            labels[position] = int(label > 0)
        rows.append({"input_ids": example.encoded.input_ids, "labels": labels})
    return rows


def stub_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows no words, for trainers that ask it only how to pad."""
    words = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def stub_encoder(loss: str) -> StepEncoder:
    """The objective's step contract, for a trainer whose responses are encoded already."""
    options = {"num_labels": NUM_LABELS} if loss == "step_ce" else {}
    return StepEncoder.for_loss(loss, stub_tokenizer(), **options)
