"""Train a process reward model, on one machine or many: `deepspeed scripts/train.py --loss asym --dataset data/dataset`.

Run again, the same command continues after a crash, and does nothing once the run has finished. SIGTERM to the ranks, SIGUSR1 or
a file named STOP in the output folder ask it to save and exit with status 85.
"""

from prm.config import parse_args, run
from prm.tracking import setup_logging
from prm.training.arguments import TrainingConfig
from prm.training.run import part_from_ranks, train


def main(argv: list[str] | None = None) -> int:
    setup_logging()
    return train(parse_args(TrainingConfig, argv, __doc__))


def program() -> int:
    """`main`, behind which all ranks end together."""
    status = main()
    part_from_ranks()
    return status


if __name__ == "__main__":
    run(program)
