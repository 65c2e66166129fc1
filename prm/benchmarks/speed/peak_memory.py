"""Peak memory of a piece of work: a device in, the bytes that were held at most beyond those held before out."""

import ctypes
import gc
from pathlib import Path
from types import TracebackType

import torch

PROCESS = Path("/proc/self")


class PeakMemory:
    """Context manager; `bytes` holds the peak afterwards: of PyTorch's allocator on CUDA, else of the process's resident memory.

    None where the system does not let a process reset its own high-water mark (all but Linux).
    """

    def __init__(self, device: torch.device):
        self.is_cuda = device.type == "cuda"
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        release_memory()
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.start: int | None = torch.cuda.memory_allocated()
        else:
            self.start = self._resident("VmRSS") if reset_high_water_mark() else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.start is not None:
            peak = torch.cuda.max_memory_allocated() if self.is_cuda else self._resident("VmHWM")
            self.bytes = peak - self.start

    @staticmethod
    def _resident(name: str) -> int:
        lines = (PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def release_memory() -> None:
    """Give memory that nothing refers to back to the system, so that it does not hide what comes next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc keeps freed memory otherwise
        library.malloc_trim(0)


def reset_high_water_mark() -> bool:
    """Whether the system's record of this process's largest resident memory starts anew."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True
