"""Published PRMs: tiny random checkpoints of every family against slow references in the manner of the official snippets."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_published import (
    MERGES,
    WRITERS,
    linear_head,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
    random_lm,
    write,
    write_eurus,
    write_lm,
    write_pqm,
    write_qwen,
    write_skywork,
    write_trl,
)
from transformers import AutoModelForTokenClassification, LlamaTokenizer, PreTrainedTokenizerFast

from prm.models import ImplicitPRM, RewardModel, load_model, read_contract, save_model
from prm.models.files import ModelFiles
from prm.models.published import RECIPES, find_recipe
from prm.models.step_scores import score_batch
from prm.records import Response
from prm.scoring import TorchEngine
from prm.steps import SYSTEM_PROMPT, StepEncoder
from prm.steps.layouts import marker_id

RESPONSES = [
    Response(
        "q1", 0, "How many apples are 3 + 4?", ["Mia has 3 apples.", "3 + 4 = 7.\nSo there are 7", "The answer is \\boxed{7}."]
    ),
    Response("q2", 0, "What is 2 - 1?", ["Step 1: 2 - 1 = 1."]),
    Response("q1", 1, "How many apples are 3 + 4?", ["Nobody knows", "9."]),
]


VERSA_PRM = r"""
like: rlhflow
layout: tags
separator: " \n\n\n\n"
question_template: "{question} \n\n"
starts_with_bos: true
aggregation: min
"""


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


def test_rlhflow_s_response_starts_behind_the_question(tmp_path):
    _, encoder = load_model(write_lm(tmp_path / "Llama3.1-8B-PRM-Mistral-Data"))
    ids, step_ends, start = encoder.encode("What is 1?", ["One."], "q")
    assert encoder.tokenizer.decode(ids[:start]).endswith("What is 1?")
    assert encoder.tokenizer.decode(ids[start : step_ends[0]]).startswith(" One.<|eot_id|>")


def turn_scores(tokenizer, lm, joint=" ", system=()):
    """One forward pass per step, over the chat so far; the third token from its end predicts the answer."""

    def score(question, steps):
        candidates, chat, values = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]], [*system], []
        for index, step in enumerate(steps):
            chat.append({"role": "user", "content": question + joint + step if index == 0 else step})
            chat.append({"role": "assistant", "content": "+"})
            ids = tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
            values.append(lm(torch.tensor([ids])).logits[0, -3, candidates].softmax(-1)[0])
        return values

    return score


def test_rlhflow_turn_by_turn(tmp_path):
    tokenizer = llama_tokenizer()
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "Llama3.1-8B-PRM-Deepseek-Data", lm, tokenizer, "LlamaForCausalLM")
    assert_equal(scores(path), references(turn_scores(tokenizer, lm)))


def test_rlhflow_as_processbench_s_own_script_reads_it(tmp_path):
    """A blank line behind the question; and a system turn, for models that were trained with one."""
    tokenizer = llama_tokenizer()
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "Llama3.1-8B-PRM-Mistral-Data", lm, tokenizer, "LlamaForCausalLM")
    recipe = write_recipe(tmp_path, 'like: rlhflow\nquestion_template: "{question}\\n\\n"\n')
    assert_equal(scores(path, recipe), references(turn_scores(tokenizer, lm, "\n\n")))
    recipe = write_recipe(tmp_path, "like: rlhflow\nsystem_prompt: Judge.\n")
    assert_equal(scores(path, recipe), references(turn_scores(tokenizer, lm, system=[{"role": "system", "content": "Judge."}])))


def test_versaprm_by_a_recipe_file(tmp_path):
    """`+` and `-` of rlhflow, one text of question and steps, each followed by the token of a space and four line ends."""
    merges = [*MERGES, ("ĊĊ", "ĊĊ"), ("Ġ", "ĊĊĊĊ")]
    tokenizer = llama_tokenizer(merges=merges)
    lm = random_lm("llama", tokenizer)
    path = write(tmp_path / "VersaPRM", lm, tokenizer, "LlamaForCausalLM")
    recipe = write_recipe(tmp_path, VERSA_PRM)
    text = lambda q, steps: f"{q} \n\n" + "".join(f"{step} \n\n\n\n" for step in steps)  # noqa: E731
    expected = references(lambda q, steps: tag_scores(path, lm, text(q, steps), " \n\n\n\n", "+", "-"))
    assert_equal(scores(path, recipe), expected)


# 4: Skywork


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


def test_skywork_by_blank_lines(tmp_path):
    """As searches that take paragraphs for steps call the official script: with a blank line as the step token."""
    tokenizer, lm, head, path = write_skywork(tmp_path / "Skywork-o1-Open-PRM-Qwen-2.5-1.5B")

    def score(question, steps):
        ids, ends = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
        for step in steps:
            ids += [*tokenizer.encode(step), tokenizer.encode("\n\n")[-1]]
            ends.append(len(ids) - 1)
        return (hidden_states(lm, ids) @ head["v_head.summary.weight"].T + head["v_head.summary.bias"])[ends, 0].sigmoid()

    recipe = write_recipe(tmp_path, 'like: skywork\nseparator: "\\n\\n"\nreads_lines: false\n')
    assert_equal(scores(path, recipe), references(score))


# 5: EurusPRM, ImplicitPRM


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


# Models of TRL's PRMTrainer


def trl_scores(path, separator="\n"):
    """As the trainer tokenizes a row, and as transformers' own token classification reads it."""
    tokenizer = load_tokenizer(path)
    model = AutoModelForTokenClassification.from_pretrained(path).eval()

    def score(question, steps):
        ids = tokenizer(question, add_special_tokens=False)["input_ids"]
        ids, ends = [tokenizer.bos_token_id] * (tokenizer.bos_token_id is not None) + ids, []
        for step in steps:
            ids += tokenizer(step, add_special_tokens=False)["input_ids"] + tokenizer.encode(separator, add_special_tokens=False)
            ends.append(len(ids) - 1)
        return model(torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1]

    return score


@pytest.mark.parametrize(("family", "starts_with_bos"), [("qwen2", False), ("llama", True), ("mistral", True)])
def test_trl_s_models_start_as_their_tokenizer_does(family, starts_with_bos, tmp_path):
    path = write_trl(tmp_path / "my-prm", family)
    assert_equal(scores(path), references(trl_scores(path)))
    assert load_model(path)[1].starts_with_bos == starts_with_bos


@pytest.mark.parametrize("separator", ["\n\n", "\n##\n", "<|im_end|>"])
def test_trl_s_separator_is_that_of_its_training(separator, tmp_path):
    """Its options stand in a pickle, which is read and not run; here other options have the same text."""
    path = write_trl(tmp_path / "my-prm")
    torch.save({"output_dir": separator, "step_separator": separator, "max_length": None}, path / "training_args.bin")
    assert_equal(scores(path), references(trl_scores(path, separator)))
    assert read_contract(path)["recipe"] == f'trl {{"separator": {json.dumps(separator)}}}'
    other = write_recipe(tmp_path, 'like: trl\nseparator: "\\n"\n')
    assert_equal(scores(path, other), references(trl_scores(path)))
    (path / "README.md").unlink()  # as in a checkpoint, which has no card
    assert find_recipe(ModelFiles(path)) == "trl"


@pytest.mark.parametrize("saved", [{"step_separator": None}, {"output_dir": "x"}, {"step_separator": 3}])
def test_training_options_that_tell_nothing(saved, tmp_path):
    path = write_trl(tmp_path / "my-prm")
    torch.save(saved, path / "training_args.bin")
    assert read_contract(path)["recipe"] == "trl"
    (path / "training_args.bin").write_bytes(b"no archive")
    assert read_contract(path)["recipe"] == "trl"


def test_other_token_classifiers_are_no_prm(tmp_path):
    path = write_trl(tmp_path / "ner")
    config = json.loads((path / "config.json").read_text())
    del config["num_key_value_heads"]
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForTokenClassification"], "model_type": "bert"}))
    with pytest.raises(ValueError, match=r"ner: neither .* BertForTokenClassification, model_type bert"):
        load_model(path)


def test_pure_and_trl_are_told_apart_by_card_and_name(tmp_path):
    path = write_trl(tmp_path / "some-prm")
    assert find_recipe(ModelFiles(path)) == "trl"
    (path / "README.md").write_text("---\ntags: [unclosed\n---\n")
    assert find_recipe(ModelFiles(path)) == "pure"
    (path / "README.md").unlink()
    assert find_recipe(ModelFiles(path)) == "pure"
    assert find_recipe(ModelFiles(write_trl(tmp_path / "PURE-PRM-7B"))) == "pure"


# Recipe files


def write_recipe(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return str(tmp_path / "recipe.yaml")


def test_a_recipe_file_changes_what_it_names_and_nothing_else(tmp_path):
    path = write_trl(tmp_path / "my-prm", "llama")
    recipe = write_recipe(tmp_path, 'like: trl\nseparator: "\\n\\n"\naggregation: product\n')
    ours = scores(path, recipe)
    assert_equal(ours, references(trl_scores(path, "\n\n")))
    assert ours != scores(path)
    contract = read_contract(path, recipe)
    assert contract["recipe"] == 'trl {"aggregation": "product", "separator": "\\n\\n"}'
    assert contract["aggregation"] == "product"
    model, encoder = load_model(path, recipe=recipe)
    assert encoder.recipe == contract["recipe"]
    assert encoder.starts_with_bos
    save_model(model, encoder, tmp_path / "ours")
    again, saved = load_model(tmp_path / "ours")
    assert score_batch(again, saved, saved.encode_batch(RESPONSES))[0] == pytest.approx(ours[0], abs=1e-5)


def test_a_recipe_file_may_number_the_steps(tmp_path):
    """As a model wants it that TRL trained on `Step 1: ...`."""
    path = write_trl(tmp_path / "my-prm")
    recipe = write_recipe(tmp_path, 'like: trl\nstep_prefix: "Step {number}: "\n')
    score = trl_scores(path)
    assert_equal(scores(path, recipe), references(lambda q, steps: score(q, numbered(steps, ""))))
    _, encoder = load_model(path, recipe=recipe)
    assert encoder.encode_by_step(RESPONSES[0]) == encoder.encode_batch(RESPONSES)[0]


def test_a_recipe_file_may_set_what_the_tokenizer_would_decide(tmp_path):
    path = write_trl(tmp_path / "my-prm", "llama")
    assert load_model(path, recipe=write_recipe(tmp_path, "like: trl"))[1].recipe == "trl"
    assert not load_model(path, recipe=write_recipe(tmp_path, "like: trl\nstarts_with_bos: false\n"))[1].starts_with_bos


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected `like: RECIPE`, one of reasonflux, .*; found None"),
        ("- trl", r"expected `like: RECIPE`"),
        ("like: ours\n", r"found 'ours'"),
        ("like: [trl]\n", r"found \['trl'\]"),
        ("like: trl\nseperator: x\n", r"'seperator' is no field of a contract; expected like and any of .*separator"),
        ("like: trl\ntokenizer: x\n", r"'tokenizer' is no field"),
        ("like: trl\nmax_length: long\n", r"max_length is 'long', expected a whole number"),
        ("like: trl\nactivation: relu\n", r"activation is 'relu', expected"),
        ("like: trl\naggregation: median\n", r"unknown aggregation 'median': choose from min"),
        ("like: trl\ntau: 0\n", r"tau is 0: the temperature"),
        ("like: trl\nquestion_template: '\\boxed{} {question}'\n", r"has braces that are not {question}; double those"),
        ("like: trl\nquestion_template: 'Solve: '\n", r"question_template 'Solve: ' has no {question}"),
        ("like: trl\nquestion_template: '{ {question}'\n", r"double those that stand for themselves"),
        ("like: {\n", r"not valid YAML in UTF-8"),
        ("like: trl\nquestion_template: '{question.x}'\n", r"double those that stand for themselves"),
        ("like: math_shepherd\nstep_prefix: '{number.x}'\n", r"double those that stand for themselves"),
        ("like: trl\nstep_separator: x\n", r"'step_separator' is no field of a contract; did you mean separator\?"),
        ("like: trl\nloss: foo\n", r"'loss' is no field"),
        ("like: trl\nnum_labels: 1\n", r"activation softmax is over classes, but num_labels is 1; sigmoid is of one output"),
        ("like: skywork\nactivation: difference\n", r"activation difference is over classes"),
        ("like: trl\nnum_labels: 0\n", r"num_labels is 0, but the model has a head to read"),
        ("like: eurus\nnum_labels: 1\n", r"num_labels is 1, but the model has no head to read"),
        ("like: eurus\nactivation: sigmoid\n", r"an implicit PRM's rewards are read as they are"),
        ("like: pure\naggregation: product\n", r"product needs scores in \[0, 1\]"),
        ("like: qwen\nis_cumulative: true\n", r"is_cumulative sums an implicit PRM's rewards"),
        ("like: trl\nreference_model: x/y\n", r"a model with a head has none"),
        ("like: trl\nmax_length: 0\n", r"max_length is 0, at least 1 token is needed"),
        ("like: trl\nstep_joint: x\n", r"step_joint is read in layout tags alone, and the model's is separator"),
        ("like: rlhflow\nreads_lines: true\n", r"reads_lines is read in layout separator alone, and the model's is turns"),
    ],
)
def test_recipe_files_that_say_something_else(text, message, tmp_path):
    path = write_trl(tmp_path / "my-prm")
    with pytest.raises(ValueError, match=rf"(?s)recipe.yaml: .*{message}"):
        load_model(path, recipe=write_recipe(tmp_path, text))


def test_a_recipe_file_that_is_not_there_or_reads_other_outputs(tmp_path):
    path = write_trl(tmp_path / "my-prm")
    with pytest.raises(FileNotFoundError, match=r"--recipe none.yaml: no such file"):
        load_model(path, recipe="none.yaml")
    with pytest.raises(ValueError, match=r"its head has 2 outputs, recipe trl .*num_labels.* reads 3; it is another kind"):
        load_model(path, recipe=write_recipe(tmp_path, "like: trl\nnum_labels: 3\n"))


# All of them


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
def test_beginnings_computed_once_change_nothing(name, tmp_path):
    model, encoder = load_model(WRITERS[name](tmp_path))
    if name == "math_shepherd":
        for layer in model.model.layers:
            layer.self_attn.sliding_window = 24
    shared = [RESPONSES[0], RESPONSES[2], RESPONSES[1]]
    engine = TorchEngine(model, encoder)
    assert engine.share_prefixes
    ours = engine.score_encoded(encoder.encode_batch(shared))
    engine.share_prefixes = False
    for row, wanted in zip(ours, engine.score_encoded(encoder.encode_batch(shared)), strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)


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
