"""The engine behind an address: requests in, samples out, from a server of the OpenAI protocol (vLLM, SGLang and others)."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from prm.records import clean_text
from prm.sampling.base import EngineConfig, FinishReason, SampleRequest, SampleResult, SamplingConfig
from prm.sampling.http_client import FailedAttempt, HTTPClient, ServerRequest

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "content_filter": "stop", "length": "length"}


class ServerEngine:
    """Keeps `max_num_seqs` requests in flight."""

    def __init__(self, config: EngineConfig):
        assert config.base_url is not None, "EngineConfig.check() asks for it"
        self.model = config.model
        self.client = HTTPClient(config, config.base_url, config.max_num_seqs)

    def generate(self, requests: Iterable[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        """Yield results in the order of finishing. Raises EngineError for a request that fails for good."""
        yield from self.client.ask_all(server_request(request, sampling, self.model) for request in requests)

    def close(self) -> None:
        self.client.close()


def server_request(request: SampleRequest, sampling: SamplingConfig, model: str) -> ServerRequest:
    """A chat where the request holds messages, else a completion of its token ids."""
    is_chat = request.messages is not None
    prompt = {"messages": request.messages} if is_chat else {"prompt": request.prompt_token_ids}
    draw = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
    path = "/chat/completions" if is_chat else "/completions"
    body = {"model": model, **prompt, **draw, "seed": request.seed}
    return ServerRequest(f"request {request.key!r}", path, body, partial(read_result, request.key))


def read_result(key: Any, content: bytes) -> SampleResult:
    """The sample in an answer's body. Raises FailedAttempt for half a body, no choice, or what else is not the protocol."""
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        num_tokens = int(answer["usage"]["completion_tokens"])
        # A chat without any content (cut off while the model was still thinking) is an empty text.
        return SampleResult(key, clean_text(text or ""), FINISH_REASONS[choice["finish_reason"]], num_tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise FailedAttempt(f"not an answer of the OpenAI protocol ({error!r:.200}): {content[:200]!r}") from error
