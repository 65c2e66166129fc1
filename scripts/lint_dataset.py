"""Check labelled responses before training on them. Exit status 0: passed; 1: failed, or the input could not be read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.benchmarks.tables import align, number
from prm.config import parse_args, run
from prm.data.lint import CLASSES, LintConfig, lint
from prm.files import write_json
from prm.tracking import setup_logging


@dataclass
class LintScriptConfig(LintConfig):
    """Where the result goes."""

    output_dir: str | None = None
    """Folder for metrics.json; default: only the table on the terminal."""


def main(argv: list[str] | None = None) -> int:
    setup_logging()
    config = parse_args(LintScriptConfig, argv, __doc__)
    result = lint(config)
    if config.output_dir:
        write_json(Path(config.output_dir) / "metrics.json", result)
    print(table(result))
    return 0 if result["passed"] else 1


def table(result: dict[str, Any]) -> str:
    """A row for every check that had something to look at, the examples below those that found something."""
    rows, examples = [["check", "severity", "count", "of", "share", "limit", ""]], []
    for name, check in result["checks"].items():
        if check["population"]:
            verdict = "ok" if check["count"] == 0 else "found" if check["passed"] else "FAILED"
            shares = [number(check[key], ".2%") for key in ("share", "max_share")]
            rows.append([name, check["severity"], str(check["count"]), f"{check['population']} {check['of']}", *shares, verdict])
            examples += [f"{name}: {example['place']}: {example['found']}" for example in check["examples"]]
    blocks = [align(rows), "\n".join(examples)]
    if "agreement" in result:
        blocks.append(agreement_table(result["agreement"]))
    blocks.append(f"{result['responses']} responses: {'passed' if result['passed'] else 'FAILED'}")
    return "\n\n".join(filter(None, blocks))


def agreement_table(agreement: dict[str, Any]) -> str:
    rows = [["steps: input \\ compared", *CLASSES]]
    rows += [[name, *(str(agreement["matrix"][name][other]) for other in CLASSES)] for name in CLASSES]
    return f"{align(rows)}\nCohen's kappa {number(agreement['kappa'], '.3f')} on {agreement['steps']} steps"


if __name__ == "__main__":
    run(main)
