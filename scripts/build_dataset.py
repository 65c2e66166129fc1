"""Build a training dataset from graded rollouts: filter, split into steps, split by question."""

from prm.benchmarks.tables import align
from prm.config import parse_args, run
from prm.data.build import BuildConfig, build_dataset
from prm.data.statistics import table
from prm.tracking import setup_logging


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    counts = build_dataset(parse_args(BuildConfig, argv, __doc__))
    print(align(table({name: counts[name] for name in ("read", "train", "validation")})))


if __name__ == "__main__":
    run(main)
