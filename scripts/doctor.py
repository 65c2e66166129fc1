"""Check this machine and its environment: Python, torch, vLLM, DeepSpeed, memory; name what is broken and the remedy."""

import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path

REQUIRED = ("torch", "transformers", "accelerate", "datasets", "deepspeed", "math_verify", "matplotlib", "wandb")
# Each breaks a CPU build of torch at import, and transformers' Trainer with it.
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


def check() -> tuple[list[str], list[str]]:
    """Facts worth knowing, and problems with their remedies."""
    facts, problems = [f"Python {sys.version.split()[0]} at {sys.prefix}"], []
    if not (3, 11) <= sys.version_info < (3, 15):
        problems.append("Python 3.11 to 3.14 is needed: make clean, then PYTHON=/path/to/python3.12 make setup")
    for name in REQUIRED:
        try:
            importlib.import_module(name)
            facts.append(f"{name} {importlib.metadata.version(name.replace('_', '-'))}")
        except Exception as error:  # noqa: BLE001 - any failure of an import is the finding
            problems.append(f"{name} does not import ({type(error).__name__}: {error}): make clean setup")
    import torch

    facts.append(f"CUDA devices: {torch.cuda.device_count()}" if torch.cuda.is_available() else "no CUDA device: CPU only")
    if not torch.cuda.is_available():
        problems += [f"{n} breaks CPU torch: pip uninstall {n}" for n in UNWANTED_ON_CPU if importlib.util.find_spec(n)]
    if importlib.util.find_spec("vllm") is None:
        problems.append("vLLM is missing: pip install -e '.[gpu]' on CUDA, make setup on CPU")
    if not Path(sys.prefix, "bin", "deepspeed").exists() and shutil.which("deepspeed") is None:
        problems.append("no deepspeed launcher on the path: activate the environment, or make setup")
    facts.append(f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free here")
    return facts, problems


def main() -> None:
    facts, problems = check()
    print("\n".join([*facts, *(f"PROBLEM: {problem}" for problem in problems), f"{len(problems)} problem(s) found"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
