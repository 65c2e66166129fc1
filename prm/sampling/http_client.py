"""Requests to a server in, what was read from its answers out: several in flight at once, failures that may pass tried again.

A server may hang, drop connections, answer 500 or send half an answer. Each of these is tried again after a pause that doubles, up
to `max_request_retries` times a request; what no retry can mend (an unknown model, a prompt that is too long) fails at once.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import httpx2

from prm.sampling.base import EngineError, ServerConfig

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
WARNING_SECONDS = 10.0
"""Shortest time between two warnings about failed attempts."""
RETRIED_STATUSES = {408, 409, 425, 429}
"""Status codes that are tried again, beside all from 500 up."""


class FailedAttempt(Exception):
    """An attempt that is worth repeating, after the pause that the server asks for, if it does."""

    def __init__(self, message: str, pause_seconds: float = 0.0):
        super().__init__(message)
        self.pause_seconds = pause_seconds


class ServerRequest(NamedTuple):
    """A POST of `body`, or a GET without one."""

    name: str
    """What errors call it."""
    path: str
    body: dict[str, Any] | None
    read: Callable[[bytes], Any]
    """Makes the result of an answer's content; raises FailedAttempt for one that is worth asking for again."""
    max_retries: int | None = None
    """None: as many as the options say."""


class HTTPClient:
    """Keeps `max_in_flight` requests in flight. They make progress in this thread, while the caller waits for the next result."""

    def __init__(self, config: ServerConfig, base_url: str, max_in_flight: int):
        """`base_url` stands before every path; `config.check_server` has found the API key."""
        self.config, self.base_url, self.max_in_flight = config, base_url, max_in_flight
        headers = {} if config.api_key_env is None else {"Authorization": f"Bearer {os.environ[config.api_key_env]}"}
        # The client's own time limits start anew with every byte; `_attempt` limits the whole request.
        limits = httpx2.Limits(max_connections=max_in_flight)
        self.client = httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=None, limits=limits)
        self.loop = asyncio.new_event_loop()
        self.running: set[asyncio.Task[Any]] = set()
        self.last_warning = float("-inf")

    def ask_all(self, requests: Iterable[ServerRequest]) -> Iterator[Any]:
        """Yield results in the order of finishing. Raises EngineError for a request that fails for good, and what `read` raises."""
        remaining = iter(requests)
        try:
            while True:
                for request in islice(remaining, self.max_in_flight - len(self.running)):
                    self.running.add(self.loop.create_task(self.ask(request)))
                if not self.running:
                    return
                waiting = asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
                finished, self.running = self.loop.run_until_complete(waiting)
                # Failures last: results that arrived together with one are kept, as they were paid for.
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

    async def ask(self, request: ServerRequest) -> Any:
        """The result of one request, after as many attempts as it takes. Raises as `ask_all` does."""
        pause, failure = FIRST_PAUSE_SECONDS, ""
        max_retries = self.config.max_request_retries if request.max_retries is None else request.max_retries
        for attempt in range(max_retries + 1):
            if attempt:
                self._warn(failure)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            try:
                return await self._attempt(request)
            except FailedAttempt as error:
                failure, pause = str(error), min(max(pause, error.pause_seconds), LONGEST_PAUSE_SECONDS)
        how_often = f"{max_retries + 1} times, the last time with" if max_retries else "with"
        raise EngineError(
            f"{self.base_url}: {request.name} failed {how_often}: {failure}. What is finished is kept; the same command resumes"
        )

    async def _attempt(self, request: ServerRequest) -> Any:
        """One attempt. Raises FailedAttempt for one that may be repeated, EngineError for a refusal."""
        limit = self.config.request_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                response = await self.client.request("GET" if request.body is None else "POST", request.path, json=request.body)
        except TimeoutError as error:
            raise FailedAttempt(
                f"no answer within {limit:g} s; raise --request_timeout_seconds if the server is only slow"
            ) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise FailedAttempt(f"{type(error).__name__}: {error}") from error
        status, text = response.status_code, f"status {response.status_code}: {response.text[:500]}"
        if status >= 500 or status in RETRIED_STATUSES:
            raise FailedAttempt(text, retry_after(response.headers.get("Retry-After")))
        if status != 200:
            raise EngineError(f"{self.base_url}{request.path} refuses {request.name} with {text}")
        return request.read(response.content)

    def _warn(self, failure: str) -> None:
        if time.monotonic() - self.last_warning > WARNING_SECONDS:
            logger.warning("%s: %s; trying again", self.base_url, failure)
            self.last_warning = time.monotonic()


def retry_after(header: str | None) -> float:
    """A Retry-After header in seconds; one that gives a date, or nonsense, asks for nothing."""
    return float(header) if header is not None and header.isdecimal() else 0.0
