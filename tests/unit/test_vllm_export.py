"""The export without vLLM: what stands in the folder for each head, the temperature, parity that fails, what cannot be exported."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_published import WRITERS
from torch import nn
from transformers import AutoTokenizer, LlamaConfig

from prm.models import ImplicitPRM, RewardModel, load_model, save_model
from prm.models.step_scores import largest_difference, score_batch
from prm.records import Response
from prm.scoring import Scorer
from prm.serving import export, parity
from prm.serving.export import ExportConfig, divide_outputs, export_checkpoint, is_chat_alike, served_architecture, write_served
from prm.serving.parity import ParityError, built_in_responses, check_parity
from prm.steps import StepEncoder, load_tokenizer


@pytest.fixture
def make(tiny_backbone):
    """A model and its contract."""

    def make(loss="asym", **contract):
        encoder = StepEncoder.for_loss(loss, AutoTokenizer.from_pretrained(tiny_backbone), max_length=512, **contract)
        return RewardModel.from_backbone(tiny_backbone, encoder.num_labels, vocab_size=len(encoder.tokenizer)).eval(), encoder

    return make


@pytest.fixture
def checkpoint(make, tmp_path):
    save_model(*make(), tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


class FakeVLLM:
    """Scores as torch does, and `error` more."""

    error = 0.0

    def __init__(self, directory, encoder, dtype):
        self.model, self.encoder = load_model(directory, dtype)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def score_encoded(self, encoded):
        return [[score + self.error for score in score_batch(self.model, self.encoder, [one])[0]] for one in encoded]


@pytest.fixture
def fake_vllm(monkeypatch):
    fake = type("Fake", (FakeVLLM,), {})
    monkeypatch.setattr(parity, "VLLMScoringEngine", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return fake


def options(folder):
    return yaml.safe_load((folder / "vllm.yaml").read_text())


@pytest.mark.parametrize(
    ("loss", "contract", "architecture", "use_activation"),
    [
        ("asym", {}, "Qwen2ForRewardModel", True),
        ("pqm", {}, "Qwen2ForRewardModel", False),
        ("step_ce", {"num_labels": 2}, "Qwen2ForProcessRewardModel", True),
    ],
)
def test_heads_that_vllm_knows_keep_their_folder(make, tmp_path, loss, contract, architecture, use_activation):
    model, encoder = make(loss, **contract)
    write_served(model, encoder, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    pooler = {"task": "token_classify", "use_activation": use_activation, "tok_pooling_type": "STEP"}
    pooler["step_tag_id"] = encoder.separator_id
    assert options(tmp_path) == {"runner": "pooling", "dtype": "float32", "max-model-len": 512, "pooler-config": pooler}
    again, _ = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_other_heads_are_dense_modules_behind_the_decoder(make, tmp_path):
    model, encoder = make("step_ce")
    write_served(model, encoder, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen2Model"]
    assert not any(name.startswith("score") for name in load_file(tmp_path / "model.safetensors"))
    assert options(tmp_path)["pooler-config"]["task"] == "token_embed"
    assert options(tmp_path)["pooler-config"]["use_activation"] is False
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Dense", "Dense"]
    hidden = torch.randn(3, 128)
    value = hidden
    for module in modules[2:]:
        shape = json.loads((tmp_path / module["path"] / "config.json").read_text())
        layer = load_file(tmp_path / module["path"] / "model.safetensors")
        assert layer["linear.weight"].shape == (shape["out_features"], shape["in_features"])
        value = value @ layer["linear.weight"].T + layer["linear.bias"]
        value = {"torch.nn.modules.activation.ReLU": torch.relu, "torch.nn.modules.linear.Identity": lambda x: x}[
            shape["activation_function"]
        ](value)
    torch.testing.assert_close(value, model.score(hidden))


def test_architectures_by_family_and_head(make):
    model, _ = make("step_ce")
    assert served_architecture(model) == "Qwen2Model"
    model.score = nn.Linear(128, 3)
    assert served_architecture(model) == "Qwen2ForTokenClassification"
    llama = RewardModel(LlamaConfig(vocab_size=9, hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_labels=1))
    assert served_architecture(llama) == "LlamaModel"
    model.score = nn.Sequential(nn.Linear(128, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="heads of one linear layer, or two with a ReLU between; this one is Sequential"):
        served_architecture(model)


def test_scores_that_no_separator_marks_come_back_for_every_token(make, tmp_path):
    model, encoder = make()
    write_served(model, encoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for other in (replace(encoder, layout="plain"), replace(encoder, separator="\n")):
        assert export.serve_options(config, other, tmp_path)["pooler-config"]["tok_pooling_type"] == "ALL"
    assert export.serve_options({**config, "max_position_embeddings": 100}, encoder, tmp_path)["max-model-len"] == 100


@pytest.mark.parametrize("contract", [{"loss": "asym"}, {"loss": "step_ce", "num_labels": 2}])
def test_the_temperature_divides_the_logits(make, contract):
    model, encoder = make(**contract)
    hidden = torch.randn(4, 128)
    before = model.score(hidden)
    divide_outputs(model, encoder, 2.5)
    torch.testing.assert_close(model.score(hidden), before / 2.5)
    divide_outputs(model, encoder, 1.0)
    torch.testing.assert_close(model.score(hidden), before / 2.5)
    with pytest.raises(ValueError, match="--temperature 3: calibrates probabilities, and pqm scores are none"):
        divide_outputs(model, replace(encoder, loss="pqm", activation="identity"), 3)
    with pytest.raises(ValueError, match="--temperature 3: a head of 3 classes cannot be divided by it"):
        divide_outputs(model, replace(encoder, activation="softmax", num_labels=3), 3)


def test_an_export_compares_and_carries_the_temperature(checkpoint, fake_vllm, tmp_path):
    fake_vllm.error = 5e-5
    found = export_checkpoint(ExportConfig(checkpoint, str(tmp_path / "served"), temperature=2.0))
    assert found.difference == pytest.approx(5e-5, abs=1e-6)
    assert (found.num_responses, found.num_steps, found.limit) == (3, 16, 1e-4)
    assert found.lowest < found.highest
    assert 300 < found.num_tokens < 512
    (hot, encoder), (cold, _) = load_model(tmp_path / "served"), load_model(checkpoint)
    torch.testing.assert_close(hot.score[2].weight, cold.score[2].weight / 2)
    assert encoder.max_length == 512
    fake_vllm.error = 5e-3
    half = export_checkpoint(ExportConfig(checkpoint, str(tmp_path / "half"), dtype="bfloat16"))
    assert half.limit == 1e-2
    assert options(tmp_path / "half")["dtype"] == "bfloat16"


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-4), ("bfloat16", 0.02), ("float32", float("nan"))])
def test_a_difference_above_the_limit_leaves_nothing_behind(checkpoint, fake_vllm, tmp_path, dtype, error):
    fake_vllm.error = error
    with pytest.raises(ParityError, match=rf"differ by .* on 16 steps; {dtype} allows"):
        export_checkpoint(ExportConfig(checkpoint, str(tmp_path / "served"), dtype=dtype))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_quicker_export_stays_as_it_is(checkpoint, fake_vllm, tmp_path, monkeypatch):
    """Two at once: each writes to a folder of its own, and the second to end says that the first has been there."""
    served = tmp_path / "served"

    def meanwhile(*args):
        code = "import sys; from prm.serving.export import *; export_checkpoint(ExportConfig(*sys.argv[1:], parity=False))"
        subprocess.run([sys.executable, "-c", code, checkpoint, str(served)], check=True)
        return check_parity(*args)

    monkeypatch.setattr(export, "check_parity", meanwhile)
    with pytest.raises(ValueError, match=r"--output .*served: is there already; name a new folder or delete it"):
        export_checkpoint(ExportConfig(checkpoint, str(served)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "served"]
    load_model(served)


def test_differences_by_hand():
    assert largest_difference([[0.5], [0.25, -8.0]], [[0.5], [0.375, -9.0]]) == 0.125
    assert largest_difference([[-2.0]], [[-1.0]]) == 0.5


def test_built_in_responses_fit_the_contract(make):
    model, encoder = make()
    assert [len(response.step_ends) for response in built_in_responses(encoder)] == [2, 4, 10]
    assert [len(r.step_ends) for r in built_in_responses(replace(encoder, max_length=4096))] == [2, 4, 10, 24, 60]
    with pytest.raises(ValueError, match="max_length 9 is below the built-in example; give shorter responses by --input"):
        check_parity(model, replace(encoder, max_length=9), "nowhere")
    # The model's own positions are a limit too.
    model.config.max_position_embeddings = 10
    with pytest.raises(ValueError, match="max_length 10 is below"):
        check_parity(model, encoder, "nowhere")


def test_blank_steps_are_compared_as_they_are_scored(checkpoint, fake_vllm, tmp_path):
    rows = [Response("q", 0, "?", ["a", " ", "b"]), Response("q", 1, "?", [" "])]
    config = ExportConfig(checkpoint, str(tmp_path / "served"), dtype="float32")
    assert export_checkpoint(config, rows).num_steps == 16 + 2


def test_a_server_s_tokenizer_that_reads_otherwise_is_noticed(make, tiny_backbone, tmp_path):
    model, encoder = make()
    write_served(model, encoder, tmp_path / "alike")
    assert is_chat_alike(tmp_path / "alike", encoder)
    other = StepEncoder.for_loss("asym", load_tokenizer(tiny_backbone))
    write_served(model, other, tmp_path / "other")
    # AutoTokenizer puts Qwen2's own pre-tokenizer in the place of the saved one.
    assert not is_chat_alike(tmp_path / "other", other)
    assert not is_chat_alike(tmp_path / "alike", replace(encoder, layout="plain"))
    (tmp_path / "alike" / "chat_template.jinja").unlink()
    assert not is_chat_alike(tmp_path / "alike", encoder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "--temperature is 0.0; it must be positive"),
        ({"temperature": 1e-40}, "--temperature is 1e-40; it must be positive, from 0.001 to 1000"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"parity": False, "input": "x.jsonl"}, "--input x.jsonl: nothing is compared with --parity False"),
        ({"output": ""}, "--output is empty"),
        ({"output": "."}, r"--output \.: is there already"),
    ],
)
def test_options_that_are_refused(checkpoint, fake_vllm, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export_checkpoint(replace(ExportConfig(checkpoint, str(tmp_path / "served")), **changes))


def test_without_vllm_only_unchecked(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = ExportConfig(checkpoint, str(tmp_path / "served"))
    with pytest.raises(ValueError, match=r"vLLM is not installed: .* --parity False"):
        export_checkpoint(config)
    assert export_checkpoint(replace(config, parity=False)) is None
    assert (tmp_path / "served" / "vllm.yaml").exists()


def test_an_implicit_prm_is_named_for_what_it_is(tiny_backbone, fake_vllm, tmp_path):
    encoder = StepEncoder.for_loss("implicit_prm", load_tokenizer(tiny_backbone), reference_model=str(tiny_backbone))
    save_model(ImplicitPRM.from_backbone(tiny_backbone), encoder, tmp_path / "implicit")
    for model in (tmp_path / "implicit", WRITERS["eurus"](tmp_path)):
        with pytest.raises(ValueError, match=f"--model {model}: an implicit PRM is an ordinary causal LM without a head"):
            export_checkpoint(ExportConfig(str(model), str(tmp_path / "served")))


def terms(encoder):
    return {field.name: getattr(encoder, field.name) for field in fields(encoder) if field.name != "tokenizer"}


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"eurus"}))
def test_an_exported_copy_of_a_published_prm_keeps_its_recipe_s_contract(name, fake_vllm, tmp_path):
    """Of a copy whose name says nothing; what vLLM serves is encoded and read as the published model."""
    copy = WRITERS[name](tmp_path).rename(tmp_path / "copy")
    published, contract = load_model(copy, recipe=name)
    parity = export_checkpoint(ExportConfig(str(copy), str(tmp_path / "served"), recipe=name))
    assert parity.highest - parity.lowest > 0.05
    model, encoder = load_model(tmp_path / "served")
    scorer = Scorer.load(tmp_path / "served", engine="vllm")
    assert contract.recipe == name
    # vLLM's is limited by the model's positions.
    assert terms(encoder) == terms(replace(scorer.encoder, max_length=contract.max_length)) == terms(contract)
    encoded = built_in_responses(contract)
    assert built_in_responses(encoder) == built_in_responses(scorer.encoder) == encoded
    for ours, theirs in zip(score_batch(model, encoder, encoded), score_batch(published, contract, encoded), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_recipe_is_for_published_prms_that_nothing_else_tells(checkpoint, fake_vllm, tmp_path):
    config = ExportConfig(str(WRITERS["rlhflow"](tmp_path).rename(tmp_path / "copy")), str(tmp_path / "served"))
    with pytest.raises(ValueError, match=r"neither a checkpoint of scripts/train\.py .* Give --recipe if it is one of"):
        config.check()
    with pytest.raises(ValueError, match="recipe 'rlhf' is unknown; choose one of"):
        replace(config, recipe="rlhf").check()
    with pytest.raises(ValueError, match=r"--recipe rlhflow: .* is a checkpoint of this project"):
        replace(config, model=checkpoint, recipe="rlhflow").check()
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        replace(config, model=str(tmp_path / "nowhere")).check()
