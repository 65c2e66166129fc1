"""What `deepspeed` starts in the tests: scripts/train.py once per objective, or per ZeRO stage, so that the start-up is paid once.

usage: train_every_loss.py FLAGS... losses|stages OUTPUT_DIR
"""

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from tiny_training import for_loss  # noqa: E402
from train import main  # noqa: E402

from prm.losses import LOSSES  # noqa: E402
from prm.training.run import part_from_ranks  # noqa: E402


def losses(flags: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield from ((loss, for_loss(loss, flags)) for loss in LOSSES)


def stages(flags: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield "budget", [*flags, "--token_budget", "120"]
    for name in ("zero3", "zero2_offload"):
        config = ["--deepspeed", str(ROOT / "ds_configs" / f"{name}.json")]
        yield from ((f"{name}-{budget}", [*flags, *config, "--token_budget", budget]) for budget in ("4096", "120"))
    zero3 = ["--deepspeed", str(ROOT / "ds_configs" / "zero3.json")]
    yield "zero3-implicit_prm", [*flags, *zero3, "--loss", "implicit_prm"]
    yield "lora", [*flags, "--lora_rank", "4"]
    yield "zero3-lora", [*flags, *zero3, "--lora_rank", "4"]


if __name__ == "__main__":
    *flags, which, output_dir = sys.argv[1:]
    for name, options in {"losses": losses, "stages": stages}[which](flags):
        assert main([*options, "--output_dir", f"{output_dir}/{name}"]) == 0
    part_from_ranks()
