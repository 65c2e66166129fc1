"""Scores that outlive their process: responses, a place on disk and what the scores depend on in; scores, each made once, out."""

import dataclasses
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from prm.aggregation import Aggregation
from prm.files import KeySet, read_records
from prm.metrics.degenerate import DegenerateDetector
from prm.records import Response, StepScores
from prm.scoring.identity import hash_responses, run_identity
from prm.scoring.notes import COUNTED, REMEDY, SCORES, ScoringNotes
from prm.scoring.options import ModelConfig
from prm.scoring.scorer import Dropped, Scorer, scores_of
from prm.shards import ShardWriter, row_key
from prm.steps import StepEncoder
from prm.tracking import dropped_path, manifest_path, progress, read_manifest, refuse_other_run, shard_prefix, write_manifest

logger = logging.getLogger(__name__)

Prepare = Callable[[Response, StepEncoder], Response]
"""Makes of a response the one that is scored in its place, its steps merged for instance."""


def score_kept(
    config: ModelConfig,
    responses: Sequence[Response],
    output_dir: str | Path,
    name: str = SCORES,
    load: Callable[[], Scorer] | None = None,
) -> tuple[list[StepScores], Counter[str]]:
    """Scores, in order, of the responses that the model can read, and counts by reason of the others.

    `output_dir/name` keeps the scores: the same command goes on where it was killed, and loads no model once all are there.
    Raises ValueError where it keeps those of another model, other responses or another precision.
    """
    folder, output_dir = Path(output_dir) / name, Path(output_dir)
    run = run_identity(config, responses=hash_responses(responses))
    refuse_other_run(folder, run, "--output_dir", output_dir)
    keys = KeySet(response.key for response in responses)
    counts = Counter(score_into(folder, keys, lambda: responses, run, config, load or partial(Scorer.load, config)))
    kept = {scores.key: scores.step_scores for scores in read_records(folder, StepScores)} if counts["scored"] else {}
    dropped = Counter({reason: number for reason, number in counts.items() if reason not in COUNTED})
    # What is known of the outcomes may have been graded anew since.
    return [scores_of(response, kept[response.key]) for response in responses if response.key in kept], dropped


def score_into(
    output: str | Path,
    keys: KeySet,
    read: Callable[[], Iterable[Response]],
    run: dict[str, Any],
    config: Any,
    load: Callable[[], Scorer],
    prepare: Prepare = lambda response, encoder: response,
    job: tuple[int, int] = (0, 1),
) -> dict[str, int]:
    """Score what `output` does not hold yet; returns counts, and writes them with `config`, `run` and the speed to its manifest.

    What cannot be scored is kept with the reason in `dropped_path(output)`, and not tried again. The caller has seen to it that
    `output` holds no other run's scores (`refuse_other_run`). `read()` gives the responses of `keys`, each time in the same order,
    and `prepare` what is scored in their place. `load` is called only if something is left to score.
    """
    place = manifest_path(output, *job)
    # A shard holds one window: from its size a run that goes on has that of the next one, and packs rows as without a break.
    options = {"shard_size": sys.maxsize, "flush_seconds": math.inf, "prefix": shard_prefix(*job)}
    writer = ShardWriter(output, **options, record_type=StepScores)
    drops = ShardWriter(dropped_path(output), **options, record_type=Dropped, optional=True)
    with writer, drops:
        num_scored, num_dropped = (sum(key in keys for key in w.finished_keys) for w in (writer, drops))
        if counts := final_counts(place, len(keys), num_scored):
            logger.info("all %d responses have been scored: the model is not loaded", len(keys))
            return counts
        scorer = dataclasses.replace(load())  # with a speed of its own
        encoder = scorer.encoder
        notes = ScoringNotes(Aggregation(encoder.aggregation, encoder.tau), encoder.activation).to_manifest()
        num_finished = num_scored + num_dropped
        logger.info("%d responses to score, %d already scored", len(keys) - num_finished, num_scored)
        detector = detector_of(scorer, writer, keys, read, prepare)
        finished = writer.finished_keys, drops.finished_keys
        missing = (response for response in read() if not any(response.key in there for there in finished))
        todo = (prepare(response, scorer.encoder) for response in missing)
        dropped: list[Dropped] = []
        windows = scorer.score_windows(todo, dropped, detector, 2 * writer.last_shard_size())
        with progress(total=len(keys), initial=num_finished, desc="scoring", unit="response") as bar:
            num_kept = 0
            for window in chain(windows, [[]]):  # once more at the end: responses behind the last window may have been dropped
                # Not earlier: a model that does not load, or gives a constant, leaves no manifest. An older one with another limit
                # is replaced, as its counts are no longer those of what stands here.
                if not place.exists() or read_manifest(place, REMEDY).get("run") != run:
                    write_manifest(place.parent, config, extra={"run": run, **notes}, name=place.name)
                for records, shards in ((dropped[num_kept:], drops), (window, writer)):
                    for record in records:
                        shards.write(record)
                    shards.flush()
                num_kept = len(dropped)
                bar.set_postfix_str(f"{scorer.speed.tokens_per_second:,.0f} tokens/s", refresh=False)
                bar.update(num_finished + scorer.speed.responses + len(dropped) - bar.n)
    reasons = {row_key(row): row["reason"] for row in drops.finished_rows() if row_key(row) in keys}
    counts = {"responses": len(keys), "scored": len(keys) - len(reasons), **Counter(reasons.values())}
    if reasons:
        logger.warning("%d of %d responses have no scores; %s says why", len(reasons), len(keys), dropped_path(output))
    logger.info("%s", scorer.speed)
    extra = {"run": run, **notes, "speed": scorer.speed.summary()}
    write_manifest(place.parent, config, counts=counts, extra=extra, name=place.name)
    return counts


def final_counts(manifest: Path, num_responses: int, num_scored: int) -> dict[str, int]:
    """The counts in the manifest of a run that came to its end, if all that it scored is still there; else empty."""
    counts = read_manifest(manifest, REMEDY).get("counts", {}) if manifest.exists() else {}
    return counts if (counts.get("responses"), counts.get("scored")) == (num_responses, num_scored) else {}


def detector_of(
    scorer: Scorer, writer: ShardWriter, keys: KeySet, read: Callable[[], Iterable[Response]], prepare: Prepare
) -> DegenerateDetector:
    """A detector as a run without a break would have it by now: it has seen the scores on disk, and as many steps as it needs."""
    detector = scorer.new_detector()
    for row in writer.finished_rows():
        if row_key(row) in keys:
            detector.update((), row["step_scores"])
    for response in read() if detector.count else ():
        if detector.has_enough:
            break
        if response.key in writer.finished_keys:
            detector.update(prepare(response, scorer.encoder).steps, ())
    return detector
