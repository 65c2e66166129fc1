"""The vLLM scoring engine: encoded responses in, step scores out, from a pooling model that runs in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prm.files import read_json
from prm.models.files import CONFIG_FILE
from prm.models.step_scores import ACTIVATIONS
from prm.sampling.base import EngineError
from prm.sampling.processes import PipedProcess, num_cores, visible_gpus, vllm_environment
from prm.scoring.engines import resolve_device, resolve_dtype
from prm.scoring.vllm_worker import Job, Outputs, PoolingSettings
from prm.steps import EncodedResponse, StepEncoder

WORKER = "from prm.scoring.vllm_worker import main; main()"
HANG_SECONDS = 600.0
"""A loaded worker that finishes no forward pass for this long counts as hung."""
CLASSIFIERS = ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel", "ForTokenClassification")
"""Ends of the architectures whose outputs vLLM calls token_classify."""
MODULES = "modules.json"
"""Layers behind the decoder in the format of sentence-transformers; a folder whose architecture is a bare decoder needs it."""


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
        for index, response in enumerate(encoded):
            self._check(index, response)
        if not encoded:
            return []
        if not self.is_running:
            self._start()
        logits = self._pool([Job(number, r.input_ids, r.step_ends) for number, r in enumerate(encoded)])
        self.computed_tokens += sum(len(response.input_ids) for response in encoded)
        activation = ACTIVATIONS[self.encoder.activation]
        return [activation(torch.from_numpy(logits[number]), self.encoder.good_class).tolist() for number in range(len(encoded))]

    def _check(self, index: int, response: EncodedResponse) -> None:
        """One prompt that vLLM refuses would end the call for all."""
        length = len(response.input_ids)
        if not 0 < length <= self.settings.max_model_len:
            raise ValueError(f"response {index} has {length} tokens, the served model takes 1 to {self.settings.max_model_len}")
        if not all(0 <= token < self.vocab_size for token in response.input_ids):
            raise ValueError(
                f"response {index} holds token {max(response.input_ids)}, the vocabulary ends at {self.vocab_size - 1}"
            )
        if not all(0 <= end < length for end in response.step_ends):
            raise ValueError(f"response {index} has step ends {response.step_ends} outside of its {length} tokens")

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
        """End the worker when an exchange with it breaks off, for whatever reason: late answers would pass for the next call's.

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


def read_config(directory: str | Path) -> dict[str, Any]:
    """config.json of a folder. Raises FileNotFoundError without one."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; vLLM scores a folder that scripts/export_vllm.py or scripts/train.py wrote")
    return read_json(path, "copy the checkpoint again")


def pooling_task(config: dict[str, Any], directory: str | Path) -> str:
    """vLLM's name for the outputs of a folder's head. Raises ValueError for a folder that it cannot serve as it is."""
    architecture = (config.get("architectures") or ["no architecture"])[0]
    if architecture.endswith(CLASSIFIERS):
        return "token_classify"
    if architecture.endswith("Model") and (Path(directory) / MODULES).is_file():
        return "token_embed"
    raise ValueError(
        f"{directory}: vLLM knows no pooling model {architecture}; write one with scripts/export_vllm.py --model {directory} "
        "--output FOLDER and score with that folder"
    )


def served_dtype(dtype: str, config: dict[str, Any]) -> str:
    """The precision that the torch engine would have. vLLM's own `auto` takes half precision for float32 weights."""
    dtype = resolve_dtype(dtype, resolve_device("auto"))
    return config.get("dtype", "float32") if dtype == "auto" else dtype


def served_length(config: dict[str, Any], encoder: StepEncoder) -> int:
    """The contract's longest response, as far as the model has positions for it."""
    return min(encoder.max_length, config.get("max_position_embeddings", encoder.max_length))
