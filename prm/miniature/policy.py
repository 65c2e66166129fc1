"""Base model and policy of the miniature: generated text in, saved Qwen2 checkpoints that vLLM can serve out.

The base reads single facts first, then lists, then chats with reviews; the policy is the base after a short tuning on solutions
with slips. Both runs are determined by their seed and continue from their last checkpoint when they were killed.
"""

import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from prm.files import written_aside
from prm.miniature import corpus, problems
from prm.miniature.corpus import Document
from prm.miniature.problems import Fact, Problem, ProblemConfig
from prm.miniature.tokenizer import TURN_END, build_tokenizer, chat
from prm.steps import STEP_DELIMITER, load_tokenizer
from prm.tracking import append_metrics, progress

STATE_FILE = "unfinished.pt"
HEAD_DIM = 64
"""vLLM's CPU attention fails on smaller heads."""
LONGEST_FACT_LIST = 8
"""Lists of facts grow up to about this many while the first stage lasts."""
Optimizers = Sequence[torch.optim.Optimizer]
Sequences = list[tuple[list[int], list[bool]]]
"""(token ids, which of them carry loss)."""


@dataclass(frozen=True)
class BaseConfig:
    """Architecture and pre-training of the base model."""

    problems: ProblemConfig = field(default_factory=ProblemConfig)
    num_layers: int = 4
    """Transformer layers. Checking a step takes depth: look the fact up, then compare it with the claim."""
    hidden_size: int = 128
    """Width, a multiple of 64."""
    intermediate_size: int = 384
    """Width within the feed-forward blocks."""
    fact_steps: int = 300
    """Optimizer steps on lists of reviewed facts, of one fact at first."""
    document_steps: int = 300
    """Optimizer steps on chats with reviews, and some lists of facts."""
    mark_steps: int = 200
    """Optimizer steps on the same, with marks of many kinds between a step and its review."""
    fact_batch: int = 128
    """Facts per step of the first stage; a quarter as many join every later step."""
    document_batch: int = 16
    """Long documents per step of the second stage."""
    matrix_learning_rate: float = 0.01
    """Muon, for the matrices between embedding and output."""
    learning_rate: float = 5e-3
    """AdamW, for everything else."""
    initializer_range: float = 0.09
    """Standard deviation at the start: about 1 / sqrt(hidden_size)."""
    decay_share: float = 0.5
    """Share of the run over which the learning rates fall to zero."""
    checkpoint_every: int = 100
    """Optimizer steps between checkpoints."""
    seed: int = 0
    """Initial weights and corpus."""

    def __post_init__(self) -> None:
        if self.hidden_size % HEAD_DIM:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {HEAD_DIM}, the size of an attention head")


@dataclass(frozen=True)
class PolicyConfig:
    """Tuning of the policy."""

    problems: ProblemConfig = field(default_factory=ProblemConfig)
    num_steps: int = 80
    """Optimizer steps."""
    batch_size: int = 32
    """Solutions per step."""
    learning_rate: float = 1e-3
    """AdamW, linear decay to zero."""
    checkpoint_every: int = 100
    """Optimizer steps between checkpoints."""
    seed: int = 0
    """Questions and slips."""


def train_base(config: BaseConfig, directory: str | Path) -> Path:
    """Pre-train the base from scratch, or finish a run that was killed; a finished one is left alone."""
    directory = Path(directory)
    if (directory / "config.json").exists():
        return directory
    tokenizer = build_tokenizer(corpus.tokenizer_texts(config.problems, config.seed))
    model = new_model(config, tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    num_steps = config.fact_steps + config.document_steps + config.mark_steps

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 20, (1 - step / num_steps) / config.decay_share)

    def batch(step: int) -> list[Sequences]:
        rng = random.Random(f"base-{config.seed}-{step}")
        is_first_stage = step < config.fact_steps
        num_facts = config.fact_batch if is_first_stage else config.fact_batch // 4
        # Verdicts are learnt fastest on single facts; lists teach to look at the near past only.
        longest = 1 + round(LONGEST_FACT_LIST * min(1.0, max(0.0, 2 * step / config.fact_steps - 1)))
        facts = corpus.fact_lists(rng, config.problems, num_facts, longest, is_varied=not is_first_stage)
        num_documents, has_marks = 0 if is_first_stage else config.document_batch, step >= config.fact_steps + config.document_steps
        documents = [corpus.document(rng, config.problems, has_marks) for _ in range(num_documents)]
        return [tokenize_documents(group, tokenizer) for group in (facts, documents) if group]

    _train(model, optimizers, batch, scale, num_steps, directory, config.checkpoint_every, "base model")
    return _save(model, tokenizer, directory)


def train_policy(config: PolicyConfig, base: str | Path, directory: str | Path) -> Path:
    """Tune the base on solutions with slips, or finish a run that was killed; a finished one is left alone."""
    slips = problems.misconceptions(config.problems)

    def documents(rng: random.Random) -> list[Document]:
        chosen = [problems.random_problem(rng, config.problems, "train") for _ in range(config.batch_size)]
        return [_slipped_document(problem, config.problems, slips, rng) for problem in chosen]

    return tune(config, base, directory, documents, "policy")


def tune(
    config: PolicyConfig, base: str | Path, directory: str | Path, documents: Callable[[random.Random], list[Document]], name: str
) -> Path:
    """Tune the base on batches of documents, or finish a run that was killed; a finished one is left alone."""
    directory = Path(directory)
    if (directory / "config.json").exists():
        return directory
    if not (Path(base) / "config.json").exists():
        raise FileNotFoundError(f"{base}: no base model here (config.json is missing); train it first with train_base")
    tokenizer = load_tokenizer(base)
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)

    def scale(step: int) -> float:
        return min((step + 1) / 10, 1 - step / config.num_steps)

    def batch(step: int) -> list[Sequences]:
        return [tokenize_documents(documents(random.Random(f"{name}-{config.seed}-{step}")), tokenizer)]

    _train(model, [optimizer], batch, scale, config.num_steps, directory, config.checkpoint_every, name)
    return _save(model, tokenizer, directory)


def new_model(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 model with random weights, drawn from the config's seed."""
    num_heads = config.hidden_size // HEAD_DIM
    architecture = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=config.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Qwen2ForCausalLM(architecture)


def tokenize_documents(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast) -> Sequences:
    """Token ids and loss flags. Pieces end where tokens end, so the ids are those of the whole text."""
    flat = iter(tokenizer([text for pieces in documents for text, _ in pieces])["input_ids"])
    sequences: Sequences = []
    for pieces in documents:
        flagged = [(token, carries_loss) for _, carries_loss in pieces for token in next(flat)]
        ids, flags = zip(*flagged, strict=True)
        sequences.append((list(ids), [False, *flags[1:]]))
    return sequences


def pad(sequences: Sequences) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Token ids padded at the right, and the mask of the tokens that carry loss."""
    length = max(len(ids) for ids, _ in sequences)
    ids = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens, _ in sequences])
    mask = torch.tensor([flags + [False] * (length - len(flags)) for _, flags in sequences])
    return ids, mask


def summed_loss(model: Qwen2ForCausalLM, sequences: Sequences) -> Tensor:
    """Negative log-likelihood in nats, summed over the tokens that carry loss."""
    ids, mask = pad(sequences)
    hidden = model.model(input_ids=ids).last_hidden_state
    # Causal attention never looks at the padding behind a sequence, so no attention mask is needed.
    return F.cross_entropy(model.lm_head(hidden[:, :-1][mask[:, 1:]]), ids[:, 1:][mask[:, 1:]], reduction="sum")


def _slipped_document(problem: Problem, config: ProblemConfig, slips: dict[Fact, int], rng: random.Random) -> Document:
    steps = problems.solve_with_slips(problem, config, slips, rng)
    return [(chat(problems.write_question(problem)), False), (STEP_DELIMITER.join(steps) + TURN_END, True)]


def _train(
    model: Qwen2ForCausalLM,
    optimizers: Optimizers,
    batch: Callable[[int], list[Sequences]],
    scale: Callable[[int], float],
    num_steps: int,
    directory: Path,
    checkpoint_every: int,
    name: str,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    first = _load_state(model, optimizers, directory / STATE_FILE)
    bar = progress(range(first, num_steps), desc=f"training the {name}", unit="step", initial=first, total=num_steps)
    for step in bar:
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale(step)
        loss = _step(model, optimizers, batch(step))
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if (step + 1) % checkpoint_every == 0:
            _save_state(model, optimizers, directory / STATE_FILE, step + 1)
            append_metrics(directory, {"step": step + 1, "loss": loss})


def _step(model: nn.Module, optimizers: Optimizers, groups: Iterable[Sequences]) -> float:
    """One update on the mean loss per token over all groups (each padded for itself); returns that loss."""
    groups = list(groups)
    num_tokens = sum(sum(flags) for group in groups for _, flags in group)
    total = 0.0
    for group in groups:
        loss = summed_loss(model, group) / num_tokens
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return total


def _save_state(model: nn.Module, optimizers: Optimizers, path: Path, step: int) -> None:
    with written_aside(path) as aside:
        torch.save({"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}, aside)


def _load_state(model: nn.Module, optimizers: Optimizers, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    """Write weights and tokenizer, config.json last: its presence says that the model is complete."""
    aside = directory / "saving"
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    for path in sorted(aside.iterdir(), key=lambda p: p.name == "config.json"):
        path.replace(directory / path.name)
    shutil.rmtree(aside)
    (directory / STATE_FILE).unlink(missing_ok=True)
    return directory
