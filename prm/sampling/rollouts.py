"""Rollouts: questions in, a resumable folder of sampled responses out.

Everything a question or a model can have wrong is found before an engine starts. A sample is a function of (seed, question id,
sample index); what an interrupted run has written is not drawn again, and a folder never mixes two runs.
"""

import dataclasses
import hashlib
import json
import logging
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from prm.files import KeySet
from prm.records import Question, Rollout
from prm.sampling.base import EngineConfig, SampleRequest, SamplingConfig, make_engine
from prm.sampling.prompts import chat_prompts, context_length, encode_prompts, model_identity, read_model, sample_seed
from prm.shards import ShardWriter, ShareConfig
from prm.tracking import check_output, manifest_path, progress, refuse_other_run, shard_prefix, to_plain, write_manifest

logger = logging.getLogger(__name__)


@dataclass
class RolloutConfig(EngineConfig, SamplingConfig, ShareConfig):
    """Sample responses to questions."""

    questions: str = "data/questions.jsonl"
    """Questions with reference answers: a .jsonl or .json file, or a folder of shards."""
    output: str = "data/rollouts"
    """Folder to write; the same command resumes an interrupted run in it."""
    num_samples: int = 32
    """Responses a question."""
    seed: int = 0
    """Seed of the run; each sample's own seed derives from it, the question's id and the sample's index."""

    def check(self) -> None:
        EngineConfig.check(self)
        SamplingConfig.check(self)
        if self.num_samples < 1:
            raise ValueError(f"--num_samples is {self.num_samples}; it must be at least 1")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"--temperature 0 would give {self.num_samples} equal samples; raise it or take --num_samples 1")
        self.check_share(self.output)
        check_output("--output", self.output, [self.questions], models=[self.model])


def generate_rollouts(config: RolloutConfig, questions: Sequence[Question]) -> dict[str, Any]:
    """Draw what is missing in `config.output` and return the counts of the run, which its manifest holds too.

    Raises ValueError or FileNotFoundError for anything wrong with questions, model, flags or folder, before an engine starts, and
    EngineError when the engine fails for good; what is finished then is on disk.
    """
    config.check()
    shard = {question.id: question for question in questions[config.shard_index :: config.num_shards]}
    prompts, model, engine_config = prepare(config, shard.values())
    run = run_identity(config, questions, model)
    refuse_other_run(config.output, run)
    job = (config.shard_index, config.num_shards)
    manifest = partial(write_manifest, config.output, config, extra={"run": run}, name=manifest_path(config.output, *job).name)
    with ShardWriter(config.output, prefix=shard_prefix(*job)) as writer:
        requests = MissingSamples(prompts, config.num_samples, config.seed, writer.finished_keys)
        num_samples = len(shard) * config.num_samples
        counts = {"questions": len(shard), "samples": num_samples, "already_there": num_samples - len(requests)}
        manifest(counts=counts)
        counts |= draw_samples(engine_config, shard, requests, writer, counts)
    manifest(counts=counts)
    logger.info("%s: %s", config.output, ", ".join(f"{value} {key}" for key, value in counts.items()))
    return counts


def prepare(config: RolloutConfig, questions: Iterable[Question]) -> tuple[dict[str, SampleRequest], str, RolloutConfig]:
    """A request without key and seed for every question, the model's identity, and what the engine is started with.

    A server gets chat turns, and has template and tokenizer itself; other engines get token ids, and no more context than needed.
    """
    if config.engine == "server":
        chats = {question_id: SampleRequest(None, [], 0, messages) for question_id, messages in chat_prompts(questions).items()}
        return chats, config.model, config
    model_config, tokenizer = read_model(config.model)
    context = context_length(config, model_config)
    prompts = encode_prompts(questions, tokenizer, context, model_config.get_text_config().vocab_size)
    needed = max(map(len, prompts.values())) + config.max_tokens
    requests = {question_id: SampleRequest(None, ids, 0) for question_id, ids in prompts.items()}
    return requests, model_identity(config.model, model_config), dataclasses.replace(config, max_model_len=min(context, needed))


class MissingSamples(Sequence[SampleRequest]):
    """The requests that a run still owes. Until it is asked for, a request is a number of 8 bytes and not an object."""

    def __init__(self, prompts: dict[str, SampleRequest], num_samples: int, seed: int, finished: KeySet):
        self.prompts, self.num_samples, self.seed = prompts, num_samples, seed
        self.question_ids = list(prompts)
        keys = ((question_id, index) for question_id in prompts for index in range(num_samples))
        self.numbers = array("q", (number for number, key in enumerate(keys) if key not in finished))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int | slice) -> SampleRequest | list[SampleRequest]:
        if isinstance(index, slice):
            return [self._request(number) for number in self.numbers[index]]
        return self._request(self.numbers[index])

    def _request(self, number: int) -> SampleRequest:
        question, sample_index = divmod(number, self.num_samples)
        question_id = self.question_ids[question]
        key = (question_id, sample_index)
        return dataclasses.replace(self.prompts[question_id], key=key, seed=sample_seed(self.seed, *key))


def draw_samples(
    config: RolloutConfig,
    questions: dict[str, Question],
    requests: Sequence[SampleRequest],
    writer: ShardWriter,
    counts: dict[str, Any],
) -> dict[str, Any]:
    """Write every sample as it finishes; returns the counts of this run, and its tokens a second, the engine's start included."""
    totals = {"generated": 0, "truncated": 0, "tokens": 0}
    start = time.monotonic()
    if requests:
        bar = progress(total=counts["samples"], initial=counts["already_there"], desc="rollouts", unit="sample")
        with bar, closing(make_engine(config)) as engine:
            for result in engine.generate(requests, config):
                question = questions[result.key[0]]
                texts = (question.question, question.answer, result.text)
                writer.write(Rollout(*result.key, *texts, result.finish_reason, result.num_tokens))
                totals["generated"] += 1
                totals["truncated"] += result.finish_reason == "length"
                totals["tokens"] += result.num_tokens
                bar.update()
                bar.set_postfix_str(f"{totals['tokens'] / (time.monotonic() - start):.0f} tokens/s", refresh=False)
    seconds = time.monotonic() - start
    return {**totals, "seconds": round(seconds, 1), "tokens_per_second": round(totals["tokens"] / max(seconds, 1e-9), 1)}


def run_identity(config: RolloutConfig, questions: Sequence[Question], model: str) -> dict[str, Any]:
    """What must agree for two runs to share a folder; the number of samples a question and the number of jobs may differ."""
    settings = {name: getattr(config, name) for name in ("seed", "max_tokens", "temperature", "top_p", "dtype", "max_model_len")}
    digest = hashlib.sha256(json.dumps(to_plain(list(questions))).encode()).hexdigest()
    return {"model": model, "questions": digest, "engine": config.resolved_engine(), **settings}
