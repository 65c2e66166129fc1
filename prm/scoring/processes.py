"""Scoring on all GPUs of a machine: a config in; one process for each GPU, which scores a share of the questions; counts out."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from prm.sampling.processes import exit_with_parent, num_cores, visible_gpus
from prm.scoring.file import ScoringConfig, limited_responses, score_file
from prm.scoring.notes import REMEDY
from prm.shards import in_shard
from prm.tracking import manifest_path, read_manifest, setup_logging

CHILD = "from prm.config import run; from prm.scoring.processes import main; run(main, 'score.py')"
POLL_SECONDS = 0.1


def score_in_processes(config: ScoringConfig) -> dict[str, int]:
    """`score_file` in `num_processes` processes, which write to one folder; returns the sums of their counts.

    Raises ValueError for more processes than GPUs and as `score_file` does, RuntimeError when a process fails.
    """
    count = config.num_processes
    devices = [] if config.device == "cpu" else visible_gpus()
    size = config.tensor_parallel_size
    if devices and (count * size > len(devices) or config.device not in ("auto", "cuda")):
        each = f"{size} of {len(devices)} GPUs" if size > 1 else f"one of {len(devices)} GPUs"
        raise ValueError(f"--num_processes {count} --device {config.device}: each takes {each}: --device auto")
    devices = [",".join(devices[start : start + size]) for start in range(0, len(devices), size)]
    config.check()
    shares = occupied(config, [share_of(config, rank) for rank in range(count)])
    if not shares:
        raise ValueError(f"{config.input}: no responses to score" + "; lower --num_shards" * (config.num_shards > 1))
    command = [sys.executable, "-c", CHILD]
    environments = [environment(rank, devices, count) for rank in range(len(shares))]
    configs = [json.dumps({"argv": sys.argv, "config": dataclasses.asdict(share)}) for share in shares]
    starts = zip(configs, environments, strict=True)
    wait_for_all(subprocess.Popen([*command, text], env=env, stdin=subprocess.PIPE) for text, env in starts)
    manifests = [manifest_path(share.output, share.shard_index, share.num_shards) for share in shares]
    return dict(sum((Counter(read_manifest(path, REMEDY)["counts"]) for path in manifests), Counter()))


def share_of(config: ScoringConfig, rank: int) -> ScoringConfig:
    """The config of one process: its part of this job's share, whatever number of processes the other jobs have."""
    index, number = config.shard_index + config.num_shards * rank, config.num_shards * config.num_processes
    share = dataclasses.replace(config, num_processes=1, shard_index=index, num_shards=number)
    share.check_share(config.output)
    return share


def occupied(config: ScoringConfig, shares: Sequence[ScoringConfig]) -> list[ScoringConfig]:
    """The shares that hold a question; few questions may leave some without."""
    questions = {response.question_id for response in limited_responses(config)}
    return [share for share in shares if any(in_shard(name, share.shard_index, share.num_shards) for name in questions)]


def environment(rank: int, devices: Sequence[str], count: int) -> dict[str, str]:
    """Environment of a process with GPUs of its own, or with its part of the cores; only rank 0 shows its progress."""
    if devices:
        return {**os.environ, "RANK": str(rank), "CUDA_VISIBLE_DEVICES": devices[rank]}
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // count)), **os.environ, "RANK": str(rank)}


def wait_for_all(starting: Iterable[subprocess.Popen]) -> None:
    """Wait until all are done; if one fails or cannot be started, stop the others. Raises RuntimeError for one that fails."""
    processes: list[subprocess.Popen] = []
    try:
        for process in starting:
            processes.append(process)
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(POLL_SECONDS)
        if any(codes):
            raise RuntimeError(f"scoring failed with status {codes}, see above; finished scores are kept, the same command resumes")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def main() -> None:
    exit_with_parent()  # the same command given again must not meet this process still writing
    setup_logging()
    job = json.loads(sys.argv[1])
    sys.argv = job["argv"]  # the command that manifests name
    score_file(ScoringConfig(**job["config"]))
