"""The engine behind an address: requests in, samples out, from a server of the OpenAI protocol (vLLM, SGLang and others).

A server may hang, drop connections, answer 500 or send half an answer. Each of these is tried again after a pause that doubles, up
to `max_request_retries` times a request; what no retry can mend (an unknown model, a prompt that is too long) fails at once.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import httpx2

from prm.records import clean_text
from prm.sampling.base import EngineConfig, EngineError, FinishReason, SampleRequest, SampleResult, SamplingConfig

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
WARNING_SECONDS = 10.0
RETRIED_STATUSES = {408, 409, 425, 429}
"""Beside all from 500 on."""
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "content_filter": "stop", "length": "length"}


class _Failure(Exception):
    """An attempt that is worth repeating, after the pause that the server asks for, if it does."""

    def __init__(self, message: str, pause_seconds: float = 0.0):
        super().__init__(message)
        self.pause_seconds = pause_seconds


class ServerEngine:
    """Keeps `max_num_seqs` requests in flight. They travel while the caller waits for the next result, in this thread."""

    def __init__(self, config: EngineConfig):
        assert config.base_url is not None, "EngineConfig.check() asks for it"
        self.config = config
        headers = {} if config.api_key_env is None else {"Authorization": f"Bearer {os.environ[config.api_key_env]}"}
        # The client's own time limits start anew with every byte; `_ask` limits the whole request.
        limits = httpx2.Limits(max_connections=config.max_num_seqs)
        self.client = httpx2.AsyncClient(base_url=config.base_url, headers=headers, timeout=None, limits=limits)
        self.loop = asyncio.new_event_loop()
        self.running: set[asyncio.Task[SampleResult]] = set()
        self.last_warning = float("-inf")

    def generate(self, requests: Iterable[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        """Yield results in the order of finishing. Raises EngineError for a request that fails for good."""
        remaining = iter(requests)
        try:
            while True:
                for request in islice(remaining, self.config.max_num_seqs - len(self.running)):
                    self.running.add(self.loop.create_task(self._draw(request, sampling)))
                if not self.running:
                    return
                waiting = asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
                finished, self.running = self.loop.run_until_complete(waiting)
                # What arrived together with a failure is kept: it was paid for.
                for task in sorted(finished, key=lambda task: task.exception() is not None):
                    yield task.result()
        finally:
            self._cancel()

    def close(self) -> None:
        self._cancel()
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()

    def _cancel(self) -> None:
        running, self.running = self.running, set()
        for task in running:
            task.cancel()
        if running:
            self.loop.run_until_complete(asyncio.gather(*running, return_exceptions=True))

    async def _draw(self, request: SampleRequest, sampling: SamplingConfig) -> SampleResult:
        pause, failure = FIRST_PAUSE_SECONDS, ""
        for attempt in range(self.config.max_request_retries + 1):
            if attempt:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            try:
                return await self._ask(request, sampling)
            except _Failure as error:
                failure, pause = str(error), min(max(pause, error.pause_seconds), LONGEST_PAUSE_SECONDS)
                self._warn(failure)
        raise EngineError(
            f"{self.config.base_url}: request {request.key!r} failed {self.config.max_request_retries + 1} times, "
            f"the last time with: {failure}. Finished samples are kept; the same command resumes"
        )

    async def _ask(self, request: SampleRequest, sampling: SamplingConfig) -> SampleResult:
        """One attempt. Raises _Failure for one that may be repeated, EngineError for a refusal."""
        path, body = body_of(request, sampling, self.config.model)
        limit = self.config.request_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                response = await self.client.post(path, json=body)
        except TimeoutError as error:
            raise _Failure(f"no answer within {limit:g} s; raise --request_timeout_seconds if the server is only slow") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Failure(f"{type(error).__name__}: {error}") from error
        status, text = response.status_code, f"status {response.status_code}: {response.text[:500]}"
        if status >= 500 or status in RETRIED_STATUSES:
            raise _Failure(text, _seconds(response.headers.get("Retry-After")))
        if status != 200:
            raise EngineError(f"{self.config.base_url}{path} refuses request {request.key!r} with {text}")
        return read_result(request.key, response.content)

    def _warn(self, failure: str) -> None:
        if time.monotonic() - self.last_warning > WARNING_SECONDS:
            logger.warning("%s: %s; trying again", self.config.base_url, failure)
            self.last_warning = time.monotonic()


def body_of(request: SampleRequest, sampling: SamplingConfig, model: str) -> tuple[str, dict[str, Any]]:
    """Path and JSON body: a chat where the request holds messages, else a completion of its token ids."""
    is_chat = request.messages is not None
    prompt = {"messages": request.messages} if is_chat else {"prompt": request.prompt_token_ids}
    draw = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return "/chat/completions" if is_chat else "/completions", {"model": model, **prompt, **draw, "seed": request.seed}


def read_result(key: Any, content: bytes) -> SampleResult:
    """The sample in an answer's body. Raises _Failure for half a body, no choice, or anything else that is not the protocol."""
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        num_tokens = int(answer["usage"]["completion_tokens"])
        # A chat without any content (cut off while the model was still thinking) is an empty text.
        return SampleResult(key, clean_text(text or ""), FINISH_REASONS[choice["finish_reason"]], num_tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Failure(f"not an answer of the OpenAI protocol ({error!r:.200}): {content[:200]!r}") from error


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header in seconds; one that gives a date, or nonsense, asks for nothing."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
