"""Prefixes to complete: responses in; the token ids behind which a policy would go on, shared where responses begin alike, out."""

import dataclasses
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prm.annotation.estimates import Counts
from prm.grading import GradingPool, Pair, extract_answer, reference_answer
from prm.records import Response
from prm.steps import STEP_DELIMITER, EncodedResponse, SequenceTooLongError, StepEncoder, join_steps

PrefixKey = tuple[str, str, str]
"""(question_id, reference answer, digest of the token ids)."""


@dataclass
class Prefix:
    """A question and the first steps of a response to it, and what became of the completions drawn so far."""

    key: PrefixKey
    response_ids: list[int] = field(repr=False)
    length: int
    text: str
    num_right: int = 0
    num_completions: int = 0
    costs: Counter[str] = field(default_factory=Counter)

    @property
    def token_ids(self) -> list[int]:
        return self.response_ids[: self.length]

    @property
    def gold(self) -> str:
        return self.key[1]

    @property
    def counts(self) -> Counts:
        return self.num_right, self.num_completions


@dataclass
class Trace:
    """A response with known outcome and the prefix behind each of its steps but the last."""

    response: Response
    prefixes: list[Prefix]


class Tracer:
    """Takes responses apart as their policy wrote them.

    A prefix is cut out of the token ids of the whole response, behind the blank line that ends its step. Text that is cut first and
    tokenized then would end in other tokens than the policy's own (`.` for `.\\n\\n`), where no response of the policy goes on.
    """

    def __init__(self, encoder: StepEncoder, pool: GradingPool, vocab_size: int):
        assert encoder.layout == "plain", encoder.layout
        self.encoder, self.pool, self.vocab_size = encoder, pool, vocab_size

    def trace(self, response: Response) -> Trace | str:
        """The response with its outcome and prefixes, or the reason why it cannot be labelled.

        Raises ValueError, naming the response, if the tokenizer does not belong to the model.
        """
        if not response.steps:
            return "no_steps"
        gold = reference_answer(response.answer or "")
        if not gold:
            return "no_reference_answer"
        if self._grade(gold, gold) == "bad_gold":
            return "unreadable_reference_answer"
        response = self._with_outcome(response, gold)
        if response.correct is None:
            return "no_outcome"
        try:
            encoded = self.encoder.encode(response.question, response.steps, response.name)
        except SequenceTooLongError:
            return "too_long"
        except ValueError:
            return "unencodable_text"
        self._check_vocabulary(encoded, response.name)
        return Trace(response, list(cut_prefixes(response, gold, encoded)))

    def _with_outcome(self, response: Response, gold: str) -> Response:
        if response.correct is not None:
            return response
        answer = extract_answer(join_steps(response.steps))
        grade = "no_answer" if answer is None else self._grade(gold, answer)
        return dataclasses.replace(response, extracted=answer, correct={"correct": True, "wrong": False}.get(grade))

    def _grade(self, gold: str, answer: str) -> str:
        return self.pool.compare([Pair(gold, answer)])[gold, answer]

    def _check_vocabulary(self, encoded: EncodedResponse, name: str) -> None:
        if (largest := max(encoded.input_ids)) >= self.vocab_size:
            raise ValueError(
                f"{name}: it holds token {largest}, the model knows {self.vocab_size}; give the folder the model's own tokenizer"
            )


def cut_prefixes(response: Response, gold: str, encoded: EncodedResponse) -> Iterator[Prefix]:
    """The prefix behind every step but the last, whose value is the outcome."""
    digest, start = hashlib.sha256(), 0
    for index, step_end in enumerate(encoded.step_ends[:-1]):
        digest.update(array("q", encoded.input_ids[start : step_end + 1]).tobytes())
        start = step_end + 1
        key = response.question_id, gold, digest.hexdigest()
        yield Prefix(key, encoded.input_ids, start, join_steps(response.steps[: index + 1]) + STEP_DELIMITER)


def share_prefixes(traces: Sequence[Trace]) -> None:
    """Let responses of one question that begin with the same tokens hold the same `Prefix`."""
    known: dict[PrefixKey, Prefix] = {}
    for trace in traces:
        trace.prefixes = [known.setdefault(prefix.key, prefix) for prefix in trace.prefixes]


def in_chunks(traces: Iterable[Trace], size: int) -> Iterator[list[Trace]]:
    """Chunks of at least `size` responses that end where a question ends, so that its prefixes are shared."""
    chunk: list[Trace] = []
    for trace in traces:
        if len(chunk) >= size and trace.response.question_id != chunk[-1].response.question_id:
            yield chunk
            chunk = []
        chunk.append(trace)
    if chunk:
        yield chunk
