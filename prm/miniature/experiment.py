"""The paper in miniature: one config in, a folder with models, rollouts, scores, curves and findings out.

Every stage runs the same script as a run on GPUs would, as a process of its own, and can be repeated by hand: the commands are
logged. A stage that has finished leaves a mark; the same command goes on behind the last one.
"""

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from prm.data.sources import load_responses
from prm.files import write_json, write_jsonl
from prm.miniature.false_positives import dataset_folder, flip_outcomes, prm_name, write_study
from prm.miniature.labelling import (
    JUDGE_LEARNING_RATE,
    LABELLINGS,
    OF_JUDGE,
    choose_responses,
    gather_verdicts,
    label_flags,
    train_judge,
)
from prm.miniature.labelling_report import write_labelling
from prm.miniature.policy import BaseConfig, PolicyConfig, train_base, train_policy
from prm.miniature.problems import ProblemConfig, generate_questions, judge
from prm.miniature.repeats import write_repeats
from prm.miniature.report import write_report
from prm.miniature.settings import MiniatureConfig
from prm.records import Response, to_row
from prm.tracking import write_manifest

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "eval")
NUM_FIRST_ERROR_ITEMS = 1000
FREE_TO_CHANGE = ("output_dir", "losses", "all", "false_positive_rates", "training_runs", "labelling")


@dataclass(frozen=True)
class Stage:
    """One station of the pipeline; `name` also names the mark it leaves."""

    name: str
    purpose: str
    run: Callable[[], None]


class Miniature:
    """The stages of one run and the places of their outputs."""

    def __init__(self, config: MiniatureConfig):
        self.config = config
        self.root = Path(config.output_dir)
        self.problems = ProblemConfig(min_steps=config.min_steps, max_steps=config.max_steps)

    def stages(self) -> list[Stage]:
        samples = {"train": self.config.num_train_samples, "eval": self.config.num_eval_samples}
        stages = [
            Stage("questions", "generate problems with exact answers", self.write_questions),
            Stage("base", "pre-train a base model on solutions and reviews", self.train_base),
            Stage("policy", "fine-tune a policy that has misconceptions", self.train_policy),
        ]
        for split in SPLITS:
            stages += [
                Stage(f"rollouts-{split}", f"sample {samples[split]} responses a question (vLLM)", lambda s=split: self.sample(s)),
                Stage(f"grade-{split}", "compare final answers (Math-Verify)", lambda s=split: self.grade(s)),
                Stage(f"judge-{split}", "label every step with the exact judge", lambda s=split: self.label_steps(s)),
            ]
            if self.config.labelling:
                return [*stages, *self.labelling_stages()]
        stages.append(Stage("dataset", "build the training set", self.build_dataset))
        for rate in self.config.false_positive_rates:
            if rate:
                purpose = f"call wrong responses right: {100 * rate:g}% of the right ones have a wrong step"
                stages.append(Stage(prm_name("dataset", rate), purpose, lambda r=rate: self.flip_outcomes(r)))
            stages += [stage for loss in self.config.losses for stage in self.prm_stages(prm_name(loss, rate), loss, rate)]
        for repeat in range(1, self.config.training_runs):
            stages += [
                stage for loss in self.config.losses for stage in self.prm_stages(self.run_name(loss, repeat), loss, repeat=repeat)
            ]
        return stages

    def run_name(self, loss: str, repeat: int) -> str:
        """The name of a PRM that is trained once more; the first of its runs is called as the objective."""
        return f"{loss}-seed{self.config.seed + repeat}" if repeat else loss

    def prm_stages(self, name: str, loss: str, rate: float = 0.0, repeat: int = 0) -> list[Stage]:
        return [
            Stage(f"train-{name}", f"train with --loss {loss} (DeepSpeed ZeRO-2)", lambda: self.train(name, loss, rate, repeat)),
            Stage(f"score-{name}", "score every step of the held-out responses", lambda: self.score(name)),
            Stage(f"first-error-{name}", "find the first wrong step", lambda: self.evaluate_first_error(name)),
        ]

    def labelling_stages(self) -> list[Stage]:
        choose = Stage("labelling-responses", "choose responses to label", lambda: choose_responses(self.root, self.config.seed))
        tuning = [Stage("labelling-judge", "tune an LLM judge", self.tune_judge)] if self.config.judge_steps else []
        return [choose, *tuning, *(self.labelling_stage(name) for name in self.labellings())]

    def labelling_stage(self, name: str) -> Stage:
        return Stage(f"label-{name}", f"label steps with --method {LABELLINGS[name]['method']}", lambda: self.label(name))

    def labellings(self) -> list[str]:
        return [name for name in LABELLINGS if self.config.judge_steps or name not in OF_JUDGE]

    def write_questions(self) -> None:
        sizes = {"train": self.config.num_train_questions, "eval": self.config.num_eval_questions}
        for split in SPLITS:
            questions = generate_questions(sizes[split], self.config.seed, self.problems, split)
            write_jsonl(self.root / "questions" / f"{split}.jsonl", questions)

    def train_base(self) -> None:
        steps = {name: getattr(self.config, name) for name in ("fact_steps", "document_steps", "mark_steps")}
        train_base(BaseConfig(seed=self.config.seed, problems=self.problems, **steps), self.root / "models" / "base")

    def train_policy(self) -> None:
        config = PolicyConfig(seed=self.config.seed, problems=self.problems, num_steps=self.config.policy_steps)
        train_policy(config, self.root / "models" / "base", self.root / "models" / "policy")

    def tune_judge(self) -> None:
        steps, learning_rate = self.config.judge_steps, JUDGE_LEARNING_RATE
        train_judge(PolicyConfig(self.problems, num_steps=steps, learning_rate=learning_rate, seed=self.config.seed), self.root)

    def label(self, name: str) -> None:
        self.script("label_steps", label_flags(self.root, name, self.config.seed))
        if name == "judge":
            gather_verdicts(self.root)

    def sample(self, split: str) -> None:
        num_samples = self.config.num_train_samples if split == "train" else self.config.num_eval_samples
        flags = {"model": self.root / "models" / "policy", "questions": self.root / "questions" / f"{split}.jsonl"}
        flags |= {"output": self.root / "rollouts" / split, "num_samples": num_samples, "seed": self.config.seed}
        self.script("generate_rollouts", {**flags, "config": ROOT / "configs" / "rollouts" / "miniature.yaml"})

    def grade(self, split: str) -> None:
        self.script("grade_rollouts", {"input": self.root / "rollouts" / split, "output": self.graded(split)})

    def label_steps(self, split: str) -> None:
        # In key order: rollouts stand in the order in which they were finished, and the items below are drawn by their place.
        responses = sorted((judged(response) for response in load_responses(self.graded(split))), key=lambda r: r.key)
        write_jsonl(self.root / "labels" / f"{split}.jsonl", responses)
        if split == "eval":
            items = first_error_items(responses, self.config.seed)
            write_json(self.root / "first_error" / "miniature.json", items)

    def build_dataset(self) -> None:
        flags = {"rollouts": self.graded("train"), "step_labels": self.root / "labels" / "train.jsonl"}
        flags["output"] = self.root / "dataset"
        # A question has one right solution here, word for word: without its copies one answer in five would be right.
        self.script("build_dataset", {**flags, "validation_fraction": 0.05, "seed": self.config.seed, "deduplicate": False})

    def flip_outcomes(self, rate: float) -> None:
        flip_outcomes(self.root, rate, self.config.seed)

    def train(self, name: str, loss: str, rate: float, repeat: int) -> None:
        flags = {"config": ROOT / "configs" / "train" / "miniature" / f"{loss}.yaml", "dataset": dataset_folder(self.root, rate)}
        flags |= {"model_name_or_path": self.root / "models" / "base", "output_dir": self.root / "models" / name}
        flags |= {"seed": self.config.seed + repeat, "deepspeed": ROOT / "ds_configs" / "zero2.json"}
        if self.config.max_train_steps > 0:
            flags["max_steps"] = self.config.max_train_steps
        self.script("train", flags, launcher=["deepspeed", "--num_accelerators", str(self.config.num_ranks)])

    def score(self, name: str) -> None:
        # A training that fails is a result here, not a model that is misread.
        flags = {"model": self.root / "models" / name, "input": self.graded("eval"), "allow_constant": True}
        self.script("score", {**flags, "output": self.scores(name)})

    def evaluate_first_error(self, name: str) -> None:
        ids = {item["id"] for item in json.loads((self.root / "first_error" / "miniature.json").read_text())}
        rows = [{"id": item_id(row), "step_scores": row["step_scores"]} for row in map(json.loads, self.scores(name).open())]
        predictions = self.root / "first_error" / "predictions" / f"{name}.jsonl"
        write_jsonl(predictions, [row for row in rows if row["id"] in ids])
        flags = {"data": self.root / "first_error" / "miniature.json", "predictions": predictions}
        flags |= {"threshold": ["fixed", "oracle"], "output_dir": self.root / "first_error" / name}
        self.script("processbench_eval", flags)

    def graded(self, split: str) -> Path:
        return self.root / "graded" / f"{split}.jsonl"

    def scores(self, name: str) -> Path:
        return self.root / "scores" / f"{name}.jsonl"

    def script(self, name: str, flags: dict[str, object], launcher: Iterable[str] = ("python",)) -> None:
        """Run one script as a process of its own, its output on this terminal. Raises RuntimeError if it fails."""
        values = [(f"--{key}", value if isinstance(value, list) else [value]) for key, value in flags.items()]
        arguments = [str(word) for flag, words in values for word in (flag, *words)]
        program, *options = launcher
        command = [program, *options, str(ROOT / "scripts" / f"{name}.py"), *arguments]
        logger.info("$ %s", " ".join(command))
        # One thread a rank, and none that spins while it waits: two ranks on two cores would otherwise fight over four.
        quiet = (
            {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if program == "deepspeed" and self.config.num_ranks > 1 else {}
        )
        executable = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
        result = subprocess.run([executable, *command[1:]], env=os.environ | quiet, check=False)
        if result.returncode != 0:
            raise RuntimeError(
                f"scripts/{name}.py ended with status {result.returncode}; its output stands above. Run again to go on"
            )


def run_miniature(config: MiniatureConfig) -> str:
    """Run what is missing and return the report. Raises ValueError if the folder holds a run with other settings."""
    run = Miniature(config)
    refuse_other_settings(run)
    marks = run.root / "stages"
    stages = run.stages()
    for number, stage in enumerate(stages, start=1):
        mark = marks / f"{stage.name}.json"
        if mark.exists():
            continue
        logger.info("[%d/%d] %s: %s", number, len(stages), stage.name, stage.purpose)
        start = time.monotonic()
        stage.run()
        write_json(mark, {"seconds": round(time.monotonic() - start, 1)})
    seconds = {stage.name: json.loads((marks / f"{stage.name}.json").read_text())["seconds"] for stage in stages}
    write_manifest(run.root, config, extra={"seconds": seconds})
    if config.labelling:
        return write_labelling(run.root, run.labellings(), seconds)
    if config.training_runs > 1:
        return write_repeats(run.root, [run.run_name(loss, k) for k in range(config.training_runs) for loss in config.losses])
    if any(config.false_positive_rates):
        return write_study(run.root, config.losses, config.false_positive_rates)
    return write_report(run.root, config.losses, seconds)


def refuse_other_settings(run: Miniature) -> None:
    """The settings of a folder are fixed by its first run; only the list of objectives may grow."""
    path = run.root / "settings.json"
    settings = {key: value for key, value in asdict(run.config).items() if key not in FREE_TO_CHANGE}
    if not path.exists():
        write_json(path, settings)
        return
    before = json.loads(path.read_text())
    if changed := sorted(key for key in settings if settings[key] != before.get(key, settings[key])):
        key = changed[0]
        raise ValueError(
            f"{run.root} holds a run with --{key} {before.get(key)}, not {settings[key]}: "
            "give another --output_dir, or delete the folder"
        )


def judged(response: Response) -> Response:
    """The response with the exact judge's labels, 1 or -1 a step."""
    labels = [float(label) for label in judge(response.question, response.steps)]
    return Response(**{**to_row(response), "step_labels": labels})


def first_error_items(responses: list[Response], seed: int) -> list[dict]:
    """ProcessBench items from judged responses, no text twice, half of them with an error as far as there are enough."""
    unique = {(r.question_id, *r.steps): r for r in responses}
    shuffled = random.Random(seed).sample(list(unique.values()), len(unique))
    items = [first_error_item(r) for r in shuffled]
    halves = [[i for i in items if (i["label"] == -1) == is_right][: NUM_FIRST_ERROR_ITEMS // 2] for is_right in (True, False)]
    return [item for half in halves for item in half]


def first_error_item(response: Response) -> dict:
    bad = [index for index, label in enumerate(response.step_labels) if label < 0]
    return {
        "id": item_id(to_row(response)),
        "generator": "miniature policy",
        "problem": response.question,
        "steps": response.steps,
        "final_answer_correct": response.correct,
        "label": bad[0] if bad else -1,
    }


def item_id(row: dict) -> str:
    return f"{row['question_id']}#{row['sample_index']}"
