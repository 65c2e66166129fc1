"""Files of responses in, files of step scores out: resumable, and never mixed with those of another model, input or setting."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from prm.data.sources import iter_responses
from prm.files import KeySet
from prm.records import Response
from prm.scoring.engines import ENGINES
from prm.scoring.identity import run_identity
from prm.scoring.options import ModelConfig
from prm.scoring.scorer import reference_of
from prm.shards import ShardWriter, ShareConfig, in_shard
from prm.steps import StepEncoder, join_steps, split_steps
from prm.tracking import manifest_path, progress, refuse_other_run, shard_prefix, write_manifest

logger = logging.getLogger(__name__)


@dataclass
class ScoringConfig(ModelConfig, ShareConfig):
    """Score every step of rollouts, responses or candidate pools."""

    model: str = field()  # required here
    input: str
    """Rollouts, responses or candidate pools: a .jsonl file, a .json array or a folder of shards."""
    output: str
    """Step scores: a .jsonl file or a folder of shards. An interrupted run continues there."""
    max_step_length: int | None = None
    """Merge neighbouring steps up to this many tokens, as scripts/build_dataset.py did; default: every paragraph is a step."""
    engine: Literal[ENGINES] = "torch"  # type: ignore[valid-type]
    """torch, or vllm where it is faster: pooling of the checkpoint as scripts/export_vllm.py exports it. It takes no implicit PRMs,
    packs by a budget of its own and runs on what its build is for."""
    torch_compile: bool = False
    """Compile the layers of the torch engine; worth its minute or so on a GPU with many responses."""
    num_processes: int = 1
    """Processes on this machine that divide the questions: each takes a GPU, or without any its part of the cores."""


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

    scorer = config.load_scorer(config.engine, config.torch_compile)
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
