"""What an engine is asked: a model and questions in, checked prompts, chat turns and seeds out.

One bad prompt would end an engine, so everything a question or a model can have wrong is found here, before one starts.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from prm.records import Question
from prm.sampling.base import EngineConfig
from prm.steps import SYSTEM_PROMPT, StepEncoder, load_tokenizer
from prm.tracking import hash_path


def read_model(model: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Config and tokenizer of a policy. Raises FileNotFoundError for a missing one, ValueError for one that cannot generate."""
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise FileNotFoundError(f"--model {model}: the folder holds no config.json; give the folder that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(model)
    except OSError as error:
        raise FileNotFoundError(f"--model {model}: no such folder, and the hub gives no model of that name ({error})") from error
    architecture = (config.architectures or ["none"])[0]
    if "Reward" in architecture:
        raise ValueError(f"--model {model}: {architecture} is a reward model and writes no text; give the policy")
    try:
        tokenizer = load_tokenizer(model)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"--model {model}: it has no tokenizer; save one into the folder ({error})") from error
    return config, tokenizer


def context_length(config: EngineConfig, model_config: PretrainedConfig) -> int:
    """Longest prompt and response together. Raises ValueError if more is asked for than the model has positions."""
    positions = model_config.get_text_config().max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > positions:
        raise ValueError(f"--max_model_len is {config.max_model_len}, {config.model} has {positions} positions; lower it")
    return config.max_model_len or positions


def encode_prompts(
    questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase, context: int, vocab_size: int
) -> dict[str, list[int]]:
    """Prompt of every question, as the step contract writes it.

    Raises ValueError, naming the question, for an empty one, a lone surrogate, a special token, or a prompt that leaves no room.
    """
    encoder = StepEncoder(tokenizer=tokenizer)
    prompts: dict[str, list[int]] = {}
    for question in questions:
        check_question(question)
        prompt = encoder.prompt_ids(question.question, f"question {question.id!r}")
        if len(prompt) >= context:
            raise ValueError(
                f"question {question.id!r}: a prompt of {len(prompt)} tokens leaves no room for a response within {context}; "
                "remove it, or raise --max_model_len where the model allows"
            )
        if max(prompt) >= vocab_size:
            raise ValueError(
                f"question {question.id!r}: its prompt holds token {max(prompt)}, the model knows {vocab_size}; "
                "give the folder the model's own tokenizer"
            )
        prompts[question.id] = prompt
    if not prompts:
        raise ValueError("no question for this job; lower --num_shards or check --questions")
    return prompts


def chat_prompts(questions: Iterable[Question]) -> dict[str, list[dict[str, str]]]:
    """Chat turns of every question, for a server, which has template and tokenizer. Raises ValueError as `check_question` does."""
    prompts: dict[str, list[dict[str, str]]] = {}
    for question in questions:
        check_question(question)
        system = {"role": "system", "content": SYSTEM_PROMPT}
        prompts[question.id] = [system, {"role": "user", "content": question.question}]
    if not prompts:
        raise ValueError("no question for this job; lower --num_shards or check --questions")
    return prompts


def check_question(question: Question) -> None:
    """Raise ValueError, naming the question, for an empty one or a lone surrogate."""
    if not question.question.strip():
        raise ValueError(f"question {question.id!r} is empty; remove it")
    try:
        question.question.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"question {question.id!r} holds a lone surrogate ({error}); repair its text") from error


def sample_seed(run_seed: int, *names: str | int) -> int:
    """Seed of one draw, 56 bits of a hash of what names it: order, sharding and resumption cannot change it."""
    return int.from_bytes(hashlib.sha256(json.dumps([run_seed, *names]).encode()).digest()[:7])


def model_identity(model: str, model_config: PretrainedConfig) -> str:
    """A folder's hash, or a name on the hub with its commit."""
    return hash_path(model) if Path(model).is_dir() else f"{model}@{getattr(model_config, '_commit_hash', None)}"
