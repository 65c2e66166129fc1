"""The contract of a checkpoint: everything that decides how a response is encoded and its scores are read.

`StepEncoder` is the only code that turns steps into tokens. It is saved with every checkpoint (`prm_config.json`) and loaded from
it by whoever scores, evaluates or serves, so that training and inference cannot differ.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prm.files import write_json
from prm.records import Response, is_instance, type_in_words
from prm.steps.encoded import EncodedResponse, SequenceTooLongError
from prm.steps.layouts import LAYOUTS, marker_id, parts_at_separators, step_by_step, with_prefix
from prm.steps.saved import CONFIG_NAME, FORMAT_VERSION, REMEDY, load_tokenizer, read_prm_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEPARATOR = "<extra_0>"
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."

CONTRACTS: dict[str, dict[str, Any]] = {
    "step_ce": {"num_labels": 3, "activation": "softmax", "aggregation": "min"},
    "orm": {"num_labels": 1, "activation": "sigmoid", "aggregation": "last"},
    "asym": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
    "reversed_asym": {"num_labels": 1, "activation": "sigmoid", "aggregation": "min"},
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

Reading = Literal["probabilities", "differences", "logits"]
"""What scores may be: probabilities of a good step, P(good) - P(bad), or raw values."""
READ_AS: dict[str, Reading] = {
    "sigmoid": "probabilities",
    "softmax": "probabilities",
    "difference": "differences",
    "identity": "logits",
}
"""What the scores of a contract are, by its activation."""

ENCODING_FIELDS = (
    *("layout", "separator", "separator_is_text", "system_prompt", "question_template", "starts_with_bos"),
    *("step_prefix", "step_joint", "reads_lines", "boundary"),
)


@dataclass
class StepEncoder:
    """How a PRM reads a response.

    Layout `separator` (discriminative): the prompt, then every step followed by the separator token, where its score is read.
    Layout `plain` (implicit PRM): the chat prompt, the steps as the policy wrote them, and EOS; a step owns its tokens and the
    blank line behind it, the last one EOS too.
    Layout `tags`: one text of question and steps, each followed by a tag of plain text, where its score is read.
    Layout `turns`: a chat turn per step, answered by `+`; the score is read at the token that predicts the answer.
    """

    tokenizer: "PreTrainedTokenizerFast" = field(repr=False)
    loss: str = "asym"
    """Objective of training, a key of `CONTRACTS`."""
    layout: Literal["separator", "plain", "tags", "turns"] = "separator"
    separator: str = SEPARATOR
    """Token behind every step; in layout `tags` the tag with the space before it, in layout `turns` the answer."""
    system_prompt: str | None = SYSTEM_PROMPT
    """None: the prompt has no system turn."""
    max_length: int = 4096
    """Longest prompt and response together, in tokens."""
    num_labels: int = 1
    """Outputs of the head; 0 without a head."""
    activation: Literal["sigmoid", "softmax", "difference", "identity"] = "sigmoid"
    """Step logits to step scores; softmax reads the last class, which is the good one, difference subtracts the first from it."""
    aggregation: str = "min"
    """Step scores to response score, unless told otherwise."""
    tau: float = 0.1
    """Temperature of softmin."""
    beta: float = 0.05
    """Weight of the implicit PRM's log ratio."""
    reference_model: str | None = None
    """Path or name of the implicit PRM's reference model."""

    # What only published PRMs do, see prm/models/published.
    separator_is_text: bool = False
    """Whether the separator is text, tokenized alone, which may give several tokens; the score is read at the last of them."""
    recipe: str | None = None
    """Published family that this contract reads."""
    question_template: str | None = None
    """The prompt as plain text with a {question}; None is the chat template. In layout `turns` the text before the first step."""
    starts_with_bos: bool = False
    """Whether the tokenizer's BOS token stands before a prompt of plain text."""
    step_prefix: str = ""
    """Text before every step, with a {number} from 1; a step that begins with `Step 1:` keeps its own."""
    step_joint: str = ""
    """Text between a tag and the next step."""
    reads_lines: bool = False
    """Whether each line of a step is tokenized apart and followed by the separator; the score is read behind the last line."""
    is_cumulative: bool = False
    """Whether a step's score is the sum of the implicit PRM's rewards up to its end."""
    boundary: Literal["step_end", "published"] = "step_end"
    """Where an implicit PRM's steps end: at their last token, or one token later, where the published scripts put it on ChatML."""

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

    @property
    def reading(self) -> Reading:
        """What the scores are."""
        return READ_AS[self.activation]

    @property
    def is_signed(self) -> bool:
        """Whether scores leave [0, 1]."""
        return self.reading != "probabilities"

    @cached_property
    def separator_ids(self) -> list[int]:
        """Tokens behind a step. Raises ValueError for a separator that the tokenizer drops, or, unless it is text, splits."""
        if not self.separator_is_text:
            return [marker_id(self.tokenizer, self.separator)]
        ids = self.tokenizer(self.separator, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the separator {self.separator!r} is no token; name another")
        return ids

    @property
    def separator_id(self) -> int:
        """The token at which a score is read. Raises as `separator_ids` does."""
        return self.separator_ids[-1]

    @property
    def has_separator(self) -> bool:
        """Whether scores are read at a token of the contract's; in layout `plain` they are sums over tokens of the steps."""
        return self.layout != "plain"

    def check_tokens(self) -> None:
        """Raise ValueError for a tokenizer without a token that the contract needs."""
        _ = self.bos_ids, self.prompt_text("?")
        if self.has_separator:
            _ = self.separator_id
        elif self.tokenizer.eos_token_id is None:
            name = self.tokenizer.name_or_path
            raise ValueError(f"the tokenizer {name!r} names no eos_token, which ends a response; set it in tokenizer_config.json")

    @cached_property
    def parts_at_separators(self) -> bool:
        """`layouts.parts_at_separators`, found once."""
        return parts_at_separators(self)

    def prompt_ids(self, question: str, example_id: str = "question") -> list[int]:
        """Token ids of system prompt and question, up to where the response starts."""
        self._check_text(question, example_id, "question", "")
        return self.prompts([question])[0]

    def encode(self, question: str, steps: list[str], example_id: str) -> EncodedResponse:
        """Encode one response. Raises ValueError, naming `example_id`, for what the contract cannot hold."""
        return self.encode_batch([Response(example_id, 0, question, steps)])[0]

    def encode_batch(self, responses: Sequence[Response]) -> list[EncodedResponse]:
        """Encode many responses in a few tokenizer calls. Raises as `encode` does, for the first bad one."""
        names = [r.question_id if r.sample_index == 0 else r.name for r in responses]
        for response, name in zip(responses, names, strict=True):
            self._check_response(response, name)
        encoded = LAYOUTS[self.layout](self, [r.question for r in responses], [r.steps for r in responses])
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
        self._check_response(response, response.question_id)
        prompt = self.prompt_ids(response.question, response.question_id)
        return step_by_step(self, [prompt], with_prefix(self, [response.steps]))[0]

    def encoding(self) -> dict[str, Any]:
        """The fields that, with the tokenizer, decide token ids and step ends."""
        return {name: getattr(self, name) for name in ENCODING_FIELDS}

    def save(self, directory: str | Path, **extra: Any) -> None:
        """Write the tokenizer and `prm_config.json`; `extra` entries (a self-test, say) are kept beside the contract."""
        self.tokenizer.save_pretrained(str(directory))
        contract = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tokenizer"}
        separator_id = self.separator_id if self.has_separator else None
        saved = {"format_version": FORMAT_VERSION, **contract, "separator_id": separator_id, **extra}
        write_json(Path(directory) / CONFIG_NAME, saved)

    @classmethod
    def load(cls, directory: str | Path) -> "StepEncoder":
        """Read the contract of a checkpoint. Raises as `read_prm_config` does, and ValueError if its tokenizer was exchanged."""
        config = read_prm_config(directory)
        known = {f.name: f.type for f in dataclasses.fields(cls) if f.name in config and f.name != "tokenizer"}
        for name, kind in known.items():
            if not is_instance(config[name], kind):
                place = Path(directory) / CONFIG_NAME
                raise ValueError(f"{place}: {name} is {config[name]!r:.80}, expected {type_in_words(kind)}; {REMEDY}")
        encoder = cls(tokenizer=load_tokenizer(directory), **{name: config[name] for name in known})
        try:
            separator_id = encoder.separator_id if encoder.has_separator else None
        except ValueError as error:
            raise ValueError(f"{directory}: {error}, or restore the tokenizer the model was trained with") from error
        if encoder.has_separator and separator_id != config.get("separator_id"):
            raise ValueError(
                f"{directory}: the tokenizer gives {encoder.separator!r} id {separator_id}, {CONFIG_NAME} says "
                f"{config.get('separator_id')}; restore the tokenizer the model was trained with"
            )
        return encoder

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """Token ids of every question's prompt; each distinct one is made once."""
        texts = {question: self.prompt_text(question) for question in dict.fromkeys(questions)}
        ids = self.tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
        prompts = {question: self.bos_ids + tokens for question, tokens in zip(texts, ids, strict=True)}
        return [prompts[question] for question in questions]

    def prompt_text(self, question: str) -> str:
        if self.question_template is not None:
            return self.question_template.format(question=question)
        return self.render(self.messages(question), add_generation_prompt=True)

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> str:
        """Chat turns as text. Raises ValueError for a tokenizer without chat template."""
        if not self.tokenizer.chat_template:
            raise ValueError(f"the tokenizer {self.tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template")
        return self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=add_generation_prompt, tokenize=False)

    def messages(self, question: str) -> list[dict[str, str]]:
        """The chat turns before the response."""
        user = {"role": "user", "content": question}
        return [user] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}, user]

    @property
    def bos_ids(self) -> list[int]:
        """What stands before a prompt of plain text. Raises ValueError for a tokenizer without the BOS token that it needs."""
        if not self.starts_with_bos:
            return []
        if self.tokenizer.bos_token_id is None:
            raise ValueError(f"the tokenizer {self.tokenizer.name_or_path!r} names no bos_token; set it in tokenizer_config.json")
        return [self.tokenizer.bos_token_id]

    def _check_response(self, response: Response, name: str) -> None:
        """Raise ValueError for what the contract cannot hold."""
        if isinstance(response.steps, str):
            raise ValueError(f"{name}: steps is one string, of which every letter would be a step; give a list, split_steps(text)")
        if not response.steps:
            raise ValueError(f"{name}: the response has no steps")
        is_free_text = self.separator_is_text and self.separator not in self.tokenizer.get_added_vocab()
        mark = self.separator.strip() if self.layout in ("separator", "tags") and not is_free_text else ""
        self._check_text(response.question, name, "question", mark if self.layout == "tags" else "")
        for index, step in enumerate(response.steps):
            if not step.strip():
                raise ValueError(f"{name}: step {index} is blank; drop it, and its label")
            self._check_text(step, name, f"step {index}", mark)

    def _check_text(self, text: str, name: str, where: str, mark: str) -> None:
        if mark and mark in text:
            raise ValueError(f"{name}: {where} contains the separator {self.separator!r}; remove it from the text")
        # The tokenizer would take these for control tokens, and the text for something its author did not write.
        if any(start in text for start in self._special_marks) and (found := [t for t in self._special_tokens if t in text]):
            raise ValueError(f"{name}: {where} contains the special token {found[0]!r}; remove it from the text")

    @cached_property
    def _special_tokens(self) -> list[str]:
        return list(self.tokenizer.all_special_tokens)

    @cached_property
    def _special_marks(self) -> set[str]:
        return {token[:2] for token in self._special_tokens}
