"""The step contract: a question and its steps in, token ids and the place of every step's score out."""

from prm.steps.contract import CONTRACTS, READ_AS, SEPARATOR, SYSTEM_PROMPT, Reading, StepEncoder
from prm.steps.encoded import EncodedResponse, SequenceTooLongError
from prm.steps.saved import CONFIG_NAME, FORMAT_VERSION, load_tokenizer, read_prm_config
from prm.steps.text import STEP_DELIMITER, join_steps, number_steps, split_steps, token_counts

__all__ = [
    "CONFIG_NAME",
    "CONTRACTS",
    "FORMAT_VERSION",
    "READ_AS",
    "SEPARATOR",
    "STEP_DELIMITER",
    "SYSTEM_PROMPT",
    "EncodedResponse",
    "Reading",
    "SequenceTooLongError",
    "StepEncoder",
    "join_steps",
    "load_tokenizer",
    "number_steps",
    "read_prm_config",
    "split_steps",
    "token_counts",
]
