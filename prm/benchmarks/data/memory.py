"""Memory of the data engine: a stage's command and numbers of rollouts in, the peak of a fresh process at each number out."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prm.files import write_jsonl
from prm.records import Question, Rollout
from prm.sampling import rollouts as sampling
from prm.sampling.base import EngineConfig, SampleRequest, SampleResult, SamplingConfig

SAMPLES_PER_QUESTION = 32
WORDS_PER_STEP = 30
STEPS = 6
ANSWERS = 4
"""Different answers to a question, one of them right."""
MEASURED = """
import atexit, runpy, sys
sys.argv = sys.argv[1:]
atexit.register(lambda: print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def synthetic_rollouts(num_rollouts: int) -> Iterator[Rollout]:
    """Rollouts of about 1 KB: six steps of random words and one of four answers. The last question may have fewer samples."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(1000)])
    for number in range(num_rollouts):
        question, index = divmod(number, SAMPLES_PER_QUESTION)
        steps = [" ".join(row) for row in words[rng.integers(len(words), size=(STEPS, WORDS_PER_STEP))]]
        response = "\n\n".join([*steps, f"So it is \\boxed{{{question + rng.integers(ANSWERS)}}}."])
        yield Rollout(f"q{question}", index, f"What is {question} plus nothing?", str(question), response, "stop", 200)


class InstantEngine:
    """Answers every request at once: what is left is the memory of the stage itself."""

    def __init__(self, config: EngineConfig):
        self.config = config

    def generate(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        for request in requests:
            yield SampleResult(request.key, f"Because.\n\n\\boxed{{{request.seed % ANSWERS}}}", "stop", 10)

    def close(self) -> None:
        pass


def sample(model: str, num_rollouts: str, output: str) -> None:
    """The rollout stage with an engine that costs nothing."""
    questions = [Question(f"q{i}", f"What is {i}?", str(i)) for i in range(int(num_rollouts) // SAMPLES_PER_QUESTION)]
    sampling.make_engine = InstantEngine
    config = sampling.RolloutConfig(model=model, engine="transformers", output=output, max_tokens=16)
    sampling.generate_rollouts(config, questions)


Command = Callable[[Path, str, int], list[Any]]

STAGES: dict[str, Command] = {
    "rollouts": lambda folder, model, count: [__file__, model, count, folder / "sampled"],
    "grading": lambda folder, model, count: script("grade_rollouts", input=folder / "rollouts.jsonl", output=folder / "graded"),
    "dataset": lambda folder, model, count: script("build_dataset", rollouts=folder / "graded", output=folder / "dataset"),
    "lint": lambda folder, model, count: script("lint_dataset", input=folder / "dataset"),
    "conversion": lambda folder, model, count: script("convert_dataset", input=folder / "graded", output=folder / "converted"),
}
"""Arguments of the Python process that runs a stage, in a folder where the stages before it have run."""


def script(name: str, **options: Any) -> list[Any]:
    """A script of the repository that this package lies in."""
    path = Path(__file__).parents[3] / "scripts" / f"{name}.py"
    return [path, *(part for option, value in options.items() for part in (f"--{option}", value))]


def memory_report(stages: Sequence[str], sizes: Sequence[int], model: str, folder: Path) -> dict[str, Any]:
    """Peak bytes of every stage at every number of rollouts, and the largest number's over the smallest's."""
    peaks: dict[str, dict[str, int]] = {stage: {} for stage in stages}
    for size in sizes:
        place = folder / str(size)
        write_jsonl(place / "rollouts.jsonl", synthetic_rollouts(size))
        for stage in stages:
            peaks[stage][str(size)] = peak_bytes(STAGES[stage](place, model, size))
    growth = {stage: peaks[stage][str(max(sizes))] / peaks[stage][str(min(sizes))] for stage in stages}
    return {"peak_bytes": peaks, "growth": growth}


def peak_bytes(arguments: Sequence[Any]) -> int:
    """Largest resident memory of a Python script's process. Raises RuntimeError, with the end of its errors, if it fails."""
    # Not `ru_maxrss`: a child inherits its parent's. The high-water mark of /proc belongs to the new program.
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return 1024 * int(process.stdout.split()[-1])


if __name__ == "__main__":
    sample(*sys.argv[1:])
