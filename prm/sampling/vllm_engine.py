"""One vLLM replica in a process of its own: chunks of requests from a pipe in, finished samples back.

`prm.sampling.replicas` starts `main` in a new interpreter, with the pipe's descriptor as argument, and speaks this protocol:

    parent -> replica   EngineConfig, once; then a Chunk for every "want", an empty one when there is nothing more
    replica -> parent   ("ready", None) once loaded; ("want", number of unfinished); ("results", [Finished])

The replica waits for the answer to a "want" between two steps. Where vLLM runs in this one process, as it does on a CPU, the
batches, and with them the samples, therefore do not depend on timing.
"Results" are sent about every `BEAT_SECONDS` while it steps, even empty ones: a replica that is silent for long hangs.
"""

import contextlib
import gc
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from prm.sampling.base import EngineConfig, SamplingConfig, stop_token_ids
from prm.sampling.processes import exit_with_parent
from prm.steps import load_tokenizer

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput

BEAT_SECONDS = 0.5
CPU_BLOCK_SIZE = 32
"""Tokens of a block of keys and values on a CPU."""
CPU_CACHE_LIMIT = 4 << 30
"""Bytes of keys and values on a CPU, at most, unless one response needs more."""


class Job(NamedTuple):
    """A request as it travels: its number, its prompt, its seed."""

    number: int
    prompt_token_ids: list[int]
    seed: int


class Chunk(NamedTuple):
    """Requests that are sent together."""

    sampling: SamplingConfig
    jobs: list[Job]


class Finished(NamedTuple):
    """The sample of a job, by its number."""

    number: int
    text: str
    finish_reason: str
    num_tokens: int


def start_engine(config: EngineConfig) -> "LLMEngine":
    """Load the model into vLLM. Raises whatever vLLM raises."""
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform

    # vLLM collects garbage several times while it starts; half a second each over the modules it has imported.
    gc.freeze()
    settings = cpu_settings(config) if current_platform.is_cpu() else {}
    args = EngineArgs(
        model=config.model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **settings,
    )
    return LLMEngine.from_engine_args(args)


def cpu_settings(config: EngineConfig) -> dict[str, Any]:
    """No compilation, small blocks, and a cache no larger than needed (touching a GiB of it takes seconds)."""
    # A seeded request whose prompt is cut into chunks crashes vLLM 0.32: a CPU generator has no offset to set back.
    settings: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": CPU_BLOCK_SIZE}
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        settings["kv_cache_memory_bytes"] = cpu_cache_bytes(config)
    return settings


def cpu_cache_bytes(config: EngineConfig) -> int:
    """Bytes of keys and values for `max_num_seqs` responses of full length, within `CPU_CACHE_LIMIT`."""
    from transformers import AutoConfig

    model = AutoConfig.from_pretrained(config.model).get_text_config()
    head_dim = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    bytes_per_value = 4 if config.dtype == "float32" else 2
    bytes_per_block = 2 * model.num_hidden_layers * model.num_key_value_heads * head_dim * bytes_per_value * CPU_BLOCK_SIZE
    blocks_per_response = -(-(config.max_model_len or model.max_position_embeddings) // CPU_BLOCK_SIZE)
    wanted = config.max_num_seqs * blocks_per_response * bytes_per_block
    one_response = (blocks_per_response + 1) * bytes_per_block
    return max(min(wanted, CPU_CACHE_LIMIT), one_response)


class Sampler:
    """A vLLM engine that is fed in chunks and stepped by hand."""

    def __init__(self, config: EngineConfig):
        self.tokenizer = load_tokenizer(config.model)
        self.stop_ids = stop_token_ids(config, self.tokenizer)
        self.engine = start_engine(config)
        self.context = self.engine.vllm_config.model_config.max_model_len

    @property
    def num_unfinished(self) -> int:
        return self.engine.get_num_unfinished_requests()

    def add(self, chunk: Chunk) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for number, prompt_token_ids, seed in chunk.jobs:
            params = SamplingParams(
                max_tokens=min(chunk.sampling.max_tokens, self.context - len(prompt_token_ids)),
                temperature=chunk.sampling.temperature,
                top_p=chunk.sampling.top_p,
                seed=seed,
                stop_token_ids=self.stop_ids,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self.engine.add_request(str(number), {"prompt_token_ids": prompt_token_ids}, params)

    def step(self) -> list[Finished]:
        """One token for every running request; those that ended with it."""
        return [self._finished(output) for output in self.engine.step() if output.finished] if self.num_unfinished else []

    def _finished(self, output: "RequestOutput") -> Finished:
        (sample,) = output.outputs
        text = self.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        return Finished(int(output.request_id), text, sample.finish_reason, len(sample.token_ids))


def serve(sampler: Sampler, connection: Connection, max_num_seqs: int) -> None:
    """Step until the parent hangs up (EOFError), asking for more whenever fewer than two batches are left."""
    is_drained, finished, last_beat = False, [], time.monotonic()
    while True:
        unfinished = sampler.num_unfinished
        if unfinished == 0 or time.monotonic() - last_beat > BEAT_SECONDS:
            connection.send(("results", finished))
            finished, last_beat = [], time.monotonic()
        if unfinished == 0 or (not is_drained and unfinished < 2 * max_num_seqs):
            connection.send(("want", unfinished))
            chunk: Chunk = connection.recv()
            sampler.add(chunk)
            is_drained = not chunk.jobs
        finished += sampler.step()


def main() -> None:
    exit_with_parent()
    connection = Connection(int(sys.argv[1]))
    config: EngineConfig = connection.recv()
    sampler = Sampler(config)
    connection.send(("ready", None))
    # The parent hangs up when nothing is wanted any more.
    with contextlib.suppress(EOFError, BrokenPipeError):
        serve(sampler, connection, config.max_num_seqs)
