"""A server of the OpenAI protocol, or of vLLM's pooling, on this machine: what it answers, and how it fails, is up to the test."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from prm.models import load_model
from prm.models.packing import pack_responses
from prm.steps import EncodedResponse

Answer = str | dict | bytes | int
"""A text, a whole JSON body, raw bytes, a status, or one of FAULTS."""
FAULTS = ("<hang>", "<reset>", "<truncate>", "<drip>")


class FakeServer:
    """`answer(body)` decides about every POST, `models` answers every GET. `bodies` and `paths` keep what came in, `most_at_once`
    how many overlapped."""

    def __init__(self, answer: Callable[[dict], Answer], headers: dict[str, str] | None = None, models: Answer = 404):
        self.answer, self.headers, self.models = answer, headers or {}, models
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self.in_flight = self.most_at_once = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    server.paths.append(self.path)
                    server.authorizations.append(self.headers.get("Authorization"))
                    server.in_flight += 1
                    server.most_at_once = max(server.most_at_once, server.in_flight)
                answer = server.answer(body)
                with server.lock:
                    server.in_flight -= 1
                self.send(answer, "messages" in body)

            def do_GET(self) -> None:
                self.send(server.models)

            def send(self, answer: Answer, is_chat: bool = False) -> None:
                if answer == "<hang>":
                    server.closing.wait(30)
                elif answer == "<reset>":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.connection.close()
                    self.close_connection = True
                elif answer == "<truncate>":
                    self.reply(200, b'{"choices": [', length=500)
                    self.close_connection = True
                elif answer == "<drip>":
                    self.reply(200, b"{", length=500)
                    while not server.closing.wait(0.02):
                        self.wfile.write(b" ")
                elif isinstance(answer, int):
                    self.reply(answer, b'{"error": {"message": "as the test wants it"}}')
                elif isinstance(answer, bytes):
                    self.reply(200, answer)
                else:
                    self.reply(200, json.dumps(answer if isinstance(answer, dict) else completion(answer, is_chat)).encode())

            def reply(self, status: int, content: bytes, length: int | None = None) -> None:
                self.send_response(status)
                for name, value in {**server.headers, "Content-Length": str(length or len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                # The client gave up, or this side closed on purpose.
                with contextlib.suppress(ConnectionError, ValueError):
                    super().handle()

        return Handler


def completion(text: str, is_chat: bool = True, finish_reason: str = "stop", num_tokens: int = 3) -> dict:
    """The body of an answer, as vLLM writes it."""
    content = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish_reason, **content}], "usage": {"completion_tokens": num_tokens}}


def models(max_model_len: int = 2048) -> dict:
    """The body of an answer of /v1/models, as vLLM writes it."""
    return {"object": "list", "data": [{"id": "outputs/served", "root": "outputs/served", "max_model_len": max_model_len}]}


def pooling(outputs: Iterable[list]) -> dict:
    """The body of an answer of /pooling, as vLLM writes it in base64."""
    encoded = [base64.b64encode(np.array(rows, dtype="<f4").tobytes()).decode() for rows in outputs]
    items = [{"index": index, "object": "pooling", "data": data} for index, data in enumerate(encoded)]
    return {"id": "pool-1", "object": "list", "created": 0, "model": "outputs/served", "data": items, "usage": {"prompt_tokens": 3}}


class PooledModel:
    """What a server answers that pools a reward model: its outputs at every token, or at `separator_id` alone."""

    def __init__(self, folder: str, separator_id: int | None = None):
        self.model, _ = load_model(folder)
        self.separator_id = separator_id

    def __call__(self, body: dict) -> dict:
        assert body.keys() == {"input", "use_activation", "encoding_format", "embed_dtype", "endianness"}
        assert not body["use_activation"]
        return pooling(self.rows(token_ids) for token_ids in body["input"])

    @torch.no_grad()
    def rows(self, token_ids: list[int]) -> list[list[float]]:
        places = [place for place, token in enumerate(token_ids) if self.separator_id in (None, token)]
        return self.model(**self.model.inputs(pack_responses([EncodedResponse(token_ids, places, 0)]))).tolist()


def after(seconds: float, answer: Answer) -> Answer:
    time.sleep(seconds)
    return answer
