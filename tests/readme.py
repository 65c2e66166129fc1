"""The README as tests read it: its commands, block by block, and its sentences."""

import re
import shlex
from pathlib import Path

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SENTENCES = " ".join(TEXT.split())
"""The whole text without its line breaks, to look for what it claims."""
BLOCK = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.S)
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
"""Code to be run as it stands there."""


def commands_of(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if "scripts/" in line and line.split()[0] in ("python", "deepspeed", ".venv/bin/python")]


def all_commands() -> list[str]:
    return [command for block in BLOCK.findall(TEXT) for command in commands_of(block)]


def commands_behind(words: str) -> list[str]:
    """The commands of the first block behind these words, which stand once."""
    _, *rest = TEXT.split(words)
    assert len(rest) == 1, f"{words!r} stands {len(rest)} times in the README"
    return commands_of(BLOCK.search(rest[0])[1])


def split_command(command: str) -> list[str]:
    """Its words, without the comment behind it."""
    return shlex.split(command.split(" #")[0])
