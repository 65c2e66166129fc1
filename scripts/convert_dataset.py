"""Convert data of any known shape (files, folders, datasets of the hub) to our formats or to stepwise supervision."""

from prm.config import parse_args, run
from prm.data.export import ConvertConfig, convert_dataset
from prm.tracking import setup_logging


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    convert_dataset(parse_args(ConvertConfig, argv, __doc__))


if __name__ == "__main__":
    run(main)
