"""Score every step of rollouts, responses or candidate pools with a trained PRM. Interrupted runs continue where they stopped."""

import logging

from prm.config import parse_args, run
from prm.scoring import ScoringConfig, score_file, score_in_processes
from prm.tracking import setup_logging

logger = logging.getLogger("prm.score")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ScoringConfig, argv, __doc__)
    counts = score_file(config) if config.num_processes == 1 else score_in_processes(config)
    for name, count in counts.items():
        logger.info("%-10s %8d", name, count)


if __name__ == "__main__":
    run(main)
