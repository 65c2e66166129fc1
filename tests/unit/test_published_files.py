"""Files of published PRMs: which are refused and why, and what is downloaded from the hub."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_published import (
    WRITERS,
    byte_level_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
    random_lm,
    two_layer_head,
    write,
    write_lm,
    write_pqm,
)

from prm.models import ImplicitPRM, load_model, read_contract, save_model
from prm.models.files import ModelFiles, download, model_folder
from prm.models.step_scores import score_batch
from prm.records import Response
from prm.scoring import ModelConfig, TorchEngine
from prm.steps import SequenceTooLongError, load_tokenizer

RESPONSE = Response("q", 0, "How many apples are 3 + 4?", ["Mia has 3 apples.", "The answer is 7."])


def scores(path):
    model, encoder = load_model(path)
    return score_batch(model, encoder, encoder.encode_batch([RESPONSE]))


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


def test_adapters_classifiers_and_damaged_files_are_named(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lora: holds an adapter \(LoRA\) and not a model; merge it"):
        load_model(tmp_path / "lora", recipe="trl")
    path = WRITERS["pure"](tmp_path)
    with pytest.raises(ValueError, match=r"Qwen2ForTokenClassification has no lm_head, whose '\+' and '-' the recipe reads"):
        load_model(path, recipe="rlhflow")
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or cut off"):
        load_model(path)


def test_pickled_weights_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = WRITERS["skywork"](tmp_path)
    torch.save({"model.norm.weight": Payload()}, path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_model(path)
    assert not Path("payload-ran").exists()


def test_a_tokenizer_that_merges_the_answer_with_what_stands_before_it(tmp_path):
    tokenizer = llama_tokenizer(merges=[("Ċ", "Ċ"), ("ĊĊ", "+")], words=r"[^<]+")
    _, encoder = load_model(write_lm(tmp_path / "Llama3.1-8B-PRM-Mistral-Data", tokenizer=tokenizer))
    with pytest.raises(ValueError, match=r"the tokenizer merges the answer '\+' with what stands around it"):
        encoder.encode("How many?", ["One."], "q")


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


def test_a_checkpoint_without_fast_tokenizer(tmp_path):
    path = WRITERS["rlhflow"](tmp_path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json; write one beside the weights"):
        load_model(path)


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


def test_a_reference_of_the_hub_with_its_revision(tmp_path, hub):
    path = WRITERS["eurus"](tmp_path / "local")
    (tmp_path / "hub").mkdir()
    (path.parent / "reference").rename(tmp_path / "hub" / "renamed")
    engine = TorchEngine.load(ModelConfig(model=str(path), reference="Qwen/Qwen2.5-Math-7B-Instruct@abc"))
    assert hub == [("Qwen/Qwen2.5-Math-7B-Instruct", "abc", "model*.safetensors")]
    assert isinstance(engine.reference, ImplicitPRM)


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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "consolidated.safetensors"])
def test_an_index_that_nothing_belongs_to_is_passed_over(tmp_path, name):
    """Of shards that were there before the weights were saved in one file, or of another copy of them."""
    path = WRITERS["pure"](tmp_path)
    whole = scores(path)
    weights = load_file(path / "model.safetensors")
    shard = f"{name.split('.')[0]}-00001-of-00001.{name.split('.')[1]}"
    (path / f"{name}.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, shard)}))
    assert ModelFiles(path).weights == dict.fromkeys(weights, "model.safetensors")
    assert scores(path) == whole


def test_the_index_of_pickles_counts_where_there_are_no_safetensors(tmp_path):
    path = WRITERS["pure"](tmp_path)
    whole = scores(path)
    weights, shard = load_file(path / "model.safetensors"), "pytorch_model-00001-of-00001.bin"
    torch.save(weights, path / shard)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, shard)}))
    (path / "model.safetensors").unlink()
    assert ModelFiles(path).weights == dict.fromkeys(weights, shard)
    assert scores(path) == whole


def test_models_that_are_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nobody/no-such-model: no such folder, and the hub gave no model"):
        load_model("nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint folder, and no model of the hub"):
        load_model("no-such-folder")


def test_a_config_that_is_no_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON .*; copy the checkpoint again"):
        _ = ModelFiles(tmp_path).config
