"""What a run of the whole pipeline will take: question counts, a model and GPUs in; hours and storage of every stage out.

Nothing here is measured, unless a finished rollout folder is given. Decoding follows the roofline of memory and arithmetic,
training and scoring count FLOPs; how much of either a machine reaches is an option.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import AutoConfig, PreTrainedConfig, Qwen2Config

from prm.training.flops import PEAK_FLOPS, TRAINING_FACTOR, forward_flops, head_size, weights_per_layer

MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Math-1.5B-Instruct": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-Math-7B-Instruct": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
"""Architectures that a plan knows without a folder or a network."""

BANDWIDTH = {"B200": 8.0e12, "H200": 4.8e12, "H100": 3.35e12, "H800": 3.35e12, "A100": 2.04e12, "L40S": 0.864e12}
"""Bytes per second of a GPU's memory, as NVIDIA's data sheets say."""

BYTES_PER_WEIGHT = 2
OPTIMIZER_BYTES = 12
"""Of a checkpoint, per weight: Adam's two moments and the float32 weights."""
ROW_BYTES = 250
"""Of a record, beyond its texts: keys, ids and counts."""
GIGABYTE = 1e9


@dataclass
class PlanConfig:
    """What is planned, and the assumptions; each is an option."""

    num_questions: int = 12000
    """Training questions to sample."""
    num_samples: int = 32
    """Responses to each."""
    prompt_tokens: float = 150.0
    """Mean length of a question with its system prompt."""
    response_tokens: float = 600.0
    """Mean length of a response."""
    steps_per_response: float = 8.0
    """Mean number of steps."""
    labelled_share: float = 0.97
    """Share of the responses that get an outcome label."""
    kept_share: float = 0.35
    """Share of the labelled responses that the dataset builder keeps (pass rate, duplicates)."""
    monte_carlo_completions: int = 0
    """Completions of each step for Monte-Carlo labels of the kept responses; 0: no step labels."""
    model: str = "Qwen/Qwen2.5-Math-1.5B-Instruct"
    """Policy and backbone: a name of `MODELS` or a folder with a config.json."""
    loss: Literal["discriminative", "implicit_prm"] = "discriminative"
    """implicit_prm also runs the lm_head on response tokens, and the reference model once."""
    num_epochs: float = 1.0
    """Passes of training over the dataset."""
    eval_questions: int = 500
    """Held-out questions for Best-of-N curves."""
    eval_samples: int = 64
    """Responses to each of them."""
    gpu: str = "H100"
    """Kind of GPU, a name of `BANDWIDTH`."""
    num_gpus: int = 4
    """GPUs for sampling, training and scoring."""
    num_cpus: int = 32
    """Cores for grading."""
    concurrent_responses: int = 256
    """Responses that a GPU decodes at once (--max_num_seqs)."""
    decode_efficiency: float = 0.3
    """Share of the roofline that decoding reaches."""
    mfu: float = 0.4
    """Share of the GPU's bfloat16 peak that training reaches; scoring, which has no backward pass, is planned with the same."""
    grades_per_second: float = 500.0
    """Rollouts graded by one core in a second (scripts/benchmark_data.py measures it)."""
    bytes_per_token: float = 3.5
    """UTF-8 bytes that a token of text takes on disk."""
    checkpoints_kept: int = 2
    """Checkpoints with optimizer state that a training run keeps."""
    rollouts: str | None = None
    """A finished folder of rollouts: its tokens per second and mean response length replace the assumptions."""
    output_dir: str | None = None
    """Folder for plan.json and manifest.json; nothing is written without it."""

    def __post_init__(self) -> None:
        for name in ("labelled_share", "kept_share", "decode_efficiency", "mfu"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must lie in (0, 1]")
        for name in ("num_questions", "num_samples", "num_gpus", "num_cpus", "concurrent_responses"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        for name in ("prompt_tokens", "response_tokens", "steps_per_response", "grades_per_second", "bytes_per_token"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be positive")
        if self.gpu not in BANDWIDTH:
            raise ValueError(f"--gpu {self.gpu}: unknown; choose from {', '.join(BANDWIDTH)}")


class Stage(NamedTuple):
    """One row of the plan."""

    name: str
    work: float
    unit: str
    rate: float
    """Units per second of the whole machine."""
    devices: int
    """How many are busy."""
    device: Literal["GPU", "core"]
    storage_bytes: float

    @property
    def hours(self) -> float:
        return self.work / self.rate / 3600


def make_plan(config: PlanConfig) -> list[Stage]:
    """Every stage of the pipeline. Raises FileNotFoundError or ValueError for a model or rollout folder that cannot be read."""
    model = read_architecture(config.model)
    response_tokens, tokens_per_second = config.response_tokens, decode_rate(config, model)
    if config.rollouts is not None:
        response_tokens, tokens_per_second = measured(config.rollouts)
    text = config.bytes_per_token * (config.prompt_tokens + response_tokens) + ROW_BYTES

    def sampling(name: str, count: float, tokens: float, storage: float | None = None) -> Stage:
        storage = count * text if storage is None else storage
        return Stage(name, count * tokens, "tokens", tokens_per_second, config.num_gpus, "GPU", storage)

    def grading(name: str, count: float, storage: float) -> Stage:
        return Stage(name, count, "responses", config.grades_per_second * config.num_cpus, config.num_cpus, "core", storage)

    def passes(name: str, count: float, flops: float, storage: float) -> Stage:
        peak = PEAK_FLOPS[config.gpu] * config.mfu * config.num_gpus
        return Stage(name, count, "responses", peak / flops, config.num_gpus, "GPU", storage)

    sampled = config.num_questions * config.num_samples
    kept = sampled * config.labelled_share * config.kept_share
    evaluated = config.eval_questions * config.eval_samples
    stages = [sampling("rollouts", sampled, response_tokens), grading("grading", sampled, sampled * text)]
    if config.monte_carlo_completions:
        completions = kept * (config.steps_per_response - 1) * config.monte_carlo_completions
        # On average half of the response lies behind a prefix; only the counts are kept.
        stages.append(sampling("Monte-Carlo completions", completions, response_tokens / 2, kept * text))
        stages.append(grading("grading of completions", completions, 0.0))
    flops = forward_pass(config, model, response_tokens)
    training = (TRAINING_FACTOR * config.num_epochs + (config.loss == "implicit_prm")) * flops
    stages.append(passes("training", kept, training, kept * text + checkpoint_bytes(config, model)))
    stages.append(sampling("evaluation rollouts", evaluated, response_tokens))
    stages.append(grading("evaluation grading", evaluated, evaluated * text))
    score_bytes = evaluated * (ROW_BYTES + 20 * config.steps_per_response)
    stages.append(passes("evaluation scoring", evaluated, flops * (1 + (config.loss == "implicit_prm")), score_bytes))
    return stages


def forward_pass(config: PlanConfig, model: PreTrainedConfig, response_tokens: float) -> int:
    """FLOPs of one response's forward pass, at the mean length."""
    length = round(config.prompt_tokens + response_tokens + config.steps_per_response)
    if config.loss == "implicit_prm":
        return forward_flops(model, [length], num_targets=round(response_tokens))
    return forward_flops(model, [length], num_steps=round(config.steps_per_response))


def decode_rate(config: PlanConfig, model: PreTrainedConfig) -> float:
    """Tokens per second of all GPUs: each step reads the weights and every response's cache, and computes one token for each."""
    batch, weights = config.concurrent_responses, num_weights(model)
    context = config.prompt_tokens + config.response_tokens / 2
    cache = 2 * model.num_hidden_layers * model.num_key_value_heads * head_size(model) * BYTES_PER_WEIGHT * context
    reading = (weights * BYTES_PER_WEIGHT + batch * cache) / BANDWIDTH[config.gpu]
    computing = 2 * batch * weights / PEAK_FLOPS[config.gpu]
    return config.decode_efficiency * config.num_gpus * batch / max(reading, computing)


def num_weights(model: PreTrainedConfig) -> int:
    """Without norms and biases, which are less than a thousandth."""
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return model.num_hidden_layers * weights_per_layer(model) + embeddings


def checkpoint_bytes(config: PlanConfig, model: PreTrainedConfig) -> float:
    """The checkpoints with optimizer state and the final model."""
    per_weight = config.checkpoints_kept * (BYTES_PER_WEIGHT + OPTIMIZER_BYTES) + BYTES_PER_WEIGHT
    return num_weights(model) * per_weight


def read_architecture(model: str) -> PreTrainedConfig:
    """Raises FileNotFoundError for a model that is neither known nor a folder with a config.json."""
    if model in MODELS:
        return Qwen2Config(**MODELS[model])
    if not (Path(model) / "config.json").is_file():
        raise FileNotFoundError(f"--model {model}: neither one of {', '.join(MODELS)} nor a folder with a config.json")
    return AutoConfig.from_pretrained(model).get_text_config()


def measured(folder: str) -> tuple[float, float]:
    """Mean response length and tokens per second of a rollout run (all its jobs together), from its manifests."""
    manifests = sorted(Path(folder).glob("manifest*.json"))
    if not manifests:
        raise FileNotFoundError(f"--rollouts {folder}: no manifest.json there; give a folder that generate_rollouts.py wrote")
    counts = [json.loads(path.read_text(encoding="utf-8"))["counts"] for path in manifests]
    samples, tokens, rate = (sum(c.get(name, 0) for c in counts) for name in ("generated", "tokens", "tokens_per_second"))
    if not samples or not rate:
        raise ValueError(f"--rollouts {folder}: its last run generated nothing, so there is nothing to measure")
    return tokens / samples, rate


def plan_report(config: PlanConfig, stages: list[Stage]) -> dict[str, Any]:
    """Plain numbers of every stage and their totals."""
    rows = [{**stage._asdict(), "hours": stage.hours, "device_hours": stage.hours * stage.devices} for stage in stages]
    return {
        "stages": rows,
        "hours": sum(row["hours"] for row in rows),
        "gpu_hours": sum(row["device_hours"] for row in rows if row["device"] == "GPU"),
        "storage_bytes": sum(row["storage_bytes"] for row in rows),
        "weights": num_weights(read_architecture(config.model)),
    }
