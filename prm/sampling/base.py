"""The interface of the engines: requests (token ids and a seed) in, sampled texts out, each as soon as it is finished."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw. `key` comes back with the result, e.g. (question_id, sample_index).

    vLLM and transformers read `prompt_token_ids`. A server reads `messages`, the turns of a chat, where they are given: then the
    token ids may be empty.
    """

    key: Any
    prompt_token_ids: list[int]
    seed: int
    messages: list[dict[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One drawn sample; `num_tokens` counts the generated tokens, the end-of-turn token included."""

    key: Any
    text: str
    finish_reason: FinishReason
    num_tokens: int


@dataclass
class SamplingConfig:
    """How each token is drawn; the defaults are the paper's (App. B.1)."""

    max_tokens: int = 4096
    """Longest response in tokens; one that reaches it is marked finish_reason "length"."""
    temperature: float = 1.0
    """Softmax temperature; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probability reaches this much."""

    def check(self) -> None:
        """Raise ValueError for values no engine can use."""
        if self.max_tokens < 1:
            raise ValueError(f"--max_tokens is {self.max_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"--temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top_p is {self.top_p}; it must lie in (0, 1]")


@dataclass(kw_only=True)
class ServerConfig:
    """Where a server is, and how long it is waited for."""

    base_url: str | None = None
    """Address of an OpenAI-compatible server, e.g. http://host:8000/v1 (server)."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's API key; default: no key is sent (server)."""
    request_timeout_seconds: float = 600.0
    """A request that the server has not answered in full after this long is sent again (server)."""
    max_request_retries: int = 8
    """How often a request is sent again after an error that may pass: eight times take about three minutes (server)."""

    def check_server(self, engine: str, example: str = "http://host:8000/v1") -> None:
        """Raise ValueError for server options where `engine` has none, an address that is none, and a key that is missing."""
        if not self.request_timeout_seconds > 0:
            raise ValueError(f"--request_timeout_seconds is {self.request_timeout_seconds}; it must be positive")
        if self.max_request_retries < 0:
            raise ValueError(f"--max_request_retries is {self.max_request_retries}; it must be 0 or more")
        if engine != "server":
            if given := next((f.name for f in fields(ServerConfig) if getattr(self, f.name) != f.default), None):
                raise ValueError(f"--{given} is for --engine server; this is --engine {engine}")
            return
        if not _is_address(self.base_url):
            raise ValueError(f"--engine server: --base_url is {self.base_url}; give an address such as {example}")
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "")
        if key == "":
            raise ValueError(f"--api_key_env {self.api_key_env}: no such environment variable, or an empty one; export it")
        if key and not (key.isascii() and key.isprintable()):
            raise ValueError(f"--api_key_env {self.api_key_env}: holds what no request can carry; export the key, letters of ASCII")


def _is_address(url: str | None) -> bool:
    try:
        parts = urlsplit(url or "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is no number
        return False


@dataclass
class EngineConfig(ServerConfig):
    """Which model generates, on what."""

    model: str = "Qwen/Qwen2.5-Math-1.5B-Instruct"
    """Folder or hub name of the policy, a causal LM with a chat template; of a server, the name it serves the model under."""
    engine: Literal["auto", "vllm", "transformers", "server"] = "auto"
    """auto takes vLLM where it is installed, else transformers; server sends requests to --base_url."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and cache; auto is the checkpoint's own, but vLLM runs a float32 checkpoint in bfloat16."""
    max_model_len: int | None = None
    """Longest prompt and response together, in tokens; default: the model's context, or what the longest prompt needs."""
    max_num_seqs: int = 256
    """Responses decoded at once by each replica; requests in flight at once to a server."""
    tensor_parallel_size: int = 1
    """GPUs that share one replica (vLLM)."""
    data_parallel_size: int | None = None
    """Replicas (vLLM); default: as many as the visible GPUs hold, on a CPU one single-threaded replica a core, at most 8."""
    gpu_memory_utilization: float = 0.9
    """Share of each GPU's memory that vLLM takes."""
    max_restarts: int = 3
    """How often a vLLM replica that died or hung is started again before the run gives up."""
    hang_timeout_seconds: float = 600.0
    """A started vLLM replica that makes no step for this long counts as hung."""

    def check(self) -> None:
        """Raise ValueError for values no engine can use."""
        for name in ("max_num_seqs", "tensor_parallel_size", "data_parallel_size", "max_model_len"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        self.check_server(self.engine)
        if self.engine == "server":
            self._check_left_to_server()
        if self.resolved_engine() == "transformers" and (self.tensor_parallel_size, self.data_parallel_size or 1) != (1, 1):
            raise ValueError("--tensor_parallel_size and --data_parallel_size need --engine vllm; transformers runs one replica")

    def _check_left_to_server(self) -> None:
        """Raise ValueError for what only the side that runs the model can decide."""
        defaults = {"dtype": "auto", "max_model_len": None, "tensor_parallel_size": 1, "data_parallel_size": None}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                raise ValueError(f"--{name} {getattr(self, name)}: the server decides that; set it where the server is started")

    def resolved_engine(self) -> Literal["vllm", "transformers", "server"]:
        """The engine that `auto` stands for. Raises ValueError when vLLM is asked for and missing."""
        is_installed = importlib.util.find_spec("vllm") is not None
        if self.engine == "vllm" and not is_installed:
            remedy = "pip install -e '.[cpu]' (or '.[gpu]'), or take --engine transformers"
            raise ValueError(f"--engine vllm: vLLM is not installed; {remedy}")
        if self.engine == "auto":
            return "vllm" if is_installed else "transformers"
        return self.engine


@runtime_checkable
class Engine(Protocol):
    """Draws samples. A request gives the same text each time, but for rounding, which depends on what shares its batch."""

    def generate(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        """Yield one result a request in the order of finishing. Prompts must be valid: the caller checks them."""
        ...

    def close(self) -> None: ...


class EngineError(RuntimeError):
    """An engine could not start, or died more often than `max_restarts` allows."""


def stop_token_ids(config: EngineConfig, tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Tokens that end a response: those of generation_config.json, where the model has one, and the tokenizer's end of sequence."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(config.model).eos_token_id
    except OSError:
        eos = None
    ids = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id}
    return sorted(token for token in ids if token is not None)


def make_engine(config: EngineConfig) -> Engine:
    """Start the engine that the config names; its user closes it (`contextlib.closing`)."""
    if config.engine == "server":
        from prm.sampling.server_engine import ServerEngine

        return ServerEngine(config)
    if config.resolved_engine() == "vllm":
        from prm.sampling.replicas import VllmEngine

        return VllmEngine(config)
    from prm.sampling.transformers_engine import TransformersEngine

    return TransformersEngine(config)
