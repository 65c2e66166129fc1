"""Files of responses in, files of step scores out: resumable, and never mixed with those of another model, input or setting."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prm.data.sources import iter_responses
from prm.files import KeySet
from prm.records import Response
from prm.scoring.engines import ENGINES
from prm.scoring.identity import run_identity
from prm.scoring.scorer import Scorer, reference_of
from prm.shards import ShardWriter, ShareConfig, in_shard
from prm.steps import StepEncoder, join_steps, split_steps
from prm.tracking import manifest_path, progress, refuse_other_run, shard_prefix, write_manifest

logger = logging.getLogger(__name__)


@dataclass
class ScoringConfig(ShareConfig):
    """Score every step of rollouts, responses or candidate pools."""

    model: str
    """Checkpoint folder written by scripts/train.py, or a published PRM: a folder, or owner/name[@revision] on the hub."""
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
    recipe: str | None = None
    """How to read a published PRM, where neither its files nor its name tell: a key of RECIPES in prm/models/published."""
    reference: str | None = None
    """Reference model of an implicit PRM. Default: the one named in the checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto is bfloat16 on CUDA and the checkpoint's own elsewhere."""
    num_processes: int = 1
    """Processes on this machine that divide the questions: each takes a GPU, or without any its part of the cores."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes CUDA where there is one. The vllm engine takes what its build is for."""


def score_file(config: ScoringConfig) -> dict[str, int]:
    """Score this job's share of a file into `config.output`, resumable; returns, and records in the manifest, counts and speed.

    Raises ValueError for a share without responses and for an output that holds scores of another model, input or setting.
    """
    config.check_share(config.output)
    reference = reference_of(config.model, config.reference, config.recipe)
    keys = KeySet(response.key for response in share(config))
    if not keys:
        raise ValueError(f"{config.input}: no responses to score" + "; lower --num_shards" * (config.num_shards > 1))
    job = (config.shard_index, config.num_shards)
    place, run = manifest_path(config.output, *job), run_identity(config, reference)
    refuse_other_run(config.output, run)
    write_manifest(place.parent, config, extra={"run": run}, name=place.name)

    options = (config.token_budget, config.reference, config.dtype, config.device, config.engine, config.torch_compile)
    scorer = Scorer.load(config.model, *options, recipe=config.recipe)
    dropped: Counter[str] = Counter()
    with ShardWriter(config.output, prefix=shard_prefix(*job)) as writer:
        num_finished = sum(key in keys for key in writer.finished_keys)
        logger.info("%d responses to score, %d already scored", len(keys) - num_finished, num_finished)
        missing = (response for response in share(config) if response.key not in writer.finished_keys)
        todo = (_merge(response, config.max_step_length, scorer.encoder) for response in missing)
        with progress(total=len(keys), initial=num_finished, desc="scoring", unit="response") as bar:
            for scores in scorer.score(todo, dropped):
                writer.write(scores)
                bar.set_postfix_str(f"{scorer.speed.tokens_per_second:,.0f} tokens/s", refresh=False)
                bar.update(num_finished + scorer.speed.responses + dropped.total() - bar.n)
    counts = {"responses": len(keys), "scored": len(keys) - dropped.total(), **dropped}
    logger.info("%s", scorer.speed)
    write_manifest(place.parent, config, counts=counts, extra={"run": run, "speed": scorer.speed.summary()}, name=place.name)
    return counts


def share(config: ScoringConfig) -> Iterator[Response]:
    """This job's responses: whole questions, so that responses that share a prompt meet in one job."""
    responses = iter_responses(config.input)
    return (response for response in responses if in_shard(response.question_id, config.shard_index, config.num_shards))


def _merge(response: Response, max_step_length: int | None, encoder: StepEncoder) -> Response:
    if max_step_length is None:
        return response

    def count_tokens(text: str) -> int:
        return len(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])

    return dataclasses.replace(response, steps=split_steps(join_steps(response.steps), max_step_length, count_tokens))
