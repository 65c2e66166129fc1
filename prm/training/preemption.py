"""Preemption: SIGTERM, SIGUSR1 or a STOP file in, one checkpoint and exit code 85 out."""

import signal
from pathlib import Path
from types import FrameType

EXIT_CODE = 85
"""Exit status of a run that was asked to stop: start the same command again and it continues."""

STOP_FILE = "STOP"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """This rank's wish to stop. The trainer combines the wishes of all ranks, once per optimizer step."""

    def __init__(self, output_dir: str | Path):
        self.file = Path(output_dir) / STOP_FILE
        self._signaled = False

    def install(self) -> None:
        """Turn SIGTERM and SIGUSR1 into a wish to stop, and forget a STOP file that an earlier run has answered."""
        self.file.unlink(missing_ok=True)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signaled = True

    def __bool__(self) -> bool:
        return self._signaled or self.file.exists()
