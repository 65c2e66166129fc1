"""Grade the final answers of rollouts with Math-Verify. Interrupted runs continue where they stopped."""

import logging
from collections.abc import Iterator
from pathlib import Path

from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.data.sources import iter_rollouts
from prm.files import KeySet, read_records
from prm.grading import GradingConfig, check_references, grade
from prm.grading.report import GradeReport
from prm.records import Rollout
from prm.shards import ShardWriter, WrittenBefore, in_shard
from prm.tracking import check_output, manifest_path, progress, setup_logging, shard_prefix, write_manifest

logger = logging.getLogger("prm.grade_rollouts")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(GradingConfig, argv, __doc__)
    output = Path(config.output)
    check_output("--output", config.output, [config.input], ".jsonl")
    keys, references = KeySet(), {}
    for rollout in share(config):
        keys.add(rollout.key)
        references[rollout.question_id] = rollout.answer
    if not keys:
        raise ValueError(f"{config.input}: no rollouts to grade" + "; lower --num_shards" * (config.num_shards > 1))

    check_references(references, config.num_workers, config.timeout_seconds)
    job = (config.shard_index, config.num_shards)
    with ShardWriter(output, prefix=shard_prefix(*job)) as writer:
        finished = WrittenBefore(writer, ("response", "answer"))
        num_finished = sum(key in keys for key in writer.finished_keys)
        logger.info("%d rollouts to grade, %d already graded", len(keys) - num_finished, num_finished)
        todo = (rollout for rollout in share(config) if not finished.holds(rollout))
        graded = grade(todo, config.num_workers, config.timeout_seconds)
        for rollout in progress(graded, total=len(keys), initial=num_finished, desc="grading", unit="rollout"):
            writer.write(rollout)

    report = GradeReport.of(rollout for rollout in read_records(output, Rollout) if rollout.key in keys)
    place, found = manifest_path(output, *job), {"truncated": report.truncated, "examples": report.examples}
    write_manifest(place.parent, config, hash_sources([config.input]), report.counts, found, place.name)
    for line in report.lines():
        logger.info("%s", line)


def share(config: GradingConfig) -> Iterator[Rollout]:
    """This job's rollouts: whole questions, so that equal answers to a question meet in one job and are compared once."""
    rollouts = iter_rollouts(config.input)
    return (rollout for rollout in rollouts if in_shard(rollout.question_id, config.shard_index, config.num_shards))


if __name__ == "__main__":
    run(main)
