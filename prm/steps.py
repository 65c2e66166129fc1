"""The step contract: a question and its steps in, token ids and the place of every step's score out.

`StepEncoder` is the only code that turns steps into tokens. It is saved with every checkpoint (`prm_config.json`) and loaded from
it by whoever scores, evaluates or serves, so that training and inference cannot differ.
"""

import dataclasses
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prm.files import write_json
from prm.records import Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STEP_DELIMITER = "\n\n"
SEPARATOR = "<extra_0>"
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
CONFIG_NAME = "prm_config.json"
PROBE = ("So 7 * 2 = 14.", " x ", "\n\n\\frac{1}{2}\n", "é ∑", "9")
"""Steps whose edges a tokenizer might treat otherwise within a text than at its ends."""
FORMAT_VERSION = 1

CONTRACTS: dict[str, dict[str, Any]] = {
    "step_ce": {"num_labels": 3, "activation": "softmax", "aggregation": "min"},
    "orm": {"num_labels": 1, "activation": "sigmoid", "aggregation": "last"},
    "asym": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "min": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "geometric_mean": {"num_labels": 1, "activation": "sigmoid", "aggregation": "geometric_mean"},
    "softmin": {"num_labels": 1, "activation": "sigmoid", "aggregation": "softmin"},
    "robust_asym": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "td_lambda": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "mc_regression": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "pqm": {"num_labels": 1, "activation": "identity", "aggregation": "min"},
    "margin_ranking": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "implicit_prm": {"layout": "plain", "num_labels": 0, "activation": "identity", "aggregation": "min"},
}
"""What each objective fixes about encoding and reading."""


class SequenceTooLongError(ValueError):
    """An encoded response is longer than the contract's `max_length`."""


class EncodedResponse(NamedTuple):
    """Token ids of prompt and response; `step_ends[m]` is the position at which step m is scored."""

    input_ids: list[int]
    step_ends: list[int]
    response_start: int


def load_tokenizer(name_or_path: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that `tokenizer.json` describes, of a folder or a model on the hub.

    AutoTokenizer would put Qwen2's own pre-tokenizer in the place of the saved one wherever config.json says qwen2.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(name_or_path))


def split_steps(text: str, max_step_length: int | None = None, count_tokens: Callable[[str], int] | None = None) -> list[str]:
    """Split at blank lines and drop blank parts; with `max_step_length` (tokens), merge neighbours from the start while they fit.

    No part is ever cut: one that is longer than `max_step_length` stays a step of its own.
    """
    parts = [part for part in text.split(STEP_DELIMITER) if part.strip()]
    if max_step_length is None:
        return parts
    if count_tokens is None:
        raise ValueError("max_step_length counts tokens: give count_tokens, or a tokenizer on the command line")
    steps: list[str] = []
    for part in parts:
        if steps and count_tokens(merged := steps[-1] + STEP_DELIMITER + part) <= max_step_length:
            steps[-1] = merged
        else:
            steps.append(part)
    return steps


def join_steps(steps: Sequence[str]) -> str:
    """The text of a response, blank parts aside the inverse of `split_steps`."""
    return STEP_DELIMITER.join(steps)


@dataclass
class StepEncoder:
    """How a PRM reads a response.

    Layout `separator` (discriminative): the chat prompt, then every step followed by the separator token, where its score is read.
    Layout `plain` (implicit PRM): the chat prompt, the steps as the policy wrote them, and EOS; a step owns its tokens and the
    blank line behind it, the last one EOS too.
    """

    tokenizer: "PreTrainedTokenizerFast" = field(repr=False)
    loss: str = "asym"
    """Objective of training, a key of `CONTRACTS`."""
    layout: Literal["separator", "plain"] = "separator"
    separator: str = SEPARATOR
    system_prompt: str = SYSTEM_PROMPT
    max_length: int = 4096
    """Longest prompt and response together, in tokens."""
    num_labels: int = 1
    """Outputs of the head; 0 without a head."""
    activation: Literal["sigmoid", "softmax", "identity"] = "sigmoid"
    """Step logits to step scores; softmax reads the last class, which is the good one."""
    aggregation: str = "min"
    """Step scores to response score, unless told otherwise."""
    tau: float = 0.1
    """Temperature of softmin."""
    beta: float = 0.05
    """Weight of the implicit PRM's log ratio."""
    reference_model: str | None = None
    """Path or name of the implicit PRM's reference model."""

    @classmethod
    def for_loss(cls, loss: str, tokenizer: "PreTrainedTokenizerFast", **overrides: Any) -> "StepEncoder":
        """The contract of an objective; the separator is added to a tokenizer that lacks it."""
        if loss not in CONTRACTS:
            raise ValueError(f"loss {loss!r} is unknown; choose one of {', '.join(CONTRACTS)}")
        encoder = cls(tokenizer=tokenizer, loss=loss, **{**CONTRACTS[loss], **overrides})
        if encoder.layout == "separator" and encoder.separator not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"additional_special_tokens": [encoder.separator]}, replace_extra_special_tokens=False)
        return encoder

    @property
    def good_class(self) -> int:
        """Index of the class whose probability is the step's score."""
        return max(self.num_labels - 1, 0)

    @cached_property
    def separator_id(self) -> int:
        ids = self.tokenizer(self.separator, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"the separator {self.separator!r} is {len(ids)} tokens, not one; add it as a special token")
        return ids[0]

    def prompt_ids(self, question: str, example_id: str = "question") -> list[int]:
        """Token ids of system prompt and question, up to where the response starts."""
        return self._prompts([question], [example_id])[0]

    def encode(self, question: str, steps: list[str], example_id: str) -> EncodedResponse:
        """Encode one response. Raises ValueError, naming `example_id`, for what the contract cannot hold."""
        return self.encode_batch([Response(example_id, 0, question, steps)])[0]

    def encode_batch(self, responses: Sequence[Response]) -> list[EncodedResponse]:
        """Encode many responses in a few tokenizer calls. Raises as `encode` does, for the first bad one."""
        names = [r.question_id if r.sample_index == 0 else f"{r.question_id} #{r.sample_index}" for r in responses]
        for response, name in zip(responses, names, strict=True):
            self._check_steps(response.steps, name)
        prompts = self._prompts([r.question for r in responses], names)
        encode = self._separated if self.layout == "separator" else self._plain
        encoded = encode(prompts, [r.steps for r in responses])
        for response, name, (ids, step_ends, _) in zip(responses, names, encoded, strict=True):
            if len(ids) > self.max_length:
                raise SequenceTooLongError(
                    f"{name}: {len(ids)} tokens, max_length is {self.max_length}; raise it or drop the response"
                )
            if len(set(step_ends)) != len(response.steps):
                raise ValueError(
                    f"{name}: {len(response.steps)} steps, but {len(set(step_ends))} step ends; a step has no token of its own"
                )
        return encoded

    def encode_by_step(self, response: Response) -> EncodedResponse:
        """The reference for `encode_batch` in layout `separator`: every step is tokenized alone."""
        self._check_steps(response.steps, response.question_id)
        return self._step_by_step([self.prompt_ids(response.question, response.question_id)], [response.steps])[0]

    def save(self, directory: str | Path, **extra: Any) -> None:
        """Write the tokenizer and `prm_config.json`; `extra` entries (a self-test, say) are kept beside the contract."""
        self.tokenizer.save_pretrained(str(directory))
        contract = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tokenizer"}
        separator_id = self.separator_id if self.layout == "separator" else None
        write_json(
            Path(directory) / CONFIG_NAME,
            {"format_version": FORMAT_VERSION, **contract, "separator_id": separator_id, **extra},
        )

    @classmethod
    def load(cls, directory: str | Path) -> "StepEncoder":
        """Read the contract of a checkpoint. Raises as `read_prm_config` does, and ValueError if its tokenizer was exchanged."""
        config = read_prm_config(directory)
        names = {f.name for f in dataclasses.fields(cls)} - {"tokenizer"}
        tokenizer = load_tokenizer(directory)
        encoder = cls(tokenizer=tokenizer, **{name: config[name] for name in names if name in config})
        if encoder.layout == "separator" and encoder.separator_id != config["separator_id"]:
            raise ValueError(
                f"{directory}: the tokenizer gives {encoder.separator!r} id {encoder.separator_id}, {CONFIG_NAME} says "
                f"{config['separator_id']}; restore the tokenizer the model was trained with"
            )
        return encoder

    def _prompts(self, questions: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        if not self.tokenizer.chat_template:
            raise ValueError(f"the tokenizer {self.tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template")
        texts: dict[str, str] = {}
        for question, name in zip(questions, names, strict=True):
            if question not in texts:
                self._check_text(question, name, "question")
                texts[question] = self.tokenizer.apply_chat_template(
                    self.messages(question), add_generation_prompt=True, tokenize=False
                )
        ids = self.tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
        prompts = dict(zip(texts, ids, strict=True))
        return [prompts[question] for question in questions]

    def messages(self, question: str) -> list[dict[str, str]]:
        """The chat turns before the response."""
        return [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": question}]

    def _separated(self, prompts: list[list[int]], batch_steps: list[list[str]]) -> list[EncodedResponse]:
        """Whole responses in one call where the tokenizer allows it: nearly twice as fast as step by step, with equal ids."""
        if not self._parts_at_separators:
            return self._step_by_step(prompts, batch_steps)
        encoded = []
        texts = ["".join(step + self.separator for step in steps) for steps in batch_steps]
        for prompt, ids in zip(prompts, self._tokenize(texts), strict=True):
            step_ends = [position for position, token in enumerate(ids, start=len(prompt)) if token == self.separator_id]
            encoded.append(EncodedResponse(prompt + ids, step_ends, len(prompt)))
        if len(encoded) > 1:
            assert encoded[:1] == self._step_by_step(prompts[:1], batch_steps[:1]), batch_steps[0]
        return encoded

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """As the tokenizer's own call, but without offsets and masks, which cost it a fifth of its time."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # a saved tokenizer may have either, which the call sets aside
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _step_by_step(self, prompts: list[list[int]], batch_steps: list[list[str]]) -> list[EncodedResponse]:
        texts = [step for steps in batch_steps for step in steps]
        step_ids = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        encoded = []
        for prompt, steps in zip(prompts, batch_steps, strict=True):
            ids, step_ends = list(prompt), []
            for _ in steps:
                ids += next(step_ids)
                step_ends.append(len(ids))
                ids.append(self.separator_id)
            encoded.append(EncodedResponse(ids, step_ends, len(prompt)))
        return encoded

    @cached_property
    def _parts_at_separators(self) -> bool:
        """Whether each step gets the same tokens within the whole text as alone; not where a text's first word is marked."""
        whole = self.tokenizer("".join(step + self.separator for step in PROBE), add_special_tokens=False)["input_ids"]
        return whole == self._step_by_step([[]], [list(PROBE)])[0].input_ids

    def _plain(self, prompts: list[list[int]], batch_steps: list[list[str]]) -> list[EncodedResponse]:
        texts = [join_steps(steps) for steps in batch_steps]
        tokens = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        encoded = []
        for prompt, steps, ids, offsets in zip(prompts, batch_steps, tokens["input_ids"], tokens["offset_mapping"], strict=True):
            # A token belongs to the step in which it starts: `.\n\n` closes its step even when `\n\n7` would be one token.
            token_starts, start, step_ends = [first for first, _ in offsets], 0, []
            for step in steps:
                start += len(step) + len(STEP_DELIMITER)
                step_ends.append(len(prompt) + bisect_left(token_starts, start) - 1)
            step_ends[-1] = len(prompt) + len(ids)
            encoded.append(EncodedResponse([*prompt, *ids, self.tokenizer.eos_token_id], step_ends, len(prompt)))
        return encoded

    def _check_steps(self, steps: Sequence[str], name: str) -> None:
        if not steps:
            raise ValueError(f"{name}: the response has no steps")
        for index, step in enumerate(steps):
            if not step.strip():
                raise ValueError(f"{name}: step {index} is blank; drop it, and its label")
            if self.layout == "separator" and self.separator in step:
                raise ValueError(f"{name}: step {index} contains the separator {self.separator!r}; remove it from the text")
            self._check_text(step, name, f"step {index}")

    def _check_text(self, text: str, name: str, where: str) -> None:
        # The tokenizer would take these for control tokens, and the text for something its author did not write.
        if any(mark in text for mark in self._special_marks) and (found := [t for t in self._special_tokens if t in text]):
            raise ValueError(f"{name}: {where} contains the special token {found[0]!r}; remove it from the text")

    @cached_property
    def _special_tokens(self) -> list[str]:
        return list(self.tokenizer.all_special_tokens)

    @cached_property
    def _special_marks(self) -> set[str]:
        return {token[:2] for token in self._special_tokens}


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
