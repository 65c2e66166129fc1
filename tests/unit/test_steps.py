import copy
import json

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from prm.data.sources import load_responses
from prm.records import Response
from prm.steps import CONTRACTS, SequenceTooLongError, StepEncoder, join_steps, read_prm_config, split_steps
from prm.steps.layouts import tokenize

STEPS = ["3 + 4 = 7.", "So 7 * 2 = 14.", "The answer is \\boxed{14}."]


@pytest.fixture
def encoder(tiny_tokenizer):
    return StepEncoder.for_loss("asym", tiny_tokenizer)


def test_split_drops_blank_parts_and_keeps_text():
    assert split_steps("a\n\n\n\nb\n\n  \n\nc\n") == ["a", "b", "c\n"]
    assert join_steps(split_steps("a\n\nb\n\nc")) == "a\n\nb\n\nc"
    assert split_steps(" \n\n ") == []


def test_merge_is_greedy_from_the_start_and_never_cuts():
    count_words = lambda text: len(text.split())  # noqa: E731
    assert split_steps("a b\n\nc\n\nd e f g h\n\ni\n\nj", 3, count_words) == ["a b\n\nc", "d e f g h", "i\n\nj"]
    with pytest.raises(ValueError, match="count_tokens"):
        split_steps("a", max_step_length=3)


def test_separator_layout_by_hand(encoder):
    encoded = encoder.encode("How many?", STEPS, "q1")
    prompt = encoder.tokenizer.apply_chat_template(encoder.messages("How many?"), add_generation_prompt=True, tokenize=False)
    expected = prompt + "".join(step + "<extra_0>" for step in STEPS)
    assert encoder.tokenizer.decode(encoded.input_ids) == expected
    assert [encoded.input_ids[end] for end in encoded.step_ends] == [encoder.separator_id] * 3
    assert encoded.step_ends[-1] == len(encoded.input_ids) - 1
    assert encoded.input_ids[: encoded.response_start] == encoder.prompt_ids("How many?")
    # The whole text in one call gives the same ids: nothing merges across a special token.
    assert encoder.tokenizer(expected, add_special_tokens=False)["input_ids"] == encoded.input_ids


def test_plain_layout_steps_own_their_tokens(tiny_tokenizer):
    encoder = StepEncoder.for_loss("implicit_prm", tiny_tokenizer)
    encoded = encoder.encode("How many?", STEPS, "q1")
    starts = [encoded.response_start, *(end + 1 for end in encoded.step_ends[:-1])]
    texts = [tiny_tokenizer.decode(encoded.input_ids[s : e + 1]) for s, e in zip(starts, encoded.step_ends, strict=True)]
    assert texts == [STEPS[0] + "\n\n", STEPS[1] + "\n\n", STEPS[2] + "<|im_end|>"]


def test_plain_layout_with_multibyte_text(tiny_tokenizer):
    encoder = StepEncoder.for_loss("implicit_prm", tiny_tokenizer)
    steps = ["π ≈ 3.14 \N{WINKING FACE}", "é", "∑"]
    encoded = encoder.encode("Ω?", steps, "q1")
    starts = [encoded.response_start, *(end + 1 for end in encoded.step_ends[:-1])]
    texts = [tiny_tokenizer.decode(encoded.input_ids[s : e + 1]) for s, e in zip(starts, encoded.step_ends, strict=True)]
    assert "".join(texts) == join_steps(steps) + "<|im_end|>"
    assert [text.strip() for text in texts] == [steps[0], steps[1], steps[2] + "<|im_end|>"]


def test_batch_equals_one_by_one(encoder):
    shorter = Response("q1", 1, "How many?", STEPS[:1])
    responses = [Response("q1", 0, "How many?", STEPS), shorter, Response("q2", 0, "Why?", STEPS)]
    assert encoder.encode_batch(responses) == [encoder.encode(r.question, r.steps, r.question_id) for r in responses]


def test_saved_contract_is_the_loaded_one(encoder, tmp_path):
    encoder.max_length, encoder.tau = 777, 0.3
    encoder.save(tmp_path, self_test={"scores": [0.5]})
    loaded = StepEncoder.load(tmp_path)
    assert loaded.encode("How many?", STEPS, "q") == encoder.encode("How many?", STEPS, "q")
    assert (loaded.max_length, loaded.tau, loaded.loss) == (777, 0.3, "asym")
    assert read_prm_config(tmp_path)["self_test"] == {"scores": [0.5]}


def test_a_tokenizer_that_has_the_separator_keeps_its_id(tiny_tokenizer, tmp_path):
    tiny_tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>"]}, replace_extra_special_tokens=False)
    size = len(tiny_tokenizer)
    StepEncoder.for_loss("asym", tiny_tokenizer)
    assert len(tiny_tokenizer) == size
    assert "<|im_start|>" in tiny_tokenizer.all_special_tokens


@pytest.mark.parametrize("loss", CONTRACTS)
def test_good_class_is_the_last(loss, tiny_tokenizer):
    encoder = StepEncoder.for_loss(loss, tiny_tokenizer)
    assert encoder.good_class == max(CONTRACTS[loss]["num_labels"] - 1, 0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "q7: the response has no steps"),
        (["a", " \n"], "q7: step 1 is blank"),
        (["a <extra_0> b"], "q7: step 0 contains the separator"),
        (["a", "b<|im_end|>"], "q7: step 1 contains the special token"),
    ],
)
def test_refuses_what_the_contract_cannot_hold(encoder, steps, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode("How many?", steps, "q7")


def test_refuses_a_text_in_place_of_its_steps(encoder):
    response = Response("q7", 0, "How many?", ["one."])
    object.__setattr__(response, "steps", "one.\n\ntwo.")  # tests check types, users' notebooks do not
    with pytest.raises(ValueError, match=r"q7: steps is one string, .* give a list, split_steps\(text\)"):
        encoder.encode_batch([response])


def test_refuses_special_tokens_in_the_question_and_too_long(encoder):
    with pytest.raises(ValueError, match="q7: question contains the special token"):
        encoder.encode("How <|im_start|>?", ["a"], "q7")
    encoder.max_length = 20
    with pytest.raises(SequenceTooLongError, match=r"q7: \d+ tokens, max_length is 20"):
        encoder.encode("How many?", STEPS, "q7")


def test_unknown_loss_missing_template_and_split_separator(tiny_tokenizer):
    with pytest.raises(ValueError, match="loss 'asymm' is unknown"):
        StepEncoder.for_loss("asymm", tiny_tokenizer)
    encoder = StepEncoder(tiny_tokenizer, separator="<sep>")
    with pytest.raises(ValueError, match=r"the separator '<sep>' is \d+ tokens"):
        encoder.encode("How many?", ["a"], "q")
    tiny_tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        StepEncoder.for_loss("asym", tiny_tokenizer).prompt_ids("How many?")


def test_a_plain_response_needs_a_token_behind_it(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    encoder = StepEncoder.for_loss("implicit_prm", tokenizer)
    encoder.check_tokens()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"names no eos_token, which ends a response; set it in tokenizer_config\.json"):
        encoder.check_tokens()


def test_load_refuses_what_is_no_checkpoint(encoder, tmp_path, tiny_tokenizer):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        StepEncoder.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no prm_config.json.*scripts/train.py"):
        StepEncoder.load(tmp_path)
    (tmp_path / "prm_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        StepEncoder.load(tmp_path)
    (tmp_path / "prm_config.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99"):
        StepEncoder.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "foo"}, "layout is 'foo', expected"),
        ({"activation": "foo"}, "activation is 'foo', expected"),
        ({"max_length": "4096"}, "max_length is '4096', expected"),
        ({"num_labels": "1"}, "num_labels is '1', expected"),
        ({"separator": None}, "separator is None, expected"),
    ],
)
def test_load_names_what_a_contract_cannot_say(encoder, tmp_path, change, message):
    encoder.save(tmp_path)
    path = tmp_path / "prm_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"prm_config\.json: {message}.*restore it from the run that wrote it"):
        StepEncoder.load(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"prm_config\.json: expected a JSON object, found list"):
        StepEncoder.load(tmp_path)
    path.write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match=r"prm_config\.json: no 'loss'"):
        StepEncoder.load(tmp_path)


def test_load_names_the_checkpoint_of_a_tokenizer_that_is_missing_damaged_or_splits_the_separator(encoder, tmp_path):
    encoder.save(tmp_path)
    path = tmp_path / "prm_config.json"
    contract = path.read_text()
    path.write_text(json.dumps(json.loads(contract) | {"separator": "<my sep>"}))
    with pytest.raises(ValueError, match=f"{tmp_path}: the separator '<my sep>' is 7 tokens, not one"):
        StepEncoder.load(tmp_path)
    path.write_text(contract)
    for text in ("{", "{}", None):
        (tmp_path / "tokenizer.json").write_text(text) if text else (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(ValueError, match=f"{tmp_path}: the tokenizer cannot be loaded .* tokenizer.json: copy it again"):
            StepEncoder.load(tmp_path)


def test_load_refuses_an_exchanged_tokenizer(encoder, tmp_path):
    encoder.save(tmp_path)
    other = AutoTokenizer.from_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "prm_config.json").read_text())
    config["separator_id"] -= 1
    (tmp_path / "prm_config.json").write_text(json.dumps(config))
    assert other.chat_template
    with pytest.raises(ValueError, match="restore the tokenizer"):
        StepEncoder.load(tmp_path)


def test_whole_text_equals_step_by_step(encoder):
    edges = [
        " a",
        "a ",
        "\n",
        "\n\na",
        "a\n\n",
        "7",
        "7.",
        "é",
        "∑ \N{WINKING FACE}",
        "\\boxed{1}",
        "<extra",
        "0>",
        "\t",
        "a\u00a0",
    ]
    steps = [step for step in edges if step.strip()]
    responses = [Response("q", i, "How many?", [first, second, first]) for i, first in enumerate(steps) for second in steps]
    assert encoder.parts_at_separators
    assert encoder.encode_batch(responses) == [encoder.encode_by_step(response) for response in responses]


def test_truncation_and_padding_of_a_saved_tokenizer_do_not_count(encoder):
    responses = [Response("q", 0, "How many?", STEPS), Response("q", 1, "How many?", STEPS[:1])]
    expected = encoder.encode_batch(responses)
    encoder.tokenizer.backend_tokenizer.enable_truncation(5)
    encoder.tokenizer.backend_tokenizer.enable_padding()
    assert (
        tokenize(encoder.tokenizer, ["3 + 4 = 7. So 7 * 2 = 14.", "a"])
        == encoder.tokenizer(["3 + 4 = 7. So 7 * 2 = 14.", "a"])["input_ids"]
    )
    assert encoder.encode_batch(responses) == expected


def test_a_tokenizer_that_marks_first_words_is_given_single_steps(tiny_tokenizer):
    """As sentencepiece does: within the text a step would lack the mark that it has alone, or have one that it lacks."""
    tiny_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="_", prepend_scheme="first")
    encoder = StepEncoder.for_loss("asym", tiny_tokenizer)
    responses = [Response("q", 0, "How many?", ["a b", "a"]), Response("q", 1, "How many?", ["b"])]
    assert not encoder.parts_at_separators
    assert encoder.encode_batch(responses) == [encoder.encode_by_step(response) for response in responses]


def test_whole_text_equals_step_by_step_on_real_responses(real_data, encoder):
    encoder.max_length = 100_000  # the tiny tokenizer knows hardly a word
    responses = load_responses(real_data / "rollouts" / "qwen25math_rm_100x8.jsonl")
    assert encoder.encode_batch(responses) == [encoder.encode_by_step(response) for response in responses]
