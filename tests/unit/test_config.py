import dataclasses
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from prm.config import field_docs, parse_args, run
from prm.files import read_rows


@dataclass
class Base:
    learning_rate: float = 1e-5
    """Peak learning rate."""


@dataclass
class Config(Base):
    num_samples: int = 32
    """Samples a question, keeping 100% of them."""
    names: list[str] = field(default_factory=lambda: ["a"])
    """Names."""
    loss: Literal["asym", "orm"] = "asym"
    """Objective."""
    packed: bool = True
    """Whether rows are packed."""
    limit: int | None = None
    """Most items, all by default."""


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def test_defaults_then_yaml_then_flags(yaml_file):
    config = yaml_file("learning_rate: 1e-3\nnum_samples: 4\nnames: [x, y]\npacked: false\nlimit: 7\n")
    assert parse_args(Config, []) == Config()
    assert parse_args(Config, config) == Config(1e-3, 4, ["x", "y"], "asym", False, 7)
    assert parse_args(Config, ["--num_samples", "5", *config, "--loss=orm"]) == Config(1e-3, 5, ["x", "y"], "orm", False, 7)
    assert parse_args(Config, yaml_file("# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_samples: 4\nlearning_rat: 1", "c.yaml:2: unknown key 'learning_rat'; did you mean --learning_rate?"),
        ("limit: 1\nnum_samples: four", "c.yaml:2: argument --num_samples/--num-samples: invalid int value: 'four'"),
        ("loss: asymm", "c.yaml:1: argument --loss: invalid choice: 'asymm'"),
        ("limit:", "c.yaml:1: limit has no value"),
        ("limit: 1\nlimit: 2", "c.yaml:2: 'limit' stands twice"),
        ("limit: [1, 2]", "c.yaml:1: limit takes one value, found 2"),
        ("names: [a, [b]]", "c.yaml:1: names holds lists or mappings"),
        ("names: []", "c.yaml:1: argument --names: expected at least one argument"),
        ("- a", "expected `key: value` lines"),
        ("a: [", "not valid YAML"),
        ("config: x", "unknown key 'config'"),
    ],
)
def test_a_bad_file_is_named(yaml_file, capsys, text, message):
    with pytest.raises(SystemExit) as error:
        parse_args(Config, yaml_file(text))
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_sample", "4"], "unknown argument '--num_sample'; did you mean --num_samples?"),
        (["--num_sample", "4", "--loss", "nope"], "unknown argument '--num_sample'; did you mean --num_samples?"),
        (["stray"], "unknown argument 'stray'"),
        (["--loss", "nope"], "invalid choice: 'nope'"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml: no such file"),
        (["--config"], "expected one argument"),
        (["--loss=--"], "--loss=--: -- is no value"),
        (["--loss", "caf\udce9"], "'caf\\udce9' holds bytes that are no UTF-8 text, or NUL; rename the file"),
        (["--config", "caf\udce9.yaml"], "'caf\\udce9.yaml' holds bytes"),
    ],
)
def test_a_bad_flag_is_named_in_one_line(capsys, argv, message):
    with pytest.raises(SystemExit) as error:
        parse_args(Config, argv)
    assert error.value.code == 2
    assert message in (err := capsys.readouterr().err)
    assert err.count("\n") == 1


def test_help_shows_the_docstring_below_each_field_and_the_default(capsys):
    with pytest.raises(SystemExit):
        parse_args(Config, ["--help"], "What it does.")
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "What it does.",
        "Samples a question, keeping 100% of them. (default: 32)",
        "Peak learning rate. (default: 1e-05)",
    ):
        assert expected in text
    assert "None" not in text
    assert "--learning-rate" not in text
    assert field_docs(Config)["packed"] == "Whether rows are packed."


def test_parsing_leaves_the_class_as_it_was():
    """A subclass made after its base has been parsed still takes None."""

    @dataclass
    class Base:
        path: str | None = None

    parse_args(Base, [])
    assert [field.type for field in dataclasses.fields(Base)] == [str | None]
    assert "help" not in dataclasses.fields(Base)[0].metadata


@dataclass
class Checked:
    limit: int = 1

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError(f"--limit {self.limit}: at least one")


def read(path):
    return next(read_rows(path))


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (lambda: parse_args(Checked, ["--limit", "0"]), 2, r"--limit 0: at least one \(--help lists the options\)"),
        (lambda: read("/nowhere"), 1, "/nowhere: no such file or folder"),
        (lambda: Path("/nowhere").read_text(), 1, r"\[Errno 2\] No such file or directory: '/nowhere'"),
        (lambda: np.random.default_rng(-1), 1, r"ValueError: expected non-negative integer \(raised in .*:\d+; PRM_DEBUG=1 .*\)"),
        (lambda: 85, 85, None),
        (lambda: None, None, None),
    ],
)
def test_an_error_is_one_line_and_a_status(capsys, monkeypatch, main, status, message):
    with pytest.raises(SystemExit) as end:
        run(main, "score.py")
    assert end.value.code == status
    err = capsys.readouterr().err
    assert re.fullmatch(rf"score.py: error: {message}\n", err) if message else not err
    if message:
        monkeypatch.setenv("PRM_DEBUG", "1")
        with pytest.raises((ValueError, OSError)):
            run(main)


def test_a_mistake_in_the_code_keeps_its_traceback():
    with pytest.raises(KeyError):
        run(lambda: {}["x"])


CATCH_INTERRUPTS = "signal.signal(signal.SIGINT, signal.default_int_handler)"
"""Python leaves it to who started it: a background job ignores interrupts."""
INTERRUPTED = "\n-c: interrupted; the same command starts anew or goes on\n"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("r, w = os.pipe(); os.dup2(w, 1); os.close(r); print('x')", 1, ""),
        ("r, w = os.pipe(); os.dup2(w, 1); os.close(r); print('x' * 10**6)", 1, ""),
        ("raise BrokenPipeError(32, 'a worker is gone')", 1, "-c: error: [Errno 32] a worker is gone\n"),
        (f"{CATCH_INTERRUPTS}; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, INTERRUPTED),
    ],
)
def test_a_reader_that_leaves_and_an_interrupt(body, status, message):
    code = f"import os, signal; from prm.config import run; run(lambda: exec({body!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == message


def test_a_list_that_stands_twice_is_refused(yaml_file, capsys):
    for argv in (["--names", "a", "--names=b"], [*yaml_file(""), "--config=x.yaml"]):
        with pytest.raises(SystemExit):
            parse_args(Config, argv)
        assert re.search(r"--(names|config) stands twice: give", capsys.readouterr().err)
    assert parse_args(Config, [*yaml_file("names: [a]"), "--names", "b", "--limit", "1", "--limit", "2"]) == Config(
        names=["b"], limit=2
    )


def test_a_config_that_is_not_utf_8_is_named(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"names: [caf\xe9]")
    with pytest.raises(SystemExit):
        parse_args(Config, ["--config", str(path)])
    assert "c.yaml: not valid YAML in UTF-8" in capsys.readouterr().err
