"""Grade the final answers of rollouts with Math-Verify. Interrupted runs continue where they stopped."""

import logging
from collections import Counter
from pathlib import Path

from prm.config import parse_args
from prm.data.sources import load_rollouts
from prm.files import read_records
from prm.grading import GRADES, GradingConfig, grade
from prm.records import Key, Rollout
from prm.shards import ShardWriter
from prm.tracking import progress, setup_logging, shard_manifest, write_manifest

logger = logging.getLogger("prm.grade_rollouts")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(GradingConfig, argv, __doc__)
    output = Path(config.output)
    if output.resolve() == Path(config.input).resolve():
        raise ValueError(f"--output {output} is the input itself; name another place")
    rollouts = share(load_rollouts(config.input), config.shard_index, config.num_shards)
    if not rollouts:
        raise ValueError(f"{config.input}: no rollouts to grade" + "; lower --num_shards" * (config.num_shards > 1))

    name = shard_manifest(config.shard_index, config.num_shards)
    with ShardWriter(output, prefix=name.removesuffix(".json").replace("manifest", "part")) as writer:
        finished = finished_rollouts(writer)
        todo = [rollout for rollout in rollouts if not is_finished(rollout, finished, output)]
        logger.info("%d rollouts to grade, %d already graded", len(todo), len(rollouts) - len(todo))
        graded = grade(todo, config.num_workers, config.timeout_seconds)
        for rollout in progress(graded, total=len(todo), desc="grading", unit="rollout"):
            writer.write(rollout)

    keys = {rollout.key for rollout in rollouts}
    counts = Counter(rollout.grade for rollout in read_records(output, Rollout) if rollout.key in keys)
    folder, name = (output.parent, f"{output.stem}.manifest.json") if writer.is_file else (output, name)
    table = {name: counts[name] for name in GRADES}
    write_manifest(folder, config, inputs=[config.input], counts=table, name=name)
    total = sum(table.values())
    for grade_name, count in table.items():
        logger.info("%-10s %8d  %5.1f%%", grade_name, count, 100 * count / total)


def share(rollouts: list[Rollout], shard_index: int, num_shards: int) -> list[Rollout]:
    """The rollouts of every `num_shards`-th question, so that equal answers to a question meet in one job and are compared once."""
    questions = {question_id: number for number, question_id in enumerate(sorted({rollout.question_id for rollout in rollouts}))}
    return [rollout for rollout in rollouts if questions[rollout.question_id] % num_shards == shard_index]


def finished_rollouts(writer: ShardWriter) -> dict[Key, Rollout]:
    """What an earlier run of this command left behind."""
    places = {writer.folder, writer.output}
    found = [place for place in places if place.is_file() or any(place.glob("*.jsonl"))]
    return {rollout.key: rollout for place in found for rollout in read_records(place, Rollout)}


def is_finished(rollout: Rollout, finished: dict[Key, Rollout], output: Path) -> bool:
    """Whether this very response has been graded. Raises ValueError if its key holds the grade of another response."""
    known = finished.get(rollout.key)
    if known is not None and (known.response, known.answer) != (rollout.response, rollout.answer):
        raise ValueError(f"{output}: holds the grade of another response under {rollout.key!r}; remove it or name another")
    return known is not None


if __name__ == "__main__":
    main()
