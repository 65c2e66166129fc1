"""Step labels by Monte-Carlo: graded responses in; behind every step, how many of K completions are right, and a label, out.

The value of a prefix is the chance that the policy gets to the reference answer from there (Wang et al. 2024, Math-Shepherd): it
depends on the policy. The last step's prefix is the whole response, whose outcome is known: nothing is sampled, [k, K] is [1, 1] or
[0, 1]. A completion without a readable answer counts as not right.
"""

import dataclasses
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tqdm import tqdm
from transformers import PretrainedConfig

from prm.annotation.base import LabelConfig, Labelling
from prm.annotation.estimates import SEARCHES, StoppingRule, first_error, hard_labels, is_good, labels_around, soft_labels
from prm.annotation.prefixes import Prefix, PrefixKey, Trace, Tracer, in_chunks, share_prefixes
from prm.grading import GradingPool, Pair, extract_answer
from prm.records import Response
from prm.sampling.base import Engine, EngineConfig, SampleRequest, SamplingConfig, make_engine
from prm.sampling.prompts import context_length, model_identity, read_model, sample_seed
from prm.steps import StepEncoder
from prm.tracking import progress

Base = TypeVar("Base")


@dataclass
class MonteCarloConfig(LabelConfig, EngineConfig, SamplingConfig):
    """Label each step by what becomes of completions sampled from behind it; --model is the policy that completes.

    With --engine server, --model names the policy here, for its tokenizer, and on the server.
    """

    labels: Literal["soft", "hard"] = "soft"
    """soft: the share k/K of right completions; hard: 1 if it exceeds --threshold, else -1."""
    threshold: float = 0.0
    """Share of right completions above which a step counts as good in hard labels; 0: one right completion is enough."""
    num_completions: int = 8
    """Completions a prefix (K); with --adaptive the most."""
    adaptive: bool = False
    """Draw until the confidence interval of k/K is narrow, for hard labels also until it excludes --threshold."""
    min_completions: int = 4
    """Completions before the first look at the interval (--adaptive); their number doubles from look to look."""
    half_width: float = 0.1
    """Half the width of the interval that is narrow enough (--adaptive)."""
    confidence: float = 0.95
    """Confidence of the interval (Wilson) at a single look (--adaptive)."""
    search: Literal["all", "binary"] = "all"
    """all: sample behind every step; binary: only where bisection for the first error asks, hard labels from its place alone."""
    seed: int = 0
    """Seed of the run; each completion's own seed derives from it, the question's id, the prefix and the completion's index."""
    chunk_size: int = 256
    """Responses whose prefixes are sampled together; written together, so that a kill costs one chunk."""
    num_workers: int = 2
    """Processes that compare answers."""

    def check(self) -> None:
        for base in (LabelConfig, EngineConfig, SamplingConfig):
            base.check(self)
        for name in ("num_completions", "chunk_size", "num_workers", "min_completions"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature == 0 and self.num_completions > 1:
            raise ValueError(f"--temperature 0 would give {self.num_completions} equal completions; raise it")
        if self.search == "binary" and self.labels == "soft":
            raise ValueError("--search binary finds one place and no value of every step; add --labels hard")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"--threshold is {self.threshold}; a share of completions can only exceed values in [0, 1)")
        if self.labels == "soft" and self.threshold:
            raise ValueError(f"--threshold {self.threshold} changes no soft label; add --labels hard, or leave it out")
        if self.adaptive:
            self._check_adaptive()

    def _check_adaptive(self) -> None:
        if self.min_completions > self.num_completions:
            raise ValueError(f"--min_completions {self.min_completions} exceeds --num_completions {self.num_completions}")
        if not 0 < self.half_width < 0.5:
            raise ValueError(f"--half_width is {self.half_width}; half an interval of probabilities lies between 0 and 0.5")
        if not 0 < self.confidence < 1:
            raise ValueError(f"--confidence is {self.confidence}; it must lie between 0 and 1")

    def stopping_rule(self) -> StoppingRule:
        if not self.adaptive:
            return StoppingRule(self.num_completions, self.num_completions)
        threshold = self.threshold if self.labels == "hard" else None
        return StoppingRule(self.min_completions, self.num_completions, self.half_width, self.confidence, threshold)


def label_by_completions(config: MonteCarloConfig) -> dict[str, int]:
    """Label every response of the input that is not labelled yet; returns the counts that the manifest holds.

    Raises ValueError or FileNotFoundError for anything wrong with flags, model, input or output before an engine starts, and
    EngineError when the engine fails for good; finished chunks are on disk then.
    """
    config.check()
    model_config, tokenizer = read_model(config.model)
    max_length = longest_response(config, context_length(config, model_config))
    encoder = StepEncoder(tokenizer=tokenizer, layout="plain", max_length=max_length)
    encoder.prompt_ids("Has the tokenizer a chat template?")
    with Labelling(config, run_identity(config, model_config)) as labelling, GradingPool(config.num_workers) as pool:
        # Chunks are written whole: an interrupted run goes on with the very chunks that an uninterrupted one would have had.
        for writer in (labelling.labelled, labelling.dropped):
            writer.shard_size, writer.flush_seconds = sys.maxsize, math.inf
        tracer = Tracer(encoder, pool, model_config.get_text_config().vocab_size)
        with progress(total=sum(1 for _ in labelling.todo()), desc="completing", unit="response") as bar:
            chunks = in_chunks(traces(labelling, tracer, bar), config.chunk_size)
            if (first := next(chunks, None)) is not None:
                with closing(make_engine(only(EngineConfig, config))) as engine:
                    completer = Completer(config, engine, pool, bar)
                    for chunk in itertools.chain([first], chunks):
                        completer.complete(chunk)
                        write(labelling, chunk, config)
    return labelling.counts


def longest_response(config: MonteCarloConfig, context: int) -> int:
    """Longest prompt and response that can be labelled, in tokens: a server refuses what is not sure to fit with its completion."""
    if config.engine != "server":
        return context
    if config.max_tokens >= context:
        raise ValueError(f"--max_tokens {config.max_tokens} leaves a server no room for a prompt within {context} tokens; lower it")
    return context - config.max_tokens


def traces(labelling: Labelling, tracer: Tracer, bar: tqdm) -> Iterator[Trace]:
    """What there is to label; a response that cannot be is dropped with its reason."""
    for response in labelling.todo():
        trace = tracer.trace(response)
        if isinstance(trace, Trace):
            yield trace
        else:
            labelling.drop(response, trace)
            bar.update()


class Completer:
    """Draws completions behind the prefixes of a chunk, in rounds, until all its labels can be told."""

    def __init__(self, config: MonteCarloConfig, engine: Engine, pool: GradingPool, bar: tqdm):
        self.config, self.sampling, self.engine, self.pool, self.bar = config, only(SamplingConfig, config), engine, pool, bar
        self.rule, self.next_steps = config.stopping_rule(), SEARCHES[config.search]
        self.start, self.num_tokens = time.monotonic(), 0

    def complete(self, chunk: Sequence[Trace]) -> None:
        share_prefixes(chunk)
        while prefixes := self._unsettled(chunk):
            self._draw(prefixes)
        self.bar.update(len(chunk))

    def _unsettled(self, chunk: Sequence[Trace]) -> list[Prefix]:
        """Prefixes that need more completions; those of one response follow each other, for the engine's prefix cache."""
        found: dict[PrefixKey, Prefix] = {}
        for trace in chunk:
            steps = self.next_steps(verdicts(trace, self.rule, self.config.threshold))
            found |= {trace.prefixes[step].key: trace.prefixes[step] for step in steps}
        return list(found.values())

    def _draw(self, prefixes: list[Prefix]) -> None:
        requests = [request for number, prefix in enumerate(prefixes) for request in self._requests(number, prefix)]
        pairs = []
        for result in self.engine.generate(requests, self.sampling):
            prefix = prefixes[result.key[0]]
            answer = extract_answer(prefix.text + result.text)
            pairs.append((prefix, Pair(prefix.gold, answer) if answer is not None else None))
            prefix.costs.update(num_label_tokens=result.num_tokens, num_completions=1)
            prefix.costs.update(
                num_truncated_completions=result.finish_reason == "length", num_unanswered_completions=answer is None
            )
            self.num_tokens += result.num_tokens
            self.bar.set_postfix_str(f"{self.num_tokens / (time.monotonic() - self.start):.0f} tokens/s", refresh=False)
        grades = self.pool.compare(pair for _, pair in pairs if pair is not None)
        for prefix, pair in pairs:
            prefix.num_completions += 1
            prefix.num_right += pair is not None and grades[pair] == "correct"

    def _requests(self, number: int, prefix: Prefix) -> Iterator[SampleRequest]:
        """The next completions of a prefix. A seed is one of (run seed, question, prefix, index), whatever stands around it."""
        token_ids, name = prefix.token_ids, json.dumps(prefix.key)
        for index in range(prefix.num_completions, prefix.num_completions + self.rule.num_wanted(prefix.counts)):
            yield SampleRequest((number, index), token_ids, sample_seed(self.config.seed, name, index))


def verdicts(trace: Trace, rule: StoppingRule, threshold: float) -> list[bool | None]:
    """Of every step: good, bad, or None while too little is known. The last one is the outcome's."""
    values = [None if rule.num_wanted(p.counts) else is_good(p.counts, threshold) for p in trace.prefixes]
    return [*values, trace.response.correct]


def write(labelling: Labelling, chunk: Sequence[Trace], config: MonteCarloConfig) -> None:
    """Write a finished chunk. What a shared prefix cost stands in the row of its first response."""
    paid: set[PrefixKey] = set()
    for trace in chunk:
        costs: Counter[str] = Counter()
        for prefix in trace.prefixes:
            if prefix.num_completions and prefix.key not in paid:
                paid.add(prefix.key)
                costs.update(prefix.costs, num_completed_prefixes=1)
        labelling.write(labelled(trace, config), **+costs)
    labelling.labelled.flush()
    labelling.dropped.flush()


def labelled(trace: Trace, config: MonteCarloConfig) -> Response:
    completions = [*(prefix.counts for prefix in trace.prefixes), (int(trace.response.correct), 1)]
    if config.search == "binary":
        error = first_error(verdicts(trace, config.stopping_rule(), config.threshold))
        labels = labels_around(error, len(completions))
    else:
        labels = soft_labels(completions) if config.labels == "soft" else hard_labels(completions, config.threshold)
    counts = [list(pair) for pair in completions]
    return dataclasses.replace(trace.response, step_labels=labels, label_source="monte_carlo", completions=counts)


def run_identity(config: MonteCarloConfig, model_config: PretrainedConfig) -> dict[str, Any]:
    """What the labels depend on; the rest may differ from run to run into one output."""
    model = model_identity(config.model, model_config)
    names = ("labels", "threshold", "search", "seed", "max_tokens", "temperature", "top_p", "dtype", "max_model_len")
    settings = {name: getattr(config, name) for name in names} | {"rule": dataclasses.asdict(config.stopping_rule())}
    return {"method": "monte_carlo", "model": model, "engine": config.resolved_engine(), **settings}


def only(base: type[Base], config: Base) -> Base:
    """The part of a config that is a `base`: what travels to other processes needs nothing of this module."""
    return base(**{f.name: getattr(config, f.name) for f in dataclasses.fields(base)})
