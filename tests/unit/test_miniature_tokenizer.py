"""The miniature's tokenizer: exact round trips, one token per value, and the chat template it shares with Qwen2.5."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prm.miniature.corpus import tokenizer_texts
from prm.miniature.problems import ProblemConfig, generate_questions, solve
from prm.miniature.tokenizer import build_tokenizer, chat
from prm.steps import SYSTEM_PROMPT


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(tokenizer_texts(ProblemConfig(), seed=0))


@pytest.mark.parametrize(
    "text",
    [
        "a\n\nb\n\n\n c\n",
        "  two  spaces\t",
        "\\boxed{5}",
        "Step 1: 4 + 3 = 0.\n\nStep 2: 0 * 5 = 0.",
        "caf\u00e9 \U0001f600 \u4f60 \x00",
    ],
)
def test_round_trip_is_exact(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_values_words_and_blank_lines_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Step 1: 4 + 3 = 0.\n\nStep 2:")["input_ids"]
    pieces = [tokenizer.decode([i]) for i in ids]
    assert pieces == ["Step", " 1", ":", " 4", " +", " 3", " =", " 0", ".", "\n\n", "Step", " 2", ":"]
    assert len(tokenizer("<extra_0>")["input_ids"]) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_chat_text_equals_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "Hello"}]
    for messages in (turns, turns[1:]):
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == chat("Hello")
    answered = [*turns, {"role": "assistant", "content": "Hi"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == chat("Hello", "Hi")


def test_saved_and_loaded_it_is_the_same_and_building_is_deterministic(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = build_tokenizer(tokenizer_texts(ProblemConfig(), seed=0))
    question = generate_questions(1, 0, ProblemConfig(), "eval")[0].question
    text = chat(question, "\n\n".join(solve(question)) + "<extra_0>")
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"] == again(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
