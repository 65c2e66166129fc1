"""A checkpoint's folder in, its tokenizer and its saved contract out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG_NAME = "prm_config.json"
FORMAT_VERSION = 1


def load_tokenizer(name_or_path: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that `tokenizer.json` describes, of a folder or a model on the hub.

    AutoTokenizer would put Qwen2's own pre-tokenizer in the place of the saved one wherever config.json says qwen2.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(name_or_path))


def read_prm_config(directory: str | Path) -> dict[str, Any]:
    """`prm_config.json` of a checkpoint. Raises FileNotFoundError or ValueError when `directory` is not one of ours."""
    path = Path(directory) / CONFIG_NAME
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"{directory}: no such checkpoint folder")
    if not path.exists():
        raise FileNotFoundError(f"{directory}: no {CONFIG_NAME}, so this is not a PRM checkpoint; train one with scripts/train.py")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); restore it from the run that wrote it") from error
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: format_version {config.get('format_version')!r}, this code reads {FORMAT_VERSION}")
    return config
