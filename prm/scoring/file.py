"""Files of responses in, files of step scores out: resumable, and never mixed with those of another model, input or setting."""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prm.data.hub import hash_source
from prm.data.sources import iter_responses
from prm.files import KeySet
from prm.models.implicit import hash_model
from prm.records import Response
from prm.scoring.engines import ENGINES
from prm.scoring.scorer import Scorer, reference_of
from prm.shards import ShardWriter
from prm.steps import StepEncoder, join_steps, split_steps
from prm.tracking import manifest_path, progress, refuse_other_run, write_manifest

logger = logging.getLogger(__name__)


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
    engine: Literal[ENGINES] = "torch"  # type: ignore[valid-type]
    """torch, or vllm where it is faster: pooling of the checkpoint as scripts/export_vllm.py exports it. No implicit PRMs there."""
    token_budget: int | None = None
    """Tokens per packed row of the torch engine. Default: 16384 on CUDA, 4096 on a CPU."""
    torch_compile: bool = False
    """Compile the layers of the torch engine; worth its minute or so on a GPU with many responses."""
    reference: str | None = None
    """Reference model of an implicit PRM. Default: the one named in the checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto is bfloat16 on CUDA and the checkpoint's own elsewhere."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes CUDA where there is one. The vllm engine takes what its build is for."""


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

    options = (config.token_budget, config.reference, config.dtype, config.device, config.engine, config.torch_compile)
    scorer = Scorer.load(config.model, *options)
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
        "engine": config.engine,
    }


def _merge(response: Response, max_step_length: int | None, encoder: StepEncoder) -> Response:
    if max_step_length is None:
        return response

    def count_tokens(text: str) -> int:
        return len(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])

    return dataclasses.replace(response, steps=split_steps(join_steps(response.steps), max_step_length, count_tokens))
