"""Step scores: responses and a checkpoint in, one score per step out, in the order of the responses.

Responses are sorted by length within a window and packed into rows of `token_budget` tokens. What cannot be scored (no step, longer
than the contract's `max_length`, text that the contract cannot hold) raises, or is dropped and counted by reason where the caller
passes a counter: never skipped in silence.
"""

import dataclasses
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from prm.data.hub import hash_source
from prm.data.sources import iter_responses
from prm.files import KeySet
from prm.models import ImplicitPRM, load_model
from prm.models.backbone import PackedModel, is_path
from prm.models.implicit import hash_model
from prm.models.packing import batch_by_tokens
from prm.models.step_scores import score_batch
from prm.records import Response, StepScores
from prm.shards import ShardWriter
from prm.steps import EncodedResponse, StepEncoder, join_steps, read_prm_config, split_steps
from prm.tracking import manifest_path, progress, refuse_other_run, write_manifest

logger = logging.getLogger(__name__)

WINDOW = 2048
"""Responses sorted by length together."""
MAX_NAMED = 10
"""How many dropped responses are named in warnings."""


@dataclass
class ScoringConfig:
    """Score every step of rollouts, responses or candidate pools."""

    model: str
    """Checkpoint folder written by scripts/train.py."""
    input: str
    """Rollouts, responses or candidate pools: a .jsonl file, a .json array or a folder of shards."""
    output: str
    """Step scores: a .jsonl file or a folder of shards. An interrupted run continues there."""
    max_step_length: int | None = None
    """Merge neighbouring steps up to this many tokens, as scripts/build_dataset.py did; default: every paragraph is a step."""
    token_budget: int = 16384
    """Tokens per packed row."""
    reference: str | None = None
    """Reference model of an implicit PRM. Default: the one named in the checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto is bfloat16 on CUDA and the checkpoint's own elsewhere."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes CUDA where there is one."""


@dataclass
class Scorer:
    """A loaded PRM, ready to score."""

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
    ) -> "Scorer":
        """Load a checkpoint, and for an implicit PRM its reference. Raises FileNotFoundError or ValueError where one is missing."""
        reference = reference_of(directory, reference)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        dtype = "bfloat16" if dtype == "auto" and device.startswith("cuda") else dtype
        model, encoder = load_model(directory, dtype, device)
        loaded = None if reference is None else ImplicitPRM.from_backbone(reference, model.dtype).to(device).eval()
        return cls(model, encoder, loaded, token_budget)

    def score(self, responses: Iterable[Response], dropped: Counter[str] | None = None) -> Iterator[StepScores]:
        """Yield the scores of each response, in order; with `dropped`, leave out and count what cannot be scored."""
        remaining = iter(responses)
        while window := list(islice(remaining, WINDOW)):
            encoded = encode_each(self.encoder, window, dropped)
            kept = [(response, tokens) for response, tokens in zip(window, encoded, strict=True) if tokens is not None]
            scores = self._score_encoded([tokens for _, tokens in kept])
            for (r, _), step_scores in zip(kept, scores, strict=True):
                yield StepScores(r.question_id, r.sample_index, step_scores, r.correct, r.answer, r.extracted)

    def _score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """Scores in order. Samples of a question are often word for word the same; such copies are scored once."""
        keys = [(tuple(tokens.input_ids), tuple(tokens.step_ends)) for tokens in encoded]
        unique = dict(zip(keys, encoded, strict=True))
        distinct, scores = list(unique.values()), {}
        for indices in batch_by_tokens([len(tokens.input_ids) for tokens in distinct], self.token_budget):
            batch = [distinct[i] for i in indices]
            values = score_batch(self.model, self.encoder, batch, self.reference)
            scores.update(zip(indices, values, strict=True))
        by_key = {key: scores[index] for index, key in enumerate(unique)}
        return [list(by_key[key]) for key in keys]


def score_responses(
    model: str | Path | Scorer,
    responses: Iterable[Response],
    token_budget: int = 16384,
    device: str = "auto",
    dropped: Counter[str] | None = None,
) -> Iterator[StepScores]:
    """Score responses under a checkpoint folder or a loaded `Scorer` (which has a token budget and a device of its own)."""
    scorer = model if isinstance(model, Scorer) else Scorer.load(model, token_budget, device=device)
    return scorer.score(responses, dropped)


def encode_each(
    encoder: StepEncoder, responses: list[Response], dropped: Counter[str] | None = None
) -> list[EncodedResponse | None]:
    """Encode responses; with `dropped`, what cannot be encoded is None and counted there: `no_steps`, `too_long`, `unreadable`."""
    if dropped is None:
        return list(encoder.encode_batch(responses))
    unlimited = dataclasses.replace(encoder, max_length=sys.maxsize)
    with_steps = [response for response in responses if response.steps]
    found = iter(_encode_readable(unlimited, with_steps, dropped))
    encoded = [next(found) if response.steps else None for response in responses]
    for index, (response, tokens) in enumerate(zip(responses, encoded, strict=True)):
        name = f"{response.question_id} #{response.sample_index}"
        if not response.steps:
            _drop(dropped, "no_steps", f"{name} is empty")
        elif tokens is not None and len(tokens.input_ids) > encoder.max_length:
            _drop(dropped, "too_long", f"{name} has {len(tokens.input_ids)} tokens, max_length is {encoder.max_length}")
            encoded[index] = None
    return encoded


def _encode_readable(encoder: StepEncoder, responses: list[Response], dropped: Counter[str]) -> list[EncodedResponse | None]:
    try:
        return list(encoder.encode_batch(responses)) if responses else []
    except ValueError as error:
        if len(responses) > 1:
            middle = len(responses) // 2
            halves = responses[:middle], responses[middle:]
            return [tokens for half in halves for tokens in _encode_readable(encoder, half, dropped)]
        _drop(dropped, "unreadable", str(error))
        return [None]


def _drop(dropped: Counter[str], reason: str, message: str) -> None:
    dropped[reason] += 1
    if dropped.total() <= MAX_NAMED:
        logger.warning("dropped (%s): %s", reason, message)


def reference_of(directory: str | Path, reference: str | None = None) -> str | None:
    """Reference model of a checkpoint; None for a model with a head. Raises FileNotFoundError when it is not where it was."""
    config = read_prm_config(directory)
    if config["num_labels"] != 0:
        if reference is not None:
            raise ValueError(f"--reference {reference}: {directory} is no implicit PRM ({config['loss']}) and has no reference")
        return None
    name = reference or config["reference_model"]
    if name is None:
        raise ValueError(f"{directory}: names no reference model; give --reference")
    if is_path(name) and not Path(name).is_dir():
        raise FileNotFoundError(f"{name}: the reference model of {directory} is not there; give its new place with --reference")
    return name


def score_file(config: ScoringConfig) -> dict[str, int]:
    """Score a file into `config.output`, resumable; returns and records in the manifest how many were scored and dropped, and why.

    Raises ValueError for an empty input and for an output that holds scores of another model, input or setting.
    """
    reference = reference_of(config.model, config.reference)
    keys = KeySet(response.key for response in iter_responses(config.input))
    if not keys:
        raise ValueError(f"{config.input}: no responses to score")
    output = Path(config.output)
    place, run = manifest_path(output), run_identity(config, reference)
    refuse_other_run(output, run)
    manifest = partial(write_manifest, place.parent, config, extra={"run": run}, name=place.name)
    manifest()

    scorer = Scorer.load(config.model, config.token_budget, config.reference, config.dtype, config.device)
    dropped: Counter[str] = Counter()
    with ShardWriter(output) as writer:
        num_finished = len(writer.finished_keys)
        logger.info("%d responses to score, %d already scored", len(keys) - num_finished, num_finished)
        missing = (response for response in iter_responses(config.input) if response.key not in writer.finished_keys)
        todo = (_merge(response, config.max_step_length, scorer.encoder) for response in missing)
        with progress(total=len(keys), initial=num_finished, desc="scoring", unit="response") as bar:
            for scores in scorer.score(todo, dropped):
                writer.write(scores)
                bar.update()
    counts = {"responses": len(keys), "scored": len(keys) - dropped.total(), **dropped}
    manifest(counts=counts)
    return counts


def run_identity(config: ScoringConfig, reference: str | None) -> dict[str, Any]:
    """What must agree for two runs to share an output."""
    return {
        "model": hash_model(config.model),
        "reference": None if reference is None else hash_model(reference),
        "input": hash_source(config.input),
        "max_step_length": config.max_step_length,
        "dtype": config.dtype,
    }


def _merge(response: Response, max_step_length: int | None, encoder: StepEncoder) -> Response:
    if max_step_length is None:
        return response

    def count_tokens(text: str) -> int:
        return len(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])

    return dataclasses.replace(response, steps=split_steps(join_steps(response.steps), max_step_length, count_tokens))
