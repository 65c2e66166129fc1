"""Run the whole method in miniature: problems, policy, rollouts, grading, PRMs under several objectives, Best-of-N curves."""

from prm.config import parse_args, run
from prm.miniature.experiment import run_miniature
from prm.miniature.settings import MiniatureConfig
from prm.tracking import setup_logging


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(MiniatureConfig, argv, __doc__)
    print(run_miniature(config))


if __name__ == "__main__":
    run(main)
