"""The vLLM engine seen from outside: requests in, samples out, from replicas in processes that may die and are then replaced.

vLLM is imported only there: this process stays small, keeps no thread or child of it, and outlives a replica that crashes or hangs.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import wait

from prm.sampling.base import EngineConfig, EngineError, SampleRequest, SampleResult, SamplingConfig
from prm.sampling.processes import PipedProcess, num_cores, visible_gpus, vllm_environment
from prm.sampling.vllm_engine import Chunk, Finished, Job

logger = logging.getLogger(__name__)

REPLICA = "from prm.sampling.vllm_engine import main; main()"
CPU_REPLICAS = 8
"""Most replicas on a CPU where the user names no number."""
DEAL_SIZE = 32
"""Neighboring requests that go to one replica."""


class VllmEngine:
    """Deals requests to replicas and collects what they finish; started at the first `generate`, alive until `close`."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.devices = visible_gpus()
        self.num_replicas = num_replicas(config, self.devices)
        self.replicas: list[Replica] = []

    def generate(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        """Yield results as replicas finish them. Raises EngineError when a replica cannot start or dies too often."""
        count = min(self.num_replicas, -(-len(requests) // self.config.max_num_seqs))
        while len(self.replicas) < count:
            self.replicas.append(Replica(self.config, self._environment(len(self.replicas))))
        for index, replica in enumerate(self.replicas[:count]):
            replica.assign(deal(requests, index, count), sampling)
        while busy := [replica for replica in self.replicas[:count] if replica.pending]:
            ready = wait([replica.connection for replica in busy], timeout=1.0)
            for replica in busy:
                yield from replica.receive() if replica.connection in ready else replica.check()

    def _environment(self, index: int) -> dict[str, str]:
        size = self.config.tensor_parallel_size
        return vllm_environment(self.devices[index * size : (index + 1) * size], max(1, num_cores() // self.num_replicas))

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()
        self.replicas = []


class Replica(PipedProcess):
    """One vLLM process and the requests that it owes.

    `pending` holds those that were sent and the chunk that is sent next; those behind them in `coming` are not made yet.
    """

    def __init__(self, config: EngineConfig, environment: dict[str, str]):
        self.config, self.environment = config, environment
        self.pending: dict[int, SampleRequest] = {}
        self.coming: Iterator[SampleRequest] = iter(())
        self.numbers = itertools.count()
        self.num_restarts = 0
        self._start()

    def _start(self) -> None:
        self.start_process(REPLICA, self.environment)
        self.connection.send(self.config)
        self.is_ready, self.is_waiting, self.last_heard = False, False, time.monotonic()
        self.unsent = deque(self.pending)

    def assign(self, requests: Iterable[SampleRequest], sampling: SamplingConfig) -> None:
        self.sampling, self.pending, self.coming = sampling, {}, iter(requests)
        self.unsent = deque()
        self._prepare_chunk()
        self.last_heard = time.monotonic()
        if self.is_waiting and self.unsent:
            self._send_chunk()

    def receive(self) -> Iterator[SampleResult]:
        """Handle one message; a closed pipe is a dead replica."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._restart("died")
            return
        self.last_heard = time.monotonic()
        if kind == "results":
            yield from self._results(content)
        elif kind == "want":
            self.is_waiting = not self.unsent and content == 0
            if not self.is_waiting:
                self._send_chunk()
        else:
            self.is_ready = True

    def check(self) -> Iterator[SampleResult]:
        """Replace a replica that has been silent for too long; loading a model may take any time."""
        silence = time.monotonic() - self.last_heard
        if self.is_ready and silence > self.config.hang_timeout_seconds:
            self._restart(f"made no step for {silence:.0f} s")
        return iter(())

    def _results(self, finished: list[Finished]) -> Iterator[SampleResult]:
        for number, text, finish_reason, num_tokens in finished:
            # A number that is not pending belongs to a `generate` that its caller left early.
            if request := self.pending.pop(number, None):
                yield SampleResult(request.key, text, finish_reason, num_tokens)

    def _prepare_chunk(self) -> None:
        """Have the next chunk ready: `pending` is empty only when nothing more comes."""
        for request in itertools.islice(self.coming, max(0, 2 * self.config.max_num_seqs - len(self.unsent))):
            number = next(self.numbers)
            self.pending[number] = request
            self.unsent.append(number)

    def _send_chunk(self) -> None:
        numbers = [self.unsent.popleft() for _ in range(min(len(self.unsent), 2 * self.config.max_num_seqs))]
        jobs = [Job(number, self.pending[number].prompt_token_ids, self.pending[number].seed) for number in numbers]
        self.is_waiting = False
        self._prepare_chunk()
        try:
            self.connection.send(Chunk(self.sampling, jobs))
        except (BrokenPipeError, ConnectionResetError):
            self._restart("died")

    def _restart(self, reason: str) -> None:
        """Start again with what is unfinished. Raises EngineError if it never came up, or `max_restarts` times died."""
        self.kill()
        log = self.log_tail()
        if not self.is_ready and self.num_restarts == 0:
            raise EngineError(f"vLLM could not start; the end of its log:\n{log}")
        if self.num_restarts >= self.config.max_restarts:
            raise EngineError(
                f"a vLLM replica {reason}, after {self.num_restarts} restarts; finished samples are kept, the same command "
                f"resumes. The end of its log:\n{log}"
            )
        self.num_restarts += 1
        logger.warning("a vLLM replica %s; restart %d of %d", reason, self.num_restarts, self.config.max_restarts)
        self._start()


def deal(requests: Sequence[SampleRequest], index: int, count: int) -> Iterator[SampleRequest]:
    """The share of replica `index`: runs of requests, because a question's samples share a prefix cache."""
    for start in range(index * DEAL_SIZE, len(requests), count * DEAL_SIZE):
        yield from requests[start : start + DEAL_SIZE]


def num_replicas(config: EngineConfig, devices: list[str]) -> int:
    """Replicas to start. Raises ValueError when the machine has too few GPUs for them."""
    if not devices:
        return config.data_parallel_size or min(num_cores(), CPU_REPLICAS)
    wanted = config.tensor_parallel_size * (config.data_parallel_size or 1)
    if wanted > len(devices):
        raise ValueError(
            f"--tensor_parallel_size {config.tensor_parallel_size} times --data_parallel_size {config.data_parallel_size or 1} "
            f"needs {wanted} GPUs, {len(devices)} are visible; lower one of the two"
        )
    return config.data_parallel_size or len(devices) // config.tensor_parallel_size
