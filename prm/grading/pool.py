"""Math-Verify in worker processes: pairs of answers in, their statuses out, whatever the answers do.

Math-Verify's own timeout is wall clock and looks like a wrong answer. Here each pair is compared on the main thread of a forked
worker, under limits of CPU time and address space, so that a label does not depend on how busy the machine is.
"""

import logging
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from prm.grading.answers import Pair, compare, read_answer

logger = logging.getLogger(__name__)

MEMORY_BYTES = 1 << 30
"""Address space that a worker may add to what it starts with."""
STACK_DEPTH = 1000
"""Python frames that parsing and comparing may nest; a deeper answer is `unparsable`, whatever the calling process allows."""
MAX_KNOWN = 1 << 16
"""Pairs whose status is remembered; samples of a question, which often agree, are graded close together."""
WALL_FACTOR = 20
"""Wall-clock seconds per second of timeout, plus one second, before the parent gives up on a worker that uses no CPU."""


class GradingPool:
    """Worker processes that compare answers; a worker that dies or hangs is replaced, and its pair gets a grade of its own."""

    def __init__(self, num_workers: int = 2, timeout_seconds: float = 2.0, memory_bytes: int = MEMORY_BYTES):
        read_answer("\\frac{1}{2}")  # grammar and patterns are built before the fork, once for all workers
        self._settings = timeout_seconds, memory_bytes
        self._wall_seconds = WALL_FACTOR * (timeout_seconds + 1)
        self._idle = [_Worker(*self._settings) for _ in range(num_workers)]
        self._busy: dict[Connection, _Worker] = {}
        self._known: dict[Pair, str] = {}

    def compare(self, pairs: Iterable[Pair]) -> dict[Pair, str]:
        """Status of every pair: a `Grade`, or `bad_gold` where the reference itself cannot be read. Each pair is compared once."""
        wanted = list(dict.fromkeys(pairs))
        todo = deque(pair for pair in wanted if pair not in self._known)
        while todo or self._busy:
            while todo and self._idle:
                worker = self._idle.pop()
                if not worker.process.is_alive():
                    worker = _Worker(*self._settings)
                worker.start(todo.popleft(), time.monotonic() + self._wall_seconds)
                self._busy[worker.connection] = worker
            next_deadline = min(worker.deadline for worker in self._busy.values())
            finished = wait(list(self._busy), timeout=max(0.0, next_deadline - time.monotonic()))
            late = [c for c, worker in self._busy.items() if worker.deadline <= time.monotonic() and c not in finished]
            for connection in [*finished, *late]:
                worker = self._busy.pop(connection)
                self._known[worker.pair] = worker.finish(is_late=connection in late)
                self._idle.append(worker)
        statuses = {pair: self._known[pair] for pair in wanted}
        if len(self._known) > MAX_KNOWN:
            self._known = {}
        return statuses

    def close(self) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            worker.kill()
        self._idle, self._busy = [], {}

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """One forked process and the pair that it works on."""

    pair: Pair
    deadline: float

    def __init__(self, timeout_seconds: float, memory_bytes: int):
        context = get_context("fork")
        self.connection, remote = context.Pipe()
        arguments = (remote, timeout_seconds, memory_bytes, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        remote.close()

    def start(self, pair: Pair, deadline: float) -> None:
        self.pair, self.deadline = pair, deadline
        self.connection.send(pair)

    def finish(self, is_late: bool) -> str:
        if is_late:
            self.kill()
            return "timeout"
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            exit_code = self.process.exitcode
            self.kill()
        if exit_code == -signal.SIGPROF:
            return "timeout"
        logger.warning("a grading worker died with exit code %s on %.80r", exit_code, self.pair)
        return "unparsable"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, timeout_seconds: float, memory_bytes: int, parent: int) -> None:
    """A worker's life: limits first, then one status per pair, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _limit_memory(memory_bytes)
    _limit_stack()
    while True:
        # A sibling holds a copy of the parent's end, so the parent's death shows as another parent, not as an end of file.
        while not connection.poll(2.0):
            if os.getppid() != parent:
                return
        connection.send(_compare_within(timeout_seconds, connection.recv()))


def _limit_memory(extra_bytes: int) -> None:
    if (statm := Path("/proc/self/statm")).exists():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_stack() -> None:
    """Counted from here: a fork stands as deep as its parent did and inherits its limit, which torch.compile raises."""
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:
        depth += 1
    sys.setrecursionlimit(depth + STACK_DEPTH)


def _compare_within(timeout_seconds: float, pair: Pair) -> str:
    """`compare` within its CPU time. Past it the kernel ends the process.

    A handler would wait for the end of a C call, and what it raises could be swallowed, or unwind for long.
    """
    signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
    try:
        return compare(pair)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
