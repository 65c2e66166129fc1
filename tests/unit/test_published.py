"""Published PRMs: tiny random checkpoints of every family against slow references in the manner of the official snippets."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_published import byte_level_tokenizer, linear_head, llama_tokenizer, mistral_tokenizer, qwen_tokenizer, random_lm, write
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prm.models import ImplicitPRM, RewardModel, load_model, read_contract, save_model
from prm.models.files import ModelFiles, model_folder
from prm.models.published import RECIPES, find_recipe
from prm.models.step_scores import score_batch
from prm.records import Response
from prm.steps import SYSTEM_PROMPT, SequenceTooLongError

RESPONSES = [
    Response("q1", 0, "How many apples are 3 + 4?", ["Mia has 3 apples.", "3 + 4 = 7.\nSo there are 7", "The answer is \\boxed{7}."]),
    Response("q2", 0, "What is 2 - 1?", ["Step 1: 2 - 1 = 1."]),
    Response("q1", 1, "How many apples are 3 + 4?", ["Nobody knows", "9."]),
]


def references(score, responses=RESPONSES):
    with torch.no_grad():
        return [[float(value) for value in score(r.question, r.steps)] for r in responses]


def scores(path, recipe=None, reference=None):
    model, encoder = load_model(path, dtype="float32", recipe=recipe)
    return score_batch(model, encoder, encoder.encode_batch(RESPONSES), reference)


def assert_equal(ours, expected, tolerance=1e-5):
    flat = [score for row in expected for score in row]
    assert max(flat) - min(flat) > 1e-3, "a reference whose scores hardly differ would prove nothing"
    for row, wanted in zip(ours, expected, strict=True):
        assert row == pytest.approx(wanted, abs=tolerance)


def load_tokenizer(path):
    return PreTrainedTokenizerFast.from_pretrained(path)


def hidden_states(lm, ids):
    return lm.model(torch.tensor([ids])).last_hidden_state[0]


# 1 and 9: Qwen2.5-Math-PRM, ReasonFlux-PRM


def two_layer_head(seed=1):
    first, last = linear_head("score.0", 128, seed=seed), linear_head("score.2", 2, seed=seed + 1)
    return {**first, **last}


def write_qwen(folder):
    tokenizer = qwen_tokenizer("<extra_0>")
    lm = random_lm("qwen2", tokenizer)
    remote = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel", "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig"}
    head = two_layer_head()
    return lm, head, write(folder, lm, tokenizer, "Qwen2ForProcessRewardModel", head, auto_map=remote)


def chat_scores(path, lm, head, question, steps, system):
    """Softmax over both classes at every token, those of the separator kept."""
    tokenizer = load_tokenizer(path)
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"}]
    text = tokenizer.apply_chat_template([*system, *chat], tokenize=False)
    ids = tokenizer.encode(text)
    hidden = torch.relu(hidden_states(lm, ids) @ head["score.0.weight"].T + head["score.0.bias"])
    probabilities = (hidden @ head["score.2.weight"].T + head["score.2.bias"]).softmax(-1)
    return probabilities[torch.tensor(ids) == tokenizer.encode("<extra_0>")[0], 1]


def test_qwen_prm(tmp_path):
    lm, head, path = write_qwen(tmp_path / "Qwen2.5-Math-PRM-7B")
    system = [{"role": "system", "content": SYSTEM_PROMPT}]
    assert_equal(scores(path), references(lambda q, steps: chat_scores(path, lm, head, q, steps, system)))


def test_reasonflux_prm_has_no_system_turn(tmp_path):
    lm, head, path = write_qwen(tmp_path / "ReasonFlux-PRM-7B")
    assert read_contract(path)["recipe"] == "reasonflux"
    assert_equal(scores(path), references(lambda q, steps: chat_scores(path, lm, head, q, steps, [])))


# 2 and 7: Math-Shepherd, ER-PRM


def tag_scores(path, lm, text, tag, good, bad):
    """Softmax over two tokens of the full logits at every tag, class 0 the good one."""
    tokenizer = load_tokenizer(path)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    candidates = [tokenizer.encode(good, add_special_tokens=False)[-1], tokenizer.encode(bad, add_special_tokens=False)[-1]]
    pairs = lm(torch.tensor([ids])).logits[0][:, candidates].softmax(-1)[:, 0]
    return pairs[torch.tensor(ids) == tokenizer.encode(tag, add_special_tokens=False)[-1]]


def numbered(steps, end):
    return [f"{step if step.startswith('Step 1:') else f'Step {i}: {step}'}{end}" for i, step in enumerate(steps, start=1)]


def test_math_shepherd_with_a_sliding_window_shorter_than_the_response(tmp_path):
    tokenizer = mistral_tokenizer()
    lm = random_lm("mistral", tokenizer, sliding_window=24)
    path = write(tmp_path / "math-shepherd-mistral-7b-prm", lm, tokenizer, "MistralForCausalLM", pickled=True)
    text = lambda q, steps: f"{q} " + "\n".join(numbered(steps, " ки"))  # noqa: E731
    expected = references(lambda q, steps: tag_scores(path, lm, text(q, steps), "ки", "+", "-"))
    assert_equal(scores(path), expected)
    model, encoder = load_model(path)
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.separator_id) == "▁ки"
    assert encoder.encode_batch(RESPONSES)[0].input_ids[0] == tokenizer.bos_token_id
    lm.config.sliding_window = None
    assert scores(path)[0][2] != pytest.approx(references(lambda q, s: tag_scores(path, lm, text(q, s), "ки", "+", "-"))[0][2])
    assert not hasattr(model, "lm_head")


def test_er_prm_has_no_line_end_behind_its_tags(tmp_path):
    tokenizer = llama_tokenizer()
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "Llama3.1-Math-PRM", lm, tokenizer, "LlamaForCausalLM")
    text = lambda q, steps: f"{q} " + "\n".join(numbered(steps, " ки")).replace(" ки\n", " ки")  # noqa: E731
    assert_equal(scores(path), references(lambda q, steps: tag_scores(path, lm, text(q, steps), " ки", " +", " -")))


def test_a_tied_lm_head_is_the_embedding(tmp_path):
    tokenizer = llama_tokenizer()
    lm = random_lm("llama", tokenizer, tie_word_embeddings=True)
    path = write(tmp_path / "ER-PRM-tied", lm, tokenizer, "LlamaForCausalLM")
    weights = load_file(path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    text = lambda q, steps: f"{q} " + "".join(numbered(steps, " ки"))  # noqa: E731
    assert_equal(scores(path), references(lambda q, steps: tag_scores(path, lm, text(q, steps), " ки", " +", " -")))


# 3: RLHFlow


def test_rlhflow_turn_by_turn(tmp_path):
    tokenizer = llama_tokenizer()
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "Llama3.1-8B-PRM-Deepseek-Data", lm, tokenizer, "LlamaForCausalLM")

    def score(question, steps):
        candidates, chat, values = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]], [], []
        for index, step in enumerate(steps):
            chat.append({"role": "user", "content": f"{question} {step}" if index == 0 else step})
            chat.append({"role": "assistant", "content": "+"})
            ids = tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
            values.append(lm(torch.tensor([ids])).logits[0, -3, candidates].softmax(-1)[0])
        return values

    assert_equal(scores(path), references(score))


# 4: Skywork


def write_skywork(folder):
    tokenizer = qwen_tokenizer(bos="<|endoftext|>")
    lm = random_lm("qwen2", tokenizer)
    head = linear_head("v_head.summary", 1)
    return tokenizer, lm, head, write(folder, lm, tokenizer, "Qwen2ForPrmModel", head, pickled=True)


def test_skywork_line_by_line(tmp_path):
    tokenizer, lm, head, path = write_skywork(tmp_path / "Skywork-o1-Open-PRM-Qwen-2.5-7B")

    def score(question, steps):
        ids, lines = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
        for line in "\n".join(steps).split("\n"):
            ids += [*tokenizer.encode(line), tokenizer.encode("\n")[-1]]
            lines.append(len(ids) - 1)
        values = (hidden_states(lm, ids) @ head["v_head.summary.weight"].T + head["v_head.summary.bias"])[:, 0].sigmoid()[lines]
        ends = torch.tensor([len(step.split("\n")) for step in steps]).cumsum(0) - 1
        return values[ends]

    assert_equal(scores(path), references(score))


# 5: EurusPRM, ImplicitPRM


def write_eurus(folder):
    tokenizer = qwen_tokenizer()
    lm, reference = (random_lm("qwen2", tokenizer, seed) for seed in (0, 1))
    write(folder / "reference", reference, tokenizer, "Qwen2ForCausalLM")
    return tokenizer, lm, reference, write(folder / "EurusPRM-Stage2", lm, tokenizer, "Qwen2ForCausalLM")


def chat_ids(tokenizer, question, text, cut=0):
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    return tokenizer.apply_chat_template(chat, tokenize=False)[: -cut or None]


def weighted_ratio(lm, reference, ids):
    """0.001 * log ratio of tokens 1, 2, ... from full logits."""
    labels = torch.tensor(ids[1:])[:, None]
    log_probs = [model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(1, labels)[:, 0] for model in (lm, reference)]
    return 0.001 * (log_probs[0] - log_probs[1])


def test_eurus_sums_the_log_ratio_up_to_every_step(tmp_path):
    tokenizer, lm, reference, path = write_eurus(tmp_path)

    def score(question, steps):
        steps = numbered(steps, "")
        closing = "<|im_end|>\n"
        ids = tokenizer.encode(chat_ids(tokenizer, question, "\n\n".join(steps)))
        ratio = weighted_ratio(lm, reference, ids)
        start = len(tokenizer.encode(chat_ids(tokenizer, question, "", len(closing))))
        prefixes = ["\n\n".join(steps[:i]) + "\n\n" for i in range(1, len(steps))]
        ends = [len(tokenizer.encode(chat_ids(tokenizer, question, text, len(closing)))) for text in prefixes]
        return [ratio[start - 1 : end - 1].sum() for end in [*ends, len(ids) - 1]]  # without the line end behind <|im_end|>

    loaded = ImplicitPRM.from_backbone(tmp_path / "reference").eval()
    assert_equal(scores(path, reference=loaded), references(score))


def test_eurus_late_is_the_published_script_s_boundary(tmp_path):
    tokenizer, lm, reference, path = write_eurus(tmp_path)

    def score(question, steps):
        steps = numbered(steps, "")
        lasts = []
        for count in range(len(steps) + 1):
            text = chat_ids(tokenizer, question, "\n\n".join(steps[:count])).strip()
            text += "\n\n" if 0 < count < len(steps) else ""
            lasts.append(len(tokenizer.encode(text)) - 2)
        ratio = weighted_ratio(lm, reference, tokenizer.encode(chat_ids(tokenizer, question, "\n\n".join(steps))))
        ratio[: lasts[0]] = 0
        return ratio.cumsum(0)[lasts[1:]]

    loaded = ImplicitPRM.from_backbone(tmp_path / "reference").eval()
    late = scores(path, recipe="eurus_late", reference=loaded)
    assert_equal(late, references(score))
    assert late[0][0] != pytest.approx(scores(path, reference=loaded)[0][0], abs=1e-4)


# 6: PQM


def write_pqm(folder, with_token=True, wrapper="pretrained_model."):
    """The backbone's tokenizer and config, and weights with one embedding more, as resized by training."""
    backbone = byte_level_tokenizer(["<|endoftext|>"], None)
    whole = byte_level_tokenizer(["<|endoftext|>", "[PRM]"], None, eos="<|endoftext|>")
    lm, head = random_lm("llama", whole), linear_head("v_head.summary", 1)
    path = write(folder, lm, whole if with_token else backbone, "LlamaForCausalLM", head, vocab_size=len(backbone))
    weights = load_file(path / "model.safetensors")
    weights = {name if name.startswith("v_head") else wrapper + name: value for name, value in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return whole, lm, head, path


@pytest.mark.parametrize("with_token", [True, False])
def test_pqm_reads_the_raw_value(tmp_path, with_token):
    tokenizer, lm, head, path = write_pqm(tmp_path / "zeta-4", with_token)

    def score(question, steps):
        prompt = (
            "Below is an instruction that describes a task.\nWrite a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{question}\n\n### Response: Let's think step by step"
        )
        ids = tokenizer.encode(f"{prompt}\n" + " [PRM]\n".join(numbered(steps, "")) + " [PRM]", add_special_tokens=False)
        values = (hidden_states(lm, ids) @ head["v_head.summary.weight"].T + head["v_head.summary.bias"])[:, 0]
        return values[torch.tensor(ids) == tokenizer.encode("[PRM]", add_special_tokens=False)[-1]]

    assert_equal(scores(path), references(score))


# 8: PURE


def test_pure_reads_the_difference_of_both_classes(tmp_path):
    tokenizer = qwen_tokenizer()
    lm, head = random_lm("qwen2", tokenizer), linear_head("score", 2)
    path = write(tmp_path / "PURE-PRM-7B", lm, tokenizer, "Qwen2ForTokenClassification", head)

    def score(question, steps):
        ids, ends = tokenizer.encode(question, add_special_tokens=False), []
        for step in steps:
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            ends.append(len(ids) - 1)
        probabilities = (hidden_states(lm, ids)[ends] @ head["score.weight"].T + head["score.bias"]).softmax(-1)
        return probabilities[:, 1] - probabilities[:, 0]

    assert_equal(scores(path), references(score))


# All of them


WRITERS = {
    "qwen": lambda folder: write_qwen(folder / "renamed")[-1],
    "reasonflux": lambda folder: write_qwen(folder / "ReasonFlux-PRM-7B")[-1],
    "skywork": lambda folder: write_skywork(folder / "renamed")[-1],
    "pqm": lambda folder: write_pqm(folder / "renamed")[-1],
    "eurus": lambda folder: write_eurus(folder)[-1],
    "pure": lambda f: write(f / "x", lm := random_lm("qwen2", t := qwen_tokenizer()), t, "Qwen2ForTokenClassification", linear_head("score", 2)),
}
