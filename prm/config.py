"""Command lines: a config dataclass in, a filled instance out (defaults < `--config FILE.yaml` < flags); and errors of one line."""

import argparse
import ast
import copy
import dataclasses
import difflib
import inspect
import json
import os
import select
import sys
import textwrap
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import yaml
from safetensors import SafetensorError
from transformers.hf_argparser import HfArgumentParser

from prm.records import clean_text

Config = TypeVar("Config")
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError, SafetensorError)
"""What an error message is enough for: bad data, bad options, a full disk. Anything else is a mistake in the code."""
DEBUG = "PRM_DEBUG"
"""Environment variable: with a value, errors come with their traceback."""
HELP_HINT = " (--help lists the options)"


class OptionError(ValueError):
    """An option outside its range, or options that contradict each other."""


def run(main: Callable[[], int | None], program: str | None = None) -> NoReturn:
    """Call a script's `main` and exit with the status that it returns.

    An error of `EXPECTED` is one line on stderr, which begins with the program's name, and status 1, or 2 for the options.
    An interrupt is one line, too, and ends the program as Python does, by the signal.
    """
    program = program or Path(sys.argv[0]).name
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        if not os.environ.get(DEBUG):
            sys.excepthook = lambda *_: sys.stderr.write(f"\n{program}: interrupted; the same command starts anew or goes on\n")
        raise
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and not _is_read():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
            sys.exit(1)
        if os.environ.get(DEBUG):
            raise
        is_option = isinstance(error, OptionError)
        sys.stderr.write(f"{program}: error: {_describe(error)}{HELP_HINT * is_option}\n")
        sys.exit(2 if is_option else 1)
    sys.exit(status)


def _is_read() -> bool:
    """Whether somebody still reads the output; `head` leaves when it has seen enough."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return not output.poll(0)


def _describe(error: BaseException) -> str:
    """The message; where a library raised the error, and no file is to blame, also what it is and where it comes from."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    is_own = frame.f_globals.get("__name__", "").split(".")[0] in ("prm", "__main__")
    if str(error) and (is_own or getattr(error, "filename", None)):
        return str(error)
    place = f"{frame.f_code.co_filename}:{line}"
    return f"{type(error).__name__}: {error} (raised in {place}; {DEBUG}=1 shows the whole way)"


def parse_args(config_type: type[Config], argv: list[str] | None = None, description: str | None = None) -> Config:
    """Fill `config_type` from `--config FILE.yaml` and the flags after it.

    YAML entries become flags before they are parsed, so a file passes the same spelling, type and choice checks. The help text of a
    field is the string literal below it. A mistake ends the program with status 2 and one line that names it; what the dataclass
    itself finds wrong is raised as `OptionError`, which `run` ends the program by in the same way.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _Parser(config_type, description)
    parser.refuse_repeated(argv)
    parser.refuse_unreadable(argv)
    known, flags = parser.config_option.parse_known_args(argv)
    parser.refuse_unknown(flags)
    if known.config is not None:
        entries = _yaml_flags(Path(known.config), parser)
        parser.refuse_unreadable(entries)
        flags = entries + flags
    try:
        config, _, unknown = parser.parse_args_into_dataclasses(flags, return_remaining_strings=True, look_for_args_file=False)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}{_suggestion(unknown[0].split('=')[0], parser.flags)}")
    return config


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Each option in one spelling, and a default only where there is one: of the others the help text says what holds."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action, argparse._StoreFalseAction):
            return f"The same as --{action.dest} False."
        if action.required:
            return f"{action.help} (required)"
        if action.default in (None, "", []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default)).replace('%', '%%')})"
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        arguments = "" if action.nargs == 0 else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {arguments}".rstrip()


class _Parser(HfArgumentParser):
    """HfArgumentParser with our help texts, no abbreviations, and errors of one line."""

    def __init__(self, config_type: type, description: str | None):
        self.docs = field_docs(config_type)
        super().__init__(config_type, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        self.add_argument("--config", help="YAML file; its entries stand before the flags of the command line")
        self.config_option = HfArgumentParser([], add_help=False, allow_abbrev=False)
        self.config_option.add_argument("--config")
        self.config_option.error = self.error

    def _parse_dataclass_field(self, parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        """With our help text, on a copy: the original narrows `field.type`, and subclasses made later would inherit that."""
        field = copy.copy(field)
        if "help" not in field.metadata and field.name in self.docs:
            field.metadata = MappingProxyType({**field.metadata, "help": self.docs[field.name].replace("%", "%%")})
        super()._parse_dataclass_field(parser, field)

    @property
    def flags(self) -> dict[str, Any]:
        return self._option_string_actions

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}{HELP_HINT}\n")

    def refuse_repeated(self, argv: list[str]) -> None:
        """End with an error for a list, or a file, that is given twice: the first one would be lost."""
        seen = set()
        for word in argv:
            action = self.flags.get(word.split("=")[0])
            if action in seen:
                name = action.option_strings[0]
                remedy = "give one file" if action.nargs is None else f"give all values behind one, {name} A B"
                self.error(f"{name} stands twice: {remedy}")
            if action is not None and (action.nargs in ("+", "*") or action.dest == "config"):
                seen.add(action)

    def refuse_unreadable(self, words: list[str]) -> None:
        """End with an error for text that no file can hold, and for a value of `--`, which argparse would take out."""
        for word in words:
            if clean_text(word) != word:
                self.error(f"{word!r} holds bytes that are no UTF-8 text, or NUL; rename the file")
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"{word}: -- is no value")

    def refuse_unknown(self, words: list[str]) -> None:
        """End with an error for an option that there is none of, before another one is missed that it may have been meant for."""
        for word in words:
            if word.startswith("--") and " " not in word and (name := word.split("=")[0]) not in self.flags:
                self.error(f"unknown argument {word!r}{_suggestion(name, self.flags)}")

    def check_entry(self, words: list[str], place: str) -> None:
        """End with an error that names `place` for a value that is not what the option takes."""
        checker = HfArgumentParser([], add_help=False, allow_abbrev=False)
        checker._add_action(self.flags[words[0].split("=")[0]])
        checker.error = lambda message: self.error(f"{place}: {message}")
        _, unknown = checker.parse_known_args(words)
        if unknown:
            self.error(f"{place}: {words[0][2:]} takes one value, found {len(words) - 1}")


def _yaml_flags(path: Path, parser: _Parser) -> list[str]:
    if not path.is_file():
        parser.error(f"--config {path}: no such file")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {path}: not valid YAML in UTF-8: {error}")
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        parser.error(f"--config {path}: expected `key: value` lines")
    flags, seen = [], set()
    for key_node, value_node in root.value:
        place, flag = f"{path}:{key_node.start_mark.line + 1}", f"--{key_node.value}"
        if flag not in parser.flags or flag in ("--help", "--config"):
            parser.error(f"{place}: unknown key {key_node.value!r}{_suggestion(flag, parser.flags)}")
        if flag in seen:
            parser.error(f"{place}: {key_node.value!r} stands twice")
        seen.add(flag)
        words = _flag(flag, value_node, place, parser)
        parser.check_entry(words, place)
        flags += words
    return flags


def _flag(flag: str, node: yaml.Node, place: str, parser: _Parser) -> list[str]:
    """Scalars keep the spelling of the file (`1e-5` is a float to argparse, though a string to YAML 1.1)."""
    if isinstance(node, yaml.SequenceNode):
        if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
            parser.error(f"{place}: {flag[2:]} holds lists or mappings; a list of plain values is expected")
        return [flag, *(str(item.value) for item in node.value)]
    if isinstance(node, yaml.MappingNode):
        return [f"{flag}={json.dumps(yaml.safe_load(yaml.serialize(node)))}"]
    if node.tag.endswith(":null"):
        parser.error(f"{place}: {flag[2:]} has no value; leave the key out to get its default")
    return [f"{flag}={node.value}"]


def _suggestion(flag: str, flags: dict[str, Any]) -> str:
    close = difflib.get_close_matches(flag, flags, n=1)
    return f"; did you mean {close[0]}?" if close else ""


@cache
def field_docs(config_type: type) -> dict[str, str]:
    """The string literal below each field of a dataclass and of its bases in this package."""
    docs: dict[str, str] = {}
    for owner in reversed(config_type.__mro__):
        if not dataclasses.is_dataclass(owner) or owner.__module__.startswith("transformers"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        for field, literal in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(literal, ast.Expr) and isinstance(literal.value, ast.Constant):
                docs[field.target.id] = " ".join(str(literal.value.value).split())
    return docs
