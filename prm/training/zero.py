"""DeepSpeed: the option --deepspeed in, a checked configuration and a prepared process out."""

import json
import os
import socket
from pathlib import Path
from typing import Any

DEFAULT_DEEPSPEED = str(Path(__file__).parents[2] / "ds_configs" / "zero2.json")
FROM_FLAGS = {
    "optimizer": "--optim, --learning_rate and --weight_decay",
    "scheduler": "--lr_scheduler_type and --warmup_steps",
}
DIVIDED_BY_US = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def resolve_deepspeed(option: dict | str | None) -> dict | str | None:
    """The DeepSpeed configuration to use, checked; also completes the environment of a single process that asks for one.

    Raises FileNotFoundError for a missing file, ValueError for one that cannot work.
    """
    if option is None:
        option = DEFAULT_DEEPSPEED if "LOCAL_RANK" in os.environ else "none"
    if option == "none":
        return None
    check_config(read_config(option), option if isinstance(option, str) else "--deepspeed")
    if "RANK" not in os.environ:  # without these five DeepSpeed asks for mpi4py
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return option


def read_config(option: dict | str) -> dict[str, Any]:
    """A configuration given as a file, as JSON, or as it is."""
    if isinstance(option, dict):
        return option
    is_json = option.lstrip().startswith("{")
    if not is_json and not os.path.isfile(option):
        raise FileNotFoundError(f"--deepspeed {option}: no such file; ds_configs/ of this repository holds zero2.json")
    text, place = (option, "--deepspeed") if is_json else (Path(option).read_text(encoding="utf-8"), option)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{place}: expected a JSON object, found {type(config).__name__}")
    return config


def check_config(config: dict[str, Any], place: str) -> None:
    """Raise ValueError for keys that contradict the training options, and for a ZeRO section that DeepSpeed does not know."""
    for key, flags in FROM_FLAGS.items():
        if key in config:
            raise ValueError(f"{place}: remove {key!r}; it comes from {flags}")
    for key in DIVIDED_BY_US:
        if config.get(key, "auto") != "auto":
            raise ValueError(f'{place}: {key} is {config[key]!r}; set it to "auto", and --global_batch_size on the command line')
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError(f"{place}: zero_optimization is {zero!r}, expected an object with a stage")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**{key: value for key, value in zero.items() if value != "auto"})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, ("zero_optimization", *problem["loc"])))
        raise ValueError(f"{place}: {name}: {problem['msg']} (found {problem['input']!r})") from error


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def prepare_deepspeed_on_cpu() -> None:
    """Tell DeepSpeed of the process group, which ZeRO-3 needs when a model loads; accelerate does so on GPUs only.

    Also keep it from compiling a C++ all-reduce for inference first: a minute with a compiler, and training never calls it.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
