"""Memory of the dataset builder: numbers of rollouts in, the peak resident memory and the time of a build of each out."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from prm.files import write_jsonl
from prm.records import Rollout

WORDS = ("so", "we", "add", "the", "two", "sides", "and", "find", "that", "x", "is", "at", "least", "half", "of", "y")
# Not getrusage's ru_maxrss: a child inherits that from the parent which started it.
CODE = """
import sys
from prm.data.build import BuildConfig, build_dataset
build_dataset(BuildConfig(rollouts=sys.argv[1], output=sys.argv[2], near_duplicates=0.8, balance=True))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def random_rollouts(num_rollouts: int, samples_per_question: int = 32, num_words: int = 200) -> Iterator[Rollout]:
    """Graded rollouts, half of them right, with about 1 kB of text in ten steps; samples of a question lie far apart."""
    rng = random.Random(0)
    num_questions = num_rollouts // samples_per_question
    for number in range(num_rollouts):
        sample, question = divmod(number, num_questions)
        steps = [" ".join(rng.choices(WORDS, k=num_words // 10)) for _ in range(10)]
        outcome = {"correct": bool(sample % 2), "grade": "correct" if sample % 2 else "wrong", "extracted": "1"}
        yield Rollout(f"q{question}", sample, f"Question {question}?", "1", "\n\n".join(steps), "stop", num_words, **outcome)


def peak_of_build(num_rollouts: int, folder: Path) -> tuple[int, float]:
    """Peak resident memory in bytes, and seconds, of building a dataset in a process of its own."""
    write_jsonl(folder / f"{num_rollouts}.jsonl", random_rollouts(num_rollouts))
    start = time.perf_counter()
    command = [sys.executable, "-c", CODE, folder / f"{num_rollouts}.jsonl", folder / f"dataset-{num_rollouts}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024, time.perf_counter() - start


def compare_builds(sizes: Sequence[int], folder: Path) -> list[dict[str, float]]:
    """A row of figures for each number of rollouts; `ratio` is the peak over that of the first."""
    rows: list[dict[str, float]] = []
    for size in sizes:
        peak, seconds = peak_of_build(size, folder)
        first = rows[0]["peak_bytes"] if rows else peak
        rows.append({"num_rollouts": size, "peak_bytes": peak, "ratio": peak / first, "seconds": seconds})
    return rows
