"""Layouts: a contract, questions and their steps in, token ids and step ends out.

A step end is known from how the tokens were laid out, or is searched for among them; `StepEncoder.encode_batch` then checks that
there are as many as steps.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prm.steps.encoded import EncodedResponse
from prm.steps.text import STEP_DELIMITER, join_steps, number_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from prm.steps.contract import StepEncoder

PROBE = ("So 7 * 2 = 14.", " x ", "\n\n\\frac{1}{2}\n", "é ∑", "9")
"""Steps whose first and last tokens may be others within a text than alone."""

Ids = list[int]


def separated(encoder: "StepEncoder", questions: Sequence[str], batch_steps: Sequence[list[str]]) -> list[EncodedResponse]:
    """Prompt, and every step followed by the separator token.

    Whole responses in one call where the tokenizer allows it: nearly twice as fast as step by step, with equal ids.
    """
    prompts = encoder.prompts(questions)
    batch_steps = with_prefix(encoder, batch_steps)
    if not encoder.parts_at_separators:
        return step_by_step(encoder, prompts, batch_steps)
    encoded = []
    texts = ["".join(step + encoder.separator for step in steps) for steps in batch_steps]
    for prompt, ids in zip(prompts, tokenize(encoder.tokenizer, texts), strict=True):
        step_ends = [len(prompt) + place for place in places_of(encoder.separator_id, ids)]
        encoded.append(EncodedResponse(prompt + ids, step_ends, len(prompt)))
    if len(encoded) > 1:
        assert encoded[:1] == step_by_step(encoder, prompts[:1], batch_steps[:1]), batch_steps[0]
    return encoded


def places_of(token: int, ids: Ids) -> list[int]:
    """Every place of `token`, by `list.index`: far quicker than a loop over all tokens."""
    places, start = [], 0
    for _ in range(ids.count(token)):
        places.append(ids.index(token, start))
        start = places[-1] + 1
    return places


def tokenize(tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> list[Ids]:
    """Token ids as the tokenizer's own call gives them, but without offsets and masks, which cost it a fifth of its time."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a saved tokenizer may truncate and pad; its own call switches both off
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def step_by_step(encoder: "StepEncoder", prompts: list[Ids], batch_steps: Sequence[list[str]]) -> list[EncodedResponse]:
    """Every step, or every line of it, tokenized alone and followed by the separator; a step's score is read at its last one."""
    pieces = [[pieces_of(encoder, step) for step in steps] for steps in batch_steps]
    texts = [piece for steps in pieces for step in steps for piece in step]
    piece_ids = iter(encoder.tokenizer(texts, add_special_tokens=False)["input_ids"])
    encoded = []
    for prompt, steps in zip(prompts, pieces, strict=True):
        ids, step_ends = list(prompt), []
        for step in steps:
            for _ in step:
                ids += [*next(piece_ids), *encoder.separator_ids]
            step_ends.append(len(ids) - 1)
        encoded.append(EncodedResponse(ids, step_ends, len(prompt)))
    return encoded


def pieces_of(encoder: "StepEncoder", step: str) -> list[str]:
    return step.strip("\n").split("\n") if encoder.reads_lines else [step]


def parts_at_separators(encoder: "StepEncoder") -> bool:
    """Whether the steps of `PROBE` get the same tokens within a text as alone; not where a tokenizer marks a text's first word."""
    if encoder.separator_is_text or encoder.separator not in encoder.tokenizer.get_added_vocab():
        return False  # text may hold it
    whole = tokenize(encoder.tokenizer, ["".join(step + encoder.separator for step in PROBE)])[0]
    return whole == step_by_step(encoder, [[]], [list(PROBE)])[0].input_ids


def plain(encoder: "StepEncoder", questions: Sequence[str], batch_steps: Sequence[list[str]]) -> list[EncodedResponse]:
    """Chat prompt, the steps joined by blank lines, and EOS."""
    prompts = encoder.prompts(questions)
    batch_steps = with_prefix(encoder, batch_steps)
    tokens = encoder.tokenizer([join_steps(steps) for steps in batch_steps], add_special_tokens=False, return_offsets_mapping=True)
    encoded = []
    for prompt, steps, ids, offsets in zip(prompts, batch_steps, tokens["input_ids"], tokens["offset_mapping"], strict=True):
        # A token belongs to the step in which it starts: `.\n\n` closes its step even when `\n\n7` would be one token.
        token_starts, start, step_ends = [first for first, _ in offsets], 0, []
        for step in steps:
            start += len(step) + len(STEP_DELIMITER)
            step_ends.append(len(prompt) + bisect_left(token_starts, start) - 1)
        step_ends[-1] = len(prompt) + len(ids)
        encoded.append(EncodedResponse([*prompt, *ids, encoder.tokenizer.eos_token_id], step_ends, len(prompt)))
    if encoder.boundary == "published":
        return [late_step_ends(encoder, *parts) for parts in zip(questions, batch_steps, encoded, strict=True)]
    return encoded


def late_step_ends(encoder: "StepEncoder", question: str, steps: list[str], encoded: EncodedResponse) -> EncodedResponse:
    """Step ends as the scripts of EurusPRM find them: the steps so far are rendered as a whole assistant turn and a blank line.

    On ChatML they count the turn's closing token, too, so that the boundary lies one token behind the step's last.
    """
    closed = [
        encoder.render([*encoder.messages(question), {"role": "assistant", "content": join_steps(steps[:count])}])
        for count in range(1, len(steps))
    ]
    texts = [text.strip() + STEP_DELIMITER for text in closed]
    late = [len(ids) - 1 for ids in tokenize(encoder.tokenizer, texts)] if texts else []
    return encoded._replace(step_ends=[*late, encoded.step_ends[-1]])


def tagged(encoder: "StepEncoder", questions: Sequence[str], batch_steps: Sequence[list[str]]) -> list[EncodedResponse]:
    """One text: the prompt, and every step with its prefix and its tag."""
    prompts = [encoder.prompt_text(question) for question in questions]
    texts = [
        prompt + encoder.step_joint.join(step + encoder.separator for step in numbered(encoder, steps))
        for prompt, steps in zip(prompts, batch_steps, strict=True)
    ]
    tokens = encoder.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    bos, encoded = encoder.bos_ids, []
    for prompt, ids, offsets in zip(prompts, tokens["input_ids"], tokens["offset_mapping"], strict=True):
        step_ends = [len(bos) + place for place in places_of(encoder.separator_id, ids)]
        response_start = len(bos) + bisect_right([end for _, end in offsets], len(prompt))
        encoded.append(EncodedResponse(bos + ids, step_ends, response_start))
    return encoded


def with_prefix(encoder: "StepEncoder", batch_steps: Sequence[list[str]]) -> Sequence[list[str]]:
    return [number_steps(steps, encoder.step_prefix) for steps in batch_steps] if encoder.step_prefix else batch_steps


def numbered(encoder: "StepEncoder", steps: Sequence[str]) -> list[str]:
    return number_steps([step.strip() for step in steps], encoder.step_prefix)


def turns(encoder: "StepEncoder", questions: Sequence[str], batch_steps: Sequence[list[str]]) -> list[EncodedResponse]:
    """A user turn per step, the question before the first, each answered by an assistant turn that says only `+`.

    Published scripts run the chat anew up to every step; one forward pass over the whole of it gives the same scores, because
    every answer before a step is `+` there, too.
    """
    template = encoder.question_template or "{question} "
    batch_turns = [
        [template.format(question=question) + steps[0], *steps[1:]]
        for question, steps in zip(questions, (numbered(encoder, steps) for steps in batch_steps), strict=True)
    ]
    texts = [encoder.render(conversation(encoder, parts)) for parts in batch_turns]
    tokens = encoder.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    encoded = []
    for question, text, ids, offsets in zip(questions, texts, tokens["input_ids"], tokens["offset_mapping"], strict=True):
        answers = answer_positions(encoder, text, [first for first, _ in offsets])
        if any(ids[position] != encoder.separator_id for position in answers):
            raise ValueError(f"the tokenizer merges the answer {encoder.separator!r} with what stands around it in {text!r}")
        question_end = text.index(question.strip()) + len(question.strip())
        response_start = bisect_right([end for _, end in offsets], question_end)
        encoded.append(EncodedResponse(ids, [position - 1 for position in answers], response_start))
    return encoded


def conversation(encoder: "StepEncoder", parts: Sequence[str]) -> list[dict[str, str]]:
    answer = {"role": "assistant", "content": encoder.separator}
    turns_of_steps = [turn for part in parts for turn in ({"role": "user", "content": part}, answer)]
    return [*encoder.messages("")[:-1], *turns_of_steps]


def answer_positions(encoder: "StepEncoder", text: str, token_starts: list[int]) -> list[int]:
    """The tokens at which the answers begin: those behind each opening of an assistant turn, which no text of a user can hold."""
    user = [{"role": "user", "content": "?"}]
    opening = encoder.render(user, add_generation_prompt=True).removeprefix(encoder.render(user))
    starts, start = [], text.find(opening)
    while start >= 0:
        starts.append(start + len(opening))
        start = text.find(opening, starts[-1])
    return [bisect_left(token_starts, start) for start in starts]


LAYOUTS: dict[str, Callable[..., list[EncodedResponse]]] = {
    "separator": separated,
    "plain": plain,
    "tags": tagged,
    "turns": turns,
}


def marker_id(tokenizer: "PreTrainedTokenizerFast", marker: str, what: str = "separator") -> int:
    """Id of the one token that `marker` is; one with a leading space is tokenized as it would be behind other text.

    Raises ValueError for a marker of no token or of several, which no position would stand for.
    """
    if marker.strip() in tokenizer.get_added_vocab():
        marker = marker.strip()  # always a token of its own; the space before it is another one
    before = "a" if marker.startswith(" ") else ""
    ids, context = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before + marker, before))
    ids = ids[len(context) :]
    if len(ids) != 1:
        raise ValueError(f"the {what} {marker!r} is {len(ids)} tokens, not one; add it as a special token")
    return ids[0]
