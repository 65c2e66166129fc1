"""Published PRMs: tiny random checkpoints of every family against slow references in the manner of the official snippets."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_published import byte_level_tokenizer, linear_head, llama_tokenizer, mistral_tokenizer, qwen_tokenizer, random_lm, write
from transformers import AutoModelForTokenClassification, LlamaTokenizer, PreTrainedTokenizerFast

from prm.models import ImplicitPRM, RewardModel, load_model, read_contract, save_model
from prm.models.files import ModelFiles, download, model_folder
from prm.models.published import RECIPES, find_recipe
from prm.models.step_scores import score_batch
from prm.records import Response
from prm.steps import SYSTEM_PROMPT, SequenceTooLongError, StepEncoder
from prm.steps.layouts import marker_id

RESPONSES = [
    Response(
        "q1", 0, "How many apples are 3 + 4?", ["Mia has 3 apples.", "3 + 4 = 7.\nSo there are 7", "The answer is \\boxed{7}."]
    ),
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


def test_math_shepherd_s_ids_in_the_vocabulary_of_mistral(tmp_path):
    """The ids that its model card names; Mistral's vocabulary comes with the mistral_common package."""
    package = pytest.importorskip("mistral_common")
    shutil.copy(Path(package.__file__).parent / "data" / "tokenizer.model.v1", tmp_path / "tokenizer.model")
    LlamaTokenizer.from_pretrained(tmp_path, legacy=True).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert [marker_id(tokenizer, marker) for marker in (" ки", " +", " -")] == [12902, 648, 387]
    encoder = StepEncoder(tokenizer=tokenizer, recipe="math_shepherd", **RECIPES["math_shepherd"].contract)
    ids, step_ends, start = encoder.encode_batch(RESPONSES)[0]
    assert ids[0] == 1
    assert step_ends == [position for position, token in enumerate(ids) if token == 12902]
    assert len(step_ends) == 3
    assert tokenizer.decode(ids[start:]).startswith("Step 1: Mia has 3 apples. ки\nStep 2: 3 + 4")


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


def write_lm(folder, family="llama", tokenizer=None):
    tokenizer = tokenizer or llama_tokenizer()
    return write(folder, random_lm(family, tokenizer), tokenizer, f"{family.capitalize()}ForCausalLM")


def write_pure(folder):
    tokenizer = qwen_tokenizer()
    return write(folder, random_lm("qwen2", tokenizer), tokenizer, "Qwen2ForTokenClassification", linear_head("score", 2))


WRITERS = {
    "qwen": lambda folder: write_qwen(folder / "renamed")[-1],
    "reasonflux": lambda folder: write_qwen(folder / "ReasonFlux-PRM-7B")[-1],
    "skywork": lambda folder: write_skywork(folder / "renamed")[-1],
    "pqm": lambda folder: write_pqm(folder / "renamed")[-1],
    "pure": lambda folder: write_pure(folder / "renamed"),
    "math_shepherd": lambda folder: write_lm(folder / "math-shepherd-mistral-7b-prm", "mistral", mistral_tokenizer()),
    "er_prm": lambda folder: write_lm(folder / "Llama3.1-Math-PRM"),
    "rlhflow": lambda folder: write_lm(folder / "Llama3.1-8B-PRM-Mistral-Data"),
    "eurus": lambda folder: write_eurus(folder)[-1],
}


def test_every_recipe_has_a_checkpoint_here():
    assert {*WRITERS, "eurus_late"} == set(RECIPES)


@pytest.mark.parametrize("name", WRITERS)
def test_recognised_without_a_hint(name, tmp_path):
    path = WRITERS[name](tmp_path)
    assert find_recipe(ModelFiles(path)) == name
    contract = read_contract(path)
    model, encoder = load_model(path)
    assert not model.training
    assert encoder.recipe == contract["recipe"] == name
    assert isinstance(model, ImplicitPRM if contract["num_labels"] == 0 else RewardModel)
    assert encoder.is_signed == (name in ("pqm", "pure", "eurus"))


@pytest.mark.parametrize("name", WRITERS)
def test_batches_change_nothing_and_no_position_lies_outside_the_response(name, tmp_path):
    model, encoder = load_model(WRITERS[name](tmp_path))
    encoded = encoder.encode_batch(RESPONSES)
    assert encoded == [encoder.encode_batch([response])[0] for response in RESPONSES]
    together, alone = score_batch(model, encoder, encoded), [score_batch(model, encoder, [one])[0] for one in encoded]
    for response, ours, single, (ids, step_ends, start) in zip(RESPONSES, together, alone, encoded, strict=True):
        assert ours == pytest.approx(single, abs=1e-5)
        assert len(step_ends) == len(response.steps)
        assert start <= step_ends[0] < step_ends[-1] + 1 <= len(ids)


@pytest.mark.parametrize("name", WRITERS)
def test_saved_in_our_format_it_scores_the_same(name, tmp_path):
    model, encoder = load_model(WRITERS[name](tmp_path))
    save_model(model, encoder, tmp_path / "ours")
    again, contract = load_model(tmp_path / "ours")
    assert contract.encoding() == encoder.encoding()
    pairs = [(again, contract), (model, encoder)]
    ours, theirs = ([s for row in score_batch(m, e, e.encode_batch(RESPONSES)) for s in row] for m, e in pairs)
    assert ours == pytest.approx(theirs, abs=1e-5)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert "auto_map" not in config
    assert not any(file.suffix in (".bin", ".py") for file in (tmp_path / "ours").iterdir())
    with pytest.raises(ValueError, match="is a checkpoint of this project"):
        load_model(tmp_path / "ours", recipe=name)


def test_a_linear_head_is_saved_as_transformers_own_token_classification(tmp_path):
    model, encoder = load_model(WRITERS["math_shepherd"](tmp_path))
    save_model(model, encoder, tmp_path / "ours")
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "ours").eval()
    response = encoder.encode_batch(RESPONSES[:1])[0]
    with torch.no_grad():
        logits = theirs(torch.tensor([response.input_ids])).logits[0, response.step_ends]
    assert score_batch(model, encoder, [response])[0] == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_precision_is_the_one_asked_for(dtype, tmp_path):
    model, _ = load_model(WRITERS["pqm"](tmp_path), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


# What is refused


def test_unknown_checkpoints_and_recipes(tmp_path):
    path = write_lm(tmp_path / "some-llama")
    with pytest.raises(
        ValueError, match=r"(?s)some-llama: neither .* LlamaForCausalLM, model_type llama.*--recipe.*rlhflow: RLHFlow"
    ):
        load_model(path)
    with pytest.raises(ValueError, match=r"recipe 'shepherd' is unknown; choose one of .*math_shepherd"):
        load_model(path, recipe="shepherd")
    assert load_model(path, recipe="rlhflow")[1].recipe == "rlhflow"
    with pytest.raises(ValueError, match=r"some-llama: has no weight v_head.summary.weight; it is another kind"):
        load_model(path, recipe="skywork")
    (path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"some-llama: no weights, that is, no model\*"):
        load_model(path, recipe="rlhflow")
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json; a folder of weights alone needs"):
        load_model(path)


def test_an_incomplete_checkpoint_is_not_filled_at_random(tmp_path):
    path = WRITERS["pure"](tmp_path)
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are missing"):
        load_model(path)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("payload-ran"),))


def test_pickled_weights_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = WRITERS["skywork"](tmp_path)
    torch.save({"model.norm.weight": Payload()}, path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_model(path)
    assert not Path("payload-ran").exists()


@pytest.mark.parametrize(
    ("tokenizer", "recipe", "message"),
    [
        (qwen_tokenizer(), "qwen", r"the separator '<extra_0>' is \d+ tokens, not one; .* recipe qwen needs"),
        (mistral_tokenizer(merges=()), "math_shepherd", r"the separator ' ки' is 3 tokens, not one"),
        (mistral_tokenizer(merges=(("▁", "к"), ("▁к", "и"))), "math_shepherd", r"the answer ' -' is 2 tokens, not one"),
        (qwen_tokenizer(), "math_shepherd", r"names no bos_token"),
        (byte_level_tokenizer([], None), "rlhflow", r"has no chat template"),
    ],
)
def test_tokenizers_without_the_recipe_s_tokens(tokenizer, recipe, message, tmp_path):
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "model", lm, tokenizer, "LlamaForCausalLM", two_layer_head() if recipe == "qwen" else None)
    with pytest.raises(ValueError, match=message):
        load_model(path, recipe=recipe)


def test_a_separator_that_the_tokenizer_drops_is_no_token(tmp_path):
    tokenizer = mistral_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.unk_token = None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["unk_token"] = None
    path = write_lm(tmp_path / "math-shepherd", "mistral", mistral_tokenizer())
    for character in "ки":
        backend["model"]["vocab"] = {t: i for t, i in backend["model"]["vocab"].items() if character not in t}
    backend["model"]["merges"] = []
    (path / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(ValueError, match=r"the separator ' ки' is 0 tokens, not one"):
        load_model(path)


def test_text_that_holds_the_tag_and_responses_that_are_too_long(tmp_path):
    _, encoder = load_model(WRITERS["er_prm"](tmp_path))
    with pytest.raises(ValueError, match=r"q: step 1 contains the separator ' ки'"):
        encoder.encode("How many?", ["One.", "Two ки"], "q")
    with pytest.raises(ValueError, match=r"q: question contains the separator ' ки'"):
        encoder.encode("Что такое ки?", ["One."], "q")
    encoder.max_length = 10
    with pytest.raises(SequenceTooLongError, match=r"q: \d+ tokens, max_length is 10"):
        encoder.encode("How many?", ["One."], "q")


def test_a_pqm_tokenizer_of_another_backbone(tmp_path):
    *_, path = write_pqm(tmp_path / "zeta-4", with_token=False)
    tokenizer = load_tokenizer(path)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(path)
    with pytest.raises(ValueError, match=r"\[PRM\] is token \d+, but there are \d+ embeddings"):
        load_model(path)


def test_a_chat_template_without_a_closing_token(tmp_path):
    tokenizer = byte_level_tokenizer([], "{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    path = write_lm(tmp_path / "EurusPRM-Stage1", "qwen2", tokenizer)
    with pytest.raises(ValueError, match="closes an assistant turn with '', which is no token"):
        load_model(path)


# Models of the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose every model lies in tmp_path/hub; the calls it got."""
    calls = []

    def snapshot_download(repository, revision, allow_patterns):
        calls.append((repository, revision, *(p for p in allow_patterns if p in ("model*.safetensors", "pytorch_model*.bin"))))
        return str(tmp_path / "hub" / "renamed")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    yield calls
    download.cache_clear()


def test_hub_names_with_revision_take_no_pickles_where_there_are_safetensors(tmp_path, hub):
    path = WRITERS["qwen"](tmp_path / "hub")
    assert load_model("Qwen/Qwen2.5-Math-PRM-7B@abc")[1].recipe == "qwen"
    assert hub == [("Qwen/Qwen2.5-Math-PRM-7B", "abc"), ("Qwen/Qwen2.5-Math-PRM-7B", "abc", "model*.safetensors")]
    hub.clear()
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    model_folder("some/other")
    assert hub == [("some/other", None, "model*.safetensors"), ("some/other", None, "pytorch_model*.bin")]


def test_no_weights_are_downloaded_to_read_a_contract_or_to_refuse_a_model(tmp_path, hub):
    path = write_lm(tmp_path / "hub" / "renamed")
    names = list(load_file(path / "model.safetensors"))
    (path / "model.safetensors").unlink()
    index = {"weight_map": {name: "model-00001-of-00002.safetensors" for name in names}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_contract("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data")["recipe"] == "rlhflow"
    with pytest.raises(ValueError, match=r"meta-llama/Llama-3.1-8B-Instruct: neither"):
        load_model("meta-llama/Llama-3.1-8B-Instruct")
    assert hub == [("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", None), ("meta-llama/Llama-3.1-8B-Instruct", None)]


def test_a_model_of_the_hub_in_our_format(tmp_path, hub):
    model, encoder = load_model(WRITERS["pure"](tmp_path / "published"))
    save_model(model, encoder, tmp_path / "hub" / "renamed")
    assert load_model("me/my-prm")[1].recipe == "pure"


def test_shards_are_found_by_the_index(tmp_path):
    path = WRITERS["pure"](tmp_path)
    whole = scores(path)
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    files = {name: f"model-{len(name) % 2}.safetensors" for name in weights}
    for file in set(files.values()):
        part = {name: value for name, value in weights.items() if files[name] == file}
        save_file(part, path / file, metadata={"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert scores(path) == whole


def test_models_that_are_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nobody/no-such-model: no such folder, and the hub gave no model"):
        load_model("nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint folder, and no model of the hub"):
        load_model("no-such-folder")
