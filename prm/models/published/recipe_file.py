"""Recipe files: YAML that says how a PRM of one's own is read in; a recipe out, a known one with some fields replaced."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from prm.aggregation import check_aggregation
from prm.models.files import ModelFiles
from prm.models.published.recipes import RECIPES, Recipe
from prm.records import is_instance, type_in_words
from prm.steps import READ_AS, StepEncoder

SUFFIXES = (".yaml", ".yml")
LIKE = "like"
CHOICES = {f.name: f.type for f in fields(StepEncoder) if f.name not in ("tokenizer", "recipe", "loss")}
"""Fields of the contract that a file may set, and their types."""
TEMPLATES = {"question_template": "question", "step_prefix": "number"}
"""Fields that are templates, and the name that they have in braces."""
LAYOUT_OF = {"separator_is_text": "separator", "reads_lines": "separator", "step_joint": "tags", "boundary": "plain"}
"""Fields that one layout alone reads."""


def read_recipe(path: str | Path, files: ModelFiles) -> tuple[str, Recipe]:
    """The recipe in a file for a model, and its name, which says all of it: `trl {"separator": "\\n\\n"}`.

    `like` names the recipe that the model resembles, every other key a field of StepEncoder. Raises FileNotFoundError for no file,
    ValueError, which names the file, for one that says something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--recipe {path}: no such file")
    try:
        choices = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML in UTF-8: {error}") from error
    like = choices.pop(LIKE, None) if isinstance(choices, dict) else None
    if not isinstance(like, str) or like not in RECIPES:
        known = ", ".join(RECIPES)
        raise ValueError(f"{path}: expected `{LIKE}: RECIPE`, one of {known}, and what differs from it; found {like!r}")
    for field, value in choices.items():
        check_choice(field, value, str(path))
    name, recipe = derive_recipe(like, choices, files)
    check_contract(recipe, str(path))
    layout = recipe.contract.get("layout", StepEncoder.layout)
    if unread := [field for field in choices if LAYOUT_OF.get(field, layout) != layout]:
        raise ValueError(f"{path}: {unread[0]} is read in layout {LAYOUT_OF[unread[0]]} alone, and the model's is {layout}")
    return name, replace(recipe, models=str(path))


def derive_recipe(like: str, choices: dict[str, Any], files: ModelFiles) -> tuple[str, Recipe]:
    """A known recipe with other fields of the contract, and a name that says all of it.

    Where nothing is chosen, the separator of a model of TRL is the one that it was trained with, if its files tell.
    """
    told = files.step_separator if like == "trl" else None
    if told not in (None, RECIPES[like].contract.get("separator")):
        choices = {"separator": told, **choices}
    name = f"{like} {json.dumps(choices, sort_keys=True)}" if choices else like
    return name, replace(RECIPES[like], contract={**RECIPES[like].contract, **choices})


def check_contract(recipe: Recipe, path: str) -> None:
    """Raises ValueError for fields that contradict one another, or the kind of model that the recipe is of."""
    contract = recipe.contract
    reading = READ_AS[contract["activation"]]
    try:
        check_aggregation(contract["aggregation"], contract.get("tau", StepEncoder.tau), reading != "probabilities")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    num_labels, activation, has_head = contract["num_labels"], contract["activation"], recipe.head is not None
    if (num_labels > 0) != has_head:
        raise ValueError(f"{path}: num_labels is {num_labels}, but the model has {'a' if has_head else 'no'} head to read")
    if activation in ("softmax", "difference") and num_labels < 2:
        raise ValueError(
            f"{path}: activation {activation} is over classes, but num_labels is {num_labels}; sigmoid is of one output"
        )
    if not has_head and activation != "identity":
        raise ValueError(f"{path}: activation {activation!r}, but an implicit PRM's rewards are read as they are (identity)")
    if has_head and contract.get("is_cumulative"):
        raise ValueError(f"{path}: is_cumulative sums an implicit PRM's rewards, but the model has a head")
    if has_head and contract.get("reference_model"):
        raise ValueError(f"{path}: reference_model {contract['reference_model']!r}, but a model with a head has none")
    if contract.get("max_length", 1) < 1:
        raise ValueError(f"{path}: max_length is {contract['max_length']}, at least 1 token is needed")


def check_choice(field: str, value: Any, path: str) -> None:
    """Raises ValueError for a value that the field of the contract cannot take."""
    if field not in CHOICES:
        hint = "; did you mean separator?" if field == "step_separator" else ""
        raise ValueError(f"{path}: {field!r} is no field of a contract{hint}; expected {LIKE} and any of {', '.join(CHOICES)}")
    if not is_instance(value, CHOICES[field]):
        raise ValueError(f"{path}: {field} is {value!r:.80}, expected {type_in_words(CHOICES[field])}")
    if (place := TEMPLATES.get(field)) and value:
        try:
            value.format(**{place: "1" if place == "question" else 1})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {field} {value!r:.80} has braces that are not {{{place}}}; double those that stand for themselves"
            ) from error
    if field == "question_template" and value is not None and "{question}" not in value:
        raise ValueError(f"{path}: question_template {value!r:.80} has no {{question}}")
