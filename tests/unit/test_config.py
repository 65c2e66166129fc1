import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from prm.config import field_docs, parse_args


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
        ("num_samples: four", "argument --num_samples/--num-samples: invalid int value: 'four'"),
        ("loss: asymm", "argument --loss: invalid choice: 'asymm'"),
        ("limit:", "c.yaml:1: limit has no value"),
        ("limit: 1\nlimit: 2", "c.yaml:2: 'limit' stands twice"),
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
        (["stray"], "unknown argument 'stray'"),
        (["--loss", "nope"], "invalid choice: 'nope'"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml: no such file"),
        (["--config"], "expected one argument"),
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
    assert field_docs(Config)["packed"] == "Whether rows are packed."


def test_parsing_leaves_the_class_as_it_was():
    """A subclass made after its base has been parsed still takes None."""

    @dataclass
    class Base:
        path: str | None = None

    parse_args(Base, [])
    assert [field.type for field in dataclasses.fields(Base)] == [str | None]
    assert "help" not in dataclasses.fields(Base)[0].metadata
