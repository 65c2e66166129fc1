"""Grade the final answers of rollouts with Math-Verify. Interrupted runs continue where they stopped."""

import logging
from collections import Counter
from pathlib import Path

from prm.config import parse_args
from prm.data.sources import load_rollouts
from prm.grading import GRADES, GradingConfig, grade
from prm.records import Key, Rollout, ShardWriter, read_records
from prm.tracking import progress, setup_logging, write_manifest

logger = logging.getLogger("prm.grade_rollouts")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(GradingConfig, argv, __doc__)
    output = Path(config.output)
    if output.resolve() == Path(config.input).resolve():
        raise ValueError(f"--output {output} is the input itself; name another place")
    rollouts = load_rollouts(config.input)
    if not rollouts:
        raise ValueError(f"{config.input}: no rollouts to grade")

    with ShardWriter(output) as writer:
        finished = finished_rollouts(writer)
        todo = [rollout for rollout in rollouts if not is_finished(rollout, finished, output)]
        logger.info("%d rollouts to grade, %d already graded", len(todo), len(rollouts) - len(todo))
        graded = grade(todo, config.num_workers, config.timeout_seconds)
        for rollout in progress(graded, total=len(todo), desc="grading", unit="rollout"):
            writer.write(rollout)

    counts = Counter(rollout.grade for rollout in read_records(output, Rollout))
    folder, name = (output.parent, f"{output.stem}.manifest.json") if writer.is_file else (output, "manifest.json")
    table = {name: counts[name] for name in GRADES}
    write_manifest(folder, config, inputs=[config.input], counts=table, name=name)
    total = sum(table.values())
    for grade_name, count in table.items():
        logger.info("%-10s %8d  %5.1f%%", grade_name, count, 100 * count / total)


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
