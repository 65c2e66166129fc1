"""vLLM pooling in a process of its own: prompts of token ids from a pipe in, the head's outputs at the asked positions back.

`prm.scoring.vllm_engine` starts `main` in a new interpreter, with the pipe's descriptor as argument, and speaks this protocol:

    parent -> worker    PoolingSettings, once; then lists of Job
    worker -> parent    ("ready", None) once loaded; after every forward pass ("outputs", [Outputs]) until all have come

Every token's output is pooled and the positions are taken here: vLLM's own choice by separator (STEP) drops a step without a word
when the token is not the one that it looks for, and knows nothing of recipes that read elsewhere.
"""

import contextlib
import gc
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from prm.sampling.base import EngineConfig
from prm.sampling.processes import exit_with_parent
from prm.sampling.vllm_engine import cpu_settings

if TYPE_CHECKING:
    from vllm import LLMEngine

BATCH_TOKENS = 16384
CPU_BATCH_TOKENS = 4096
"""Tokens of one forward pass, at most, unless the longest prompt has more. vLLM tries such a pass out while it starts."""
MAX_NUM_SEQS = 1024
"""Prompts of one forward pass, at most."""


class PoolingSettings(NamedTuple):
    """What to load: a folder, its precision, vLLM's name for what the head gives, and whether layers run uncompiled."""

    model: str
    dtype: str
    task: str
    max_model_len: int
    is_eager: bool | None
    """None: uncompiled on a CPU, where compilation takes longer than most runs, and compiled elsewhere."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that vLLM takes; it does not start where less is free."""
    tensor_parallel_size: int = 1
    """GPUs that hold a part of every weight."""


class Job(NamedTuple):
    """A response, by its number in the call, and the positions whose outputs are asked for."""

    number: int
    prompt_token_ids: list[int]
    positions: list[int]


class Outputs(NamedTuple):
    """What a job asked for."""

    number: int
    logits: Float32[np.ndarray, "positions labels"]


def start_engine(settings: PoolingSettings) -> "LLMEngine":
    """Load the model into vLLM. Raises whatever vLLM raises."""
    from vllm import EngineArgs, LLMEngine
    from vllm.config import PoolerConfig
    from vllm.platforms import current_platform

    gc.freeze()  # as in prm.sampling.vllm_engine
    batch_tokens = max(CPU_BATCH_TOKENS if current_platform.is_cpu() else BATCH_TOKENS, settings.max_model_len)
    options: dict[str, Any] = {"enable_chunked_prefill": False, "gpu_memory_utilization": settings.gpu_memory_utilization}
    if current_platform.is_cpu():
        # The cache need hold only the prompts of one pass; twice their tokens, as the last block of each may be nearly empty.
        cache = EngineConfig(model=settings.model, dtype=settings.dtype, max_model_len=2 * batch_tokens, max_num_seqs=1)
        options = cpu_settings(cache)
    if settings.is_eager is not None:
        options["enforce_eager"] = settings.is_eager
    args = EngineArgs(
        model=settings.model,
        runner="pooling",
        tensor_parallel_size=settings.tensor_parallel_size,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_batched_tokens=batch_tokens,
        max_num_seqs=MAX_NUM_SEQS,
        pooler_config=PoolerConfig(task=settings.task, tok_pooling_type="ALL"),
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **options,
    )
    return LLMEngine.from_engine_args(args)


def serve(engine: "LLMEngine", task: str, connection: Connection) -> None:
    """Answer lists of jobs until the parent hangs up (EOFError)."""
    from vllm import PoolingParams

    while True:
        jobs: dict[str, Job] = {str(job.number): job for job in connection.recv()}
        for name, job in jobs.items():
            engine.add_request(name, {"prompt_token_ids": job.prompt_token_ids}, PoolingParams(task=task, use_activation=False))
        while engine.has_unfinished_requests():
            finished = [output for output in engine.step() if output.finished]
            connection.send(("outputs", [pick(jobs[output.request_id], output.outputs.data) for output in finished]))


def pick(job: Job, pooled: Any) -> Outputs:
    """The rows of [tokens, labels] at the job's positions."""
    assert len(pooled) == len(job.prompt_token_ids), (len(pooled), len(job.prompt_token_ids))
    return Outputs(job.number, pooled[job.positions].float().cpu().numpy())


def main() -> None:
    exit_with_parent()
    connection = Connection(int(sys.argv[1]))
    settings: PoolingSettings = connection.recv()
    engine = start_engine(settings)
    connection.send(("ready", None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        serve(engine, settings.task, connection)
