"""Sample responses to questions with a policy: questions in, a folder of rollouts out. Interrupted, the same command resumes."""

from prm.config import parse_args, run
from prm.data.sources import load_questions
from prm.sampling.rollouts import RolloutConfig, generate_rollouts
from prm.tracking import setup_logging


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(RolloutConfig, argv, __doc__)
    generate_rollouts(config, load_questions(config.questions))


if __name__ == "__main__":
    run(main)
