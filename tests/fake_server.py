"""A server of the OpenAI protocol on this machine: what it answers, and how it fails, is up to the test."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | dict | bytes | int
"""A text, a whole JSON body, raw bytes, a status, or one of FAULTS."""
FAULTS = ("<hang>", "<reset>", "<truncate>", "<drip>")


class FakeServer:
    """`answer(body)` decides about every request. `bodies` and `paths` keep what came in, `most_at_once` how many overlapped."""

    def __init__(self, answer: Callable[[dict], Answer], headers: dict[str, str] | None = None):
        self.answer, self.headers = answer, headers or {}
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

            def send(self, answer: Answer, is_chat: bool) -> None:
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


def after(seconds: float, answer: Answer) -> Answer:
    time.sleep(seconds)
    return answer
