"""Files of responses in, files of step scores out: resumable, and never mixed with those of another model, input or setting."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from prm.data.hub import hash_source
from prm.data.sources import iter_responses
from prm.files import KeySet
from prm.records import Response
from prm.sampling.base import ServerConfig
from prm.scoring.engines import ENGINES, resolve_device
from prm.scoring.identity import run_identity
from prm.scoring.notes import REMEDY
from prm.scoring.options import ModelConfig
from prm.scoring.scorer import Scorer
from prm.scoring.store import score_into
from prm.shards import ShareConfig, in_shard
from prm.steps import StepEncoder, join_steps, split_steps, token_counts
from prm.tracking import check_output, manifests_of, read_manifest, refuse_other_run


@dataclass
class ScoringConfig(ModelConfig, ServerConfig, ShareConfig):
    """Score every step of rollouts, responses or candidate pools."""

    model: str = field()  # required here
    input: str
    """Rollouts, responses or candidate pools: a .jsonl file, a .json array or a folder of shards."""
    output: str
    """Step scores: a .jsonl file or a folder of shards. An interrupted run continues there."""
    limit: int | None = None
    """Score only the responses of so many questions, the first: a smoke run. The same command without it scores the others, too."""
    max_step_length: int | None = None
    """Merge neighbouring steps up to this many tokens, as scripts/build_dataset.py did; default: every paragraph is a step."""
    engine: Literal[ENGINES] = "torch"  # type: ignore[valid-type]
    """torch, or vllm where it is faster: pooling of the checkpoint as scripts/export_vllm.py exports it. It takes no implicit PRMs,
    packs by a budget of its own and runs on what its build is for. server: the same, by a `vllm serve` of the export at --base_url;
    of the folder only contract and tokenizer are needed here."""
    base_url: str | None = field(default=None, kw_only=True)
    """Address of the vLLM that serves --model, e.g. http://host:8000 (server)."""
    tensor_parallel_size: int = 1
    """GPUs over which --engine vllm spreads a model that a single one does not hold."""
    torch_compile: bool = False
    """Compile the layers of the torch engine; worth its minute or so on a GPU with many responses."""
    num_processes: int = 1
    """Processes on this machine that divide the questions: each takes a GPU (--tensor_parallel_size of them), or without any its
    part of the cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_step_length is not None and self.max_step_length < 1:
            raise ValueError(f"--max_step_length {self.max_step_length}: must be at least 1 token")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: give at least 1 question, or leave it out for all")
        self.check_engine(self.engine)
        for name in ("num_processes", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: at least 1")
        self.check_server(self.engine, "http://host:8000")
        if self.engine == "server" and self.num_processes > 1:
            raise ValueError(f"--num_processes {self.num_processes}: one keeps a server busy; leave it out")
        if self.engine != "vllm" and self.tensor_parallel_size > 1:
            reason = "the server decides that" if self.engine == "server" else "torch has one GPU a process"
            raise ValueError(f"--tensor_parallel_size {self.tensor_parallel_size} needs --engine vllm; {reason}")

    def check(self) -> None:
        """Raise ValueError for an output that cannot be, and as `reference_model` does."""
        self.check_share(self.output)
        resolve_device(self.device)
        check_output("--output", self.output, [self.input], ".jsonl", self.models)
        _ = self.reference_model


def score_file(config: ScoringConfig) -> dict[str, int]:
    """Score this job's share of a file into `config.output`, resumable; returns, and records in the manifest, counts and speed.

    Raises ValueError for a share without responses and for an output that holds scores of another model, input or setting, or of
    more questions than `limit` allows.
    """
    config.check()
    keys = KeySet(response.key for response in share(config))
    if not keys:
        raise ValueError(f"{config.input}: no responses to score" + "; lower --num_shards" * (config.num_shards > 1))
    run = run_identity(config, config.engine, input=hash_source(config.input), max_step_length=config.max_step_length)
    refuse_other_run(config.output, run)
    _refuse_wider_run(config)
    engine = {name: getattr(config, name) for name in ("engine", "torch_compile", "tensor_parallel_size")}
    load = partial(Scorer.load, config, server=config, **engine)
    merge, job = partial(_merge, config.max_step_length), (config.shard_index, config.num_shards)
    return score_into(config.output, keys, partial(share, config), run | {"limit": config.limit}, config, load, merge, job)


def share(config: ScoringConfig) -> Iterator[Response]:
    """This job's responses: whole questions, so that responses that share a prompt meet in one job."""
    responses = limited_responses(config)
    return (response for response in responses if in_shard(response.question_id, config.shard_index, config.num_shards))


def limited_responses(config: ScoringConfig) -> Iterator[Response]:
    """The responses of the first `limit` questions, of all without a limit, before jobs share them."""
    kept: set[str] = set()
    for response in iter_responses(config.input):
        if config.limit is not None and len(kept) < config.limit:
            kept.add(response.question_id)
        if config.limit is None or response.question_id in kept:
            yield response


def _refuse_wider_run(config: ScoringConfig) -> None:
    """Raise ValueError where more questions have been scored, or begun: the manifest would count fewer than stand there."""
    for path in manifests_of(config.output) if config.limit is not None else ():
        other = read_manifest(path, REMEDY).get("run", {}).get("limit")
        if other is None or other > config.limit:
            given, remedy = ("without it", "leave it out") if other is None else (f"with --limit {other}", f"give {other}")
            raise ValueError(
                f"--limit {config.limit}: {path} is of a run {given}, which scores more; {remedy} as well, or name another --output"
            )


def _merge(max_step_length: int | None, response: Response, encoder: StepEncoder) -> Response:
    if max_step_length is None:
        return response
    text = join_steps(response.steps)
    steps = split_steps(text, max_step_length, lambda part: token_counts(encoder.tokenizer, [part])[0])
    return dataclasses.replace(response, steps=steps)
