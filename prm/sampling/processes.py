"""vLLM in a process of its own: code and environment in; a pipe to it, the end of its log, and a way to end it for sure, out."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import Pipe

CLOSE_SECONDS = 10.0
"""A process that was hung up on and has not left after this long is killed."""
LOG_TAIL = 2000
"""Bytes of the log that errors show."""


class PipedProcess:
    """A new interpreter that runs `code` with the descriptor of its end of a pipe as argument, in a session of its own.

    This process thus stays small, keeps no thread of vLLM, and outlives a crash of it.
    """

    def start_process(self, code: str, environment: dict[str, str]) -> None:
        self.connection, theirs = Pipe()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-P", "-c", code, str(theirs.fileno())]
        pipes = {"stdin": subprocess.PIPE, "stdout": self.log, "stderr": self.log, "pass_fds": [theirs.fileno()]}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        theirs.close()

    def log_tail(self) -> str:
        """The end of what the process wrote; the log is gone after this."""
        with self.log:
            self.log.seek(0)
            return self.log.read()[-LOG_TAIL:].decode(errors="replace")

    def kill(self) -> None:
        # The whole session: vLLM may have workers of its own.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.connection.close()

    def close(self) -> None:
        """Hang up and let the process leave by itself, so that it removes what it shares; kill it if it stays."""
        self.connection.close()
        try:
            self.process.wait(CLOSE_SECONDS)
            self.process.stdin.close()
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.close()


def exit_with_parent() -> None:
    """From now on this process ends when its parent does, however that dies: the parent holds the other end of stdin."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def vllm_environment(devices: Sequence[str], num_threads: int) -> dict[str, str]:
    """Environment of a vLLM process on these GPUs; without any, on the CPU with that many threads."""
    env = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    if devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    else:
        # In one process vLLM imports itself once instead of three times, and its threads are ours to count.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Threads that spin while they wait cost a factor of ten as soon as another process wants their core.
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        env.setdefault("OMP_NUM_THREADS", str(num_threads))
    return env


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def num_cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0))
