"""Every YAML in configs/ and every command in the README parses, so neither can rot."""

import importlib
import re
from pathlib import Path

import pytest
from readme import all_commands, commands_of, split_command

ROOT = Path(__file__).parent.parent
SCRIPT_OF_FOLDER = {"train": "train", "rollouts": "generate_rollouts", "miniature": "miniature"}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


class Parsed(Exception):
    """Stops a script once its command line has been read."""


def parse(monkeypatch, script: str, argv: list[str]):
    """Run the script's own parser on `argv`, and nothing after it."""
    module = importlib.import_module(script)
    real, seen = module.parse_args, []

    def stop(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        raise Parsed

    monkeypatch.setattr(module, "parse_args", stop)
    monkeypatch.chdir(ROOT)
    with pytest.raises(Parsed):
        module.main(argv)
    return seen[0]


def header_commands() -> list[str]:
    """The commands in the headers of the evaluations' configs, whose files name no script of their own."""
    texts = [path.read_text() for path in CONFIGS if path.is_relative_to(ROOT / "configs" / "eval")]
    return sorted({command for text in texts for command in commands_of(re.sub("^# ", "", text, flags=re.M))})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_file_parses_and_explains_itself(monkeypatch, path):
    folder = path.relative_to(ROOT / "configs").parts[0]
    script = SCRIPT_OF_FOLDER.get(folder) or path.stem.split("-")[0]
    parse(monkeypatch, script, ["--config", str(path)])
    assert path.read_text().startswith("# "), f"{path.name}: the header says what it runs, and its time and result once measured"


@pytest.mark.parametrize("command", [*all_commands(), *header_commands()])
def test_command_parses(monkeypatch, command):
    words = split_command(command)
    place = next(i for i, word in enumerate(words) if word.startswith("scripts/"))
    parse(monkeypatch, Path(words[place]).stem, words[place + 1 :])


def test_the_readme_shows_commands():
    assert len(all_commands()) >= 5


def test_the_paper_s_tables_are_commands():
    scripts = {Path(command.split()[1]).stem for command in header_commands()}
    assert scripts >= {"bon_eval", "processbench_eval", "prmbench_eval"}
