"""The vLLM scoring engine: encoded responses in, step scores out, from a pooling model that runs in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prm.sampling.base import EngineError
from prm.sampling.processes import PipedProcess, num_cores, visible_gpus, vllm_environment
from prm.scoring.exported import check_encoded, pooling_task, read_config, scores_of_logits, served_dtype, served_length
from prm.scoring.vllm_worker import Job, Outputs, PoolingSettings
from prm.steps import EncodedResponse, StepEncoder

WORKER = "from prm.scoring.vllm_worker import main; main()"
HANG_SECONDS = 600.0
"""A loaded worker that finishes no forward pass for this long counts as hung."""


class VLLMScoringEngine(PipedProcess):
    """A `ScoringEngine`. The worker starts with the first responses and lives until `close`, or as long as this process."""

    def __init__(
        self,
        directory: str | Path,
        encoder: StepEncoder,
        dtype: str = "auto",
        is_eager: bool | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
    ):
        """Check the folder, its precision and the GPUs; nothing is loaded yet.

        `is_eager`: whether layers run uncompiled; None: on a CPU alone. Raises FileNotFoundError for a folder without config.json,
        ValueError for one that vLLM cannot serve, and for more GPUs than there are.
        """
        self.devices = visible_gpus()[:tensor_parallel_size]
        if tensor_parallel_size > max(len(self.devices), 1):
            raise ValueError(f"--tensor_parallel_size {tensor_parallel_size} needs as many GPUs, {len(self.devices)} are visible")
        config = read_config(directory)
        self.encoder = encoder
        self.vocab_size = config["vocab_size"]
        self.max_length = served_length(config, encoder)
        task = pooling_task(config, directory)
        self.settings = PoolingSettings(
            str(directory),
            served_dtype(dtype, config),
            task,
            self.max_length,
            is_eager,
            gpu_memory_utilization,
            tensor_parallel_size,
        )
        self.is_running = False
        self.computed_tokens = 0

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """Scores in order. Raises ValueError for ids that vLLM would refuse, EngineError when the worker fails."""
        check_encoded(encoded, self.max_length, self.vocab_size)
        if not encoded:
            return []
        if not self.is_running:
            self._start()
        logits = self._pool([Job(number, r.input_ids, r.step_ends) for number, r in enumerate(encoded)])
        self.computed_tokens += sum(len(response.input_ids) for response in encoded)
        return [scores_of_logits(logits[number], self.encoder) for number in range(len(encoded))]

    def _start(self) -> None:
        self.start_process(WORKER, vllm_environment(self.devices, num_cores()))
        self.is_running = True
        with self._or_end_worker("could not start"):
            self.connection.send(self.settings)
            self._receive("ready", None)

    def _pool(self, jobs: list[Job]) -> dict[int, Any]:
        """Logits [positions, labels] by the number of the job."""
        logits: dict[int, Any] = {}
        with self._or_end_worker("died"):
            self.connection.send(jobs)
            while len(logits) < len(jobs):
                outputs: list[Outputs] = self._receive("outputs", HANG_SECONDS)
                logits.update((number, rows) for number, rows in outputs)
        return logits

    def _receive(self, kind: str, timeout_seconds: float | None) -> Any:
        """Content of the next message. Raises TimeoutError where none comes, EOFError or ConnectionError of a dead worker."""
        if not self.connection.poll(timeout_seconds):
            raise TimeoutError(f"made no forward pass for {timeout_seconds} s")
        received, content = self.connection.recv()
        assert received == kind, received
        return content

    @contextmanager
    def _or_end_worker(self, how_it_died: str) -> Iterator[None]:
        """End the worker when an exchange with it breaks off, for whatever reason: late answers would be taken for the next ones.

        Raises EngineError, with the end of the log, for a worker that died or is silent.
        """
        try:
            yield
        except BaseException as error:
            self.kill()
            self.is_running = False
            log = self.log_tail()
            if not isinstance(error, OSError | EOFError):
                raise
            reason = error if isinstance(error, TimeoutError) else how_it_died
            raise EngineError(f"vLLM with {self.settings.model} {reason}; the end of its log:\n{log}") from error

    def close(self) -> None:
        if self.is_running:
            super().close()
        self.is_running = False

    def __enter__(self) -> "VLLMScoringEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
