"""Label the steps of responses; --method says how, and so which further options there are. The same command resumes."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from prm.annotation.base import LabelConfig
from prm.annotation.consensus import ConsensusConfig, find_consensus
from prm.annotation.judge import JudgeConfig, judge_responses
from prm.annotation.monte_carlo import MonteCarloConfig, label_by_completions
from prm.config import parse_args, run
from prm.tracking import setup_logging

logger = logging.getLogger("prm.label_steps")

METHODS: dict[str, tuple[type[LabelConfig], Callable[[Any], dict[str, int]]]] = {
    "judge": (JudgeConfig, judge_responses),
    "consensus": (ConsensusConfig, find_consensus),
    "monte_carlo": (MonteCarloConfig, label_by_completions),
}


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    method, flags = read_method(sys.argv[1:] if argv is None else argv)
    config_type, label = METHODS[method]
    config = parse_args(config_type, flags, f"--method {method}: {config_type.__doc__}")
    for name, count in label(config).items():
        logger.info("%-24s %10d", name, count)


def read_method(argv: list[str]) -> tuple[str, list[str]]:
    """The method, and the flags that its config reads."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="--method M --help lists the options of M.", add_help=False, allow_abbrev=False
    )
    summaries = "; ".join(f"{name}: {config_type.__doc__.splitlines()[0]}" for name, (config_type, _) in METHODS.items())
    parser.add_argument("--method", required=True, choices=list(METHODS), help=summaries)
    if not any(word == "--method" or word.startswith("--method=") for word in argv):
        parser.add_argument("-h", "--help", action="help", help="show this message and exit")
    options, flags = parser.parse_known_args(argv)
    return options.method, flags


if __name__ == "__main__":
    run(main)
