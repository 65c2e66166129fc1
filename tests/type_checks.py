"""The type checker of the test run: beartype, with int accepted for float as in every static checker (PEP 484)."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    # transformers' parser passes debug=None, which the annotations of its TrainingArguments do not allow.
    return function if function.__qualname__ == "TrainingConfig.__init__" else _check(function)
