"""A hub name or folder in, a published PRM as a model of this project and its step contract out. No remote code is ever run."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from prm.attention import PACKED
from prm.models.backbone import PackedModel, check_complete, load_config
from prm.models.files import ModelFiles, model_folder
from prm.models.implicit import ImplicitPRM
from prm.models.published.heads import EMBEDDINGS, WRAPPER
from prm.models.published.recipe_file import SUFFIXES, derive_recipe, read_recipe
from prm.models.published.recipes import RECIPES, Recipe
from prm.models.reward_model import RewardModel
from prm.steps import CONFIG_NAME, StepEncoder, load_tokenizer

logger = logging.getLogger(__name__)

MAX_LENGTH = 32768
"""Tokens of a response. The official scripts set no limit, and rotary positions go on beyond `max_position_embeddings`."""


def find_recipe(files: ModelFiles, name: str | None = None) -> str:
    """The recipe of a checkpoint, or the one that was asked for. Raises ValueError for an unknown name or kind of checkpoint."""
    if name is not None:
        if name not in RECIPES:
            raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
        return name
    for known, recipe in RECIPES.items():
        if recipe.matches(files):
            return known
    families = "\n".join(f"  {known}: {recipe.models}" for known, recipe in RECIPES.items())
    raise ValueError(
        f"{files.name}: neither a checkpoint of scripts/train.py (it has no {CONFIG_NAME}) nor a published PRM that is known: "
        f"architecture {files.architecture}, model_type {files.config.get('model_type')}. Give --recipe if it is one of\n{families}"
    )


def pick_recipe(files: ModelFiles, given: str | None) -> tuple[str, Recipe]:
    """Name and recipe: those of a recipe file, if `given` names one, else of `find_recipe`. Raises as it and `read_recipe` do."""
    if given is not None and given.lower().endswith(SUFFIXES):
        return read_recipe(given, files)
    return derive_recipe(find_recipe(files, given), {}, files)


def load_published(
    name_or_path: str | Path, recipe: str | None, dtype: str | torch.dtype, device: torch.device | str
) -> tuple[PackedModel, StepEncoder]:
    """Load a published PRM, in eval mode.

    Raises FileNotFoundError for a model that is not there, ValueError for one of an unknown kind or without the weights or tokens
    of its kind.
    """
    files = ModelFiles(name_or_path)
    name, known = pick_recipe(files, recipe)
    encoder = build_encoder(files, name, known)
    end = f", each step ended by {encoder.separator!r}" if encoder.has_separator else ""
    logger.info("%s: read as %s (%s)%s", files.name, name, known.models, end)
    if known.head is None:
        model: PackedModel = ImplicitPRM.from_backbone(model_folder(files.name), dtype)
    else:
        model = build_reward_model(files, known, encoder, dtype)
    return model.to(device).eval(), encoder


def published_contract(name_or_path: str | Path, recipe: str | None) -> dict[str, Any]:
    """What `prm_config.json` would say of a published PRM: read from its config, without its weights or tokenizer."""
    files = ModelFiles(name_or_path)
    name, known = pick_recipe(files, recipe)
    return {"recipe": name, "reference_model": reference_of(files, known), **known.contract}


def reference_of(files: ModelFiles, recipe: Recipe) -> str | None:
    """Reference model of an implicit PRM; None for other PRMs, and where the recipe knows none for this architecture."""
    return dict(recipe.references).get(files.config.get("model_type", ""))


def build_encoder(files: ModelFiles, name: str, recipe: Recipe) -> StepEncoder:
    """The contract. Raises FileNotFoundError without tokenizer.json, ValueError for a tokenizer without the recipe's tokens."""
    if not (files.folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{files.name}: no tokenizer.json; write one beside the weights with "
            f"AutoTokenizer.from_pretrained({files.name!r}).save_pretrained(...), or take that of the backbone"
        )
    tokenizer = load_tokenizer(files.folder)
    options = {"recipe": name, "max_length": MAX_LENGTH, "reference_model": reference_of(files, recipe), **recipe.contract}
    encoder = StepEncoder(tokenizer=tokenizer, **options)
    if recipe.starts_as_tokenizer and "starts_with_bos" not in recipe.contract:
        encoder.starts_with_bos = tokenizer.bos_token is not None
    if recipe.adds_separator:
        add_last_token(tokenizer, encoder.separator.strip(), files)
    if encoder.starts_with_bos and tokenizer.bos_token is None and (bos := files.config.get("bos_token_id")) is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)
    if encoder.layout == "plain":
        set_end_of_turn(encoder)
    try:
        encoder.check_tokens()
    except ValueError as error:
        raise ValueError(f"{files.name}: {error}; recipe {name} needs the tokenizer that its models were published with") from error
    return encoder


def add_last_token(tokenizer: PreTrainedTokenizerFast, token: str, files: ModelFiles) -> None:
    """Add the token that training appended to the backbone's vocabulary, if the tokenizer beside the weights is the backbone's."""
    tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    rows = embedding_rows(files)
    if tokenizer.convert_tokens_to_ids(token) >= rows:
        raise ValueError(
            f"{files.name}: {token} is token {tokenizer.convert_tokens_to_ids(token)}, but there are {rows} embeddings; put the "
            "tokenizer of the backbone that it was trained from beside the weights"
        )


def set_end_of_turn(encoder: StepEncoder) -> None:
    """Make the token that closes an assistant turn of the chat template the EOS token: it ends the last step."""
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    closing = encoder.render(turn).removeprefix(encoder.render(turn[:1], add_generation_prompt=True)).removeprefix("!").strip()
    if closing not in encoder.tokenizer.get_added_vocab():
        raise ValueError(
            f"the chat template closes an assistant turn with {closing!r}, which is no token; set tokenizer.chat_template"
        )
    encoder.tokenizer.eos_token = closing


def build_reward_model(files: ModelFiles, recipe: Recipe, encoder: StepEncoder, dtype: str | torch.dtype) -> RewardModel:
    """Decoder and head, from the checkpoint's weights under whatever names they have; the lm_head stays on disk."""
    assert recipe.head is not None
    head = recipe.head(files, encoder)
    check_outputs(head, encoder, files)
    config = load_config(files.folder)
    config.vocab_size = embedding_rows(files)
    if hasattr(config, "auto_map"):
        del config.auto_map  # remote code, which a saved copy must not name
    decoder = load_decoder(files, config, dtype)
    decoder.config.num_labels = encoder.num_labels
    return RewardModel.from_parts(decoder, head.to(decoder.dtype))


def check_outputs(head: nn.Module, encoder: StepEncoder, files: ModelFiles) -> None:
    """Raises ValueError for a head of another number of outputs than the recipe reads."""
    outputs = [*head.modules()][-1].out_features
    if outputs != encoder.num_labels:
        raise ValueError(
            f"{files.name}: its head has {outputs} outputs, recipe {encoder.recipe} reads {encoder.num_labels}; it is another kind "
            "of model, or wants a recipe file (--recipe FILE.yaml) with its num_labels and activation; of several classes the last "
            "is the good one"
        )


def decoder_names(files: ModelFiles) -> dict[str, str]:
    """Names of the decoder's weights in the checkpoint, by their names in the decoder."""
    plain_names = {name: name.removeprefix(WRAPPER) for name in files.weights}
    return {plain.removeprefix("model."): name for name, plain in plain_names.items() if plain.startswith("model.")}


def embedding_rows(files: ModelFiles) -> int:
    """Size of the vocabulary by the weights: config.json may be that of the backbone before tokens were added."""
    name = decoder_names(files).get(EMBEDDINGS.removeprefix("model."), EMBEDDINGS)
    return files.num_rows(name)


def load_decoder(files: ModelFiles, config: PreTrainedConfig, dtype: str | torch.dtype) -> PreTrainedModel:
    """The decoder under packed attention, no weight left random."""
    names = decoder_names(files)
    tensors = files.tensors(names.values())
    state = {name: tensors[saved] for name, saved in names.items()}
    options = {"attn_implementation": PACKED, "output_loading_info": True}
    decoder, report = MODEL_MAPPING[type(config)].from_pretrained(None, config=config, state_dict=state, dtype=dtype, **options)
    check_complete(report["missing_keys"], files.name)
    return decoder
