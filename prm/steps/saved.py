"""A checkpoint's folder in, its tokenizer and its saved contract out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG_NAME = "prm_config.json"
FORMAT_VERSION = 1
REQUIRED = ("loss", "num_labels", "activation", "aggregation", "reference_model")
REMEDY = "restore it from the run that wrote it"


def load_tokenizer(name_or_path: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that `tokenizer.json` describes, of a folder or a model on the hub.

    AutoTokenizer would put Qwen2's own pre-tokenizer in the place of the saved one wherever config.json says qwen2. Raises
    ValueError for one that is not there or damaged.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(name_or_path))
    except Exception as error:  # tokenizers raises this very class
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{name_or_path}: the tokenizer cannot be loaded ({reason}); it needs a whole tokenizer.json: copy it again"
        ) from error


def read_prm_config(directory: str | Path) -> dict[str, Any]:
    """`prm_config.json` of a checkpoint. Raises FileNotFoundError or ValueError when `directory` is not one of ours."""
    path = Path(directory) / CONFIG_NAME
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"{directory}: no such checkpoint folder")
    if not path.exists():
        raise FileNotFoundError(f"{directory}: no {CONFIG_NAME}, so this is not a PRM checkpoint; train one with scripts/train.py")
    config = read_json(path, REMEDY)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: format_version {config.get('format_version')!r}, this code reads {FORMAT_VERSION}")
    if missing := [name for name in REQUIRED if name not in config]:
        raise ValueError(f"{path}: no {missing[0]!r}; {REMEDY}")
    return config
