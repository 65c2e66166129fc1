"""The discriminative PRM: packed equals alone, weight names that other tools know, checkpoints that refuse what is not theirs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3NextConfig

from prm.attention import PACKED
from prm.models import ImplicitPRM, RewardModel, load_model, save_model
from prm.models.backbone import check_complete
from prm.models.packing import pack_responses
from prm.steps import EncodedResponse, StepEncoder

PROMPT, LENGTHS = 4, [(3, 5), (1,), (7, 2, 2, 6)]


def encoded_responses(vocab_size: int = 300) -> list[EncodedResponse]:
    generator = torch.Generator().manual_seed(1)
    responses = []
    for steps in LENGTHS:
        ends = (torch.tensor(steps).cumsum(0) + PROMPT - 1).tolist()
        responses.append(EncodedResponse(torch.randint(vocab_size, (ends[-1] + 1,), generator=generator).tolist(), ends, PROMPT))
    return responses


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=352, **sizes, num_key_value_heads=1)).save_pretrained(path)
    return path


@pytest.fixture
def encoder(tiny_backbone):
    return StepEncoder.for_loss("asym", AutoTokenizer.from_pretrained(tiny_backbone))


@pytest.fixture
def checkpoint(tiny_backbone, encoder, tmp_path):
    save_model(RewardModel.from_backbone(tiny_backbone, 1), encoder, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def logits(model: RewardModel, responses: list[EncodedResponse]) -> torch.Tensor:
    return model(**model.inputs(pack_responses(responses)))


@pytest.mark.parametrize("family", ["tiny_backbone", "llama"])
def test_packed_logits_equal_each_response_alone(family, request):
    model = RewardModel.from_backbone(request.getfixturevalue(family), num_labels=2).eval()
    responses = encoded_responses()
    packed = logits(model, responses)
    alone = torch.cat([logits(model, [response]) for response in responses])
    assert packed.shape == (7, 2)
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-6)
    reordered = torch.cat([*logits(model, responses[::-1]).split([4, 1, 2])[::-1]])
    torch.testing.assert_close(packed, reordered, atol=1e-6, rtol=1e-6)


def test_logits_are_the_head_on_the_backbone_s_states_at_step_ends(tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, num_labels=1).eval()
    (response, *_) = encoded_responses()
    plain = AutoModel.from_pretrained(tiny_backbone, attn_implementation="eager").eval()
    hidden = plain(torch.tensor([response.input_ids])).last_hidden_state[0, response.step_ends]
    (first, _, last) = model.score
    expected = torch.relu(hidden @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(logits(model, [response]), expected, atol=1e-5, rtol=1e-5)
    rows = []
    model.score.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    logits(model, [response])
    assert rows == [2]


def test_no_padding_token_and_no_mask_reach_the_backbone(tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, num_labels=1)
    seen = {}
    model.model.layers[0].register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    logits(model, encoded_responses())
    assert seen["attention_mask"] is None
    assert seen["cu_seq_lens_q"].tolist() == [0, 12, 17, 38]


def test_gradient_checkpointing_gives_the_same_gradients(tiny_backbone):
    gradients = []
    for is_checkpointed in (False, True):
        model = RewardModel.from_backbone(tiny_backbone, num_labels=1).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        logits(model, encoded_responses()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_the_head_depends_on_the_seed_alone_and_the_backbone_stays(tiny_backbone):
    models = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        models.append(RewardModel.from_backbone(tiny_backbone, num_labels=3, seed=seed))
    first, again, other = (model.score[0].weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    original = Qwen2ForCausalLM.from_pretrained(tiny_backbone).model.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in models[0].model.state_dict().items())


def test_causal_lm_and_base_checkpoints_give_the_same_model(tiny_backbone, tmp_path):
    AutoModel.from_pretrained(tiny_backbone).save_pretrained(tmp_path)
    ours, base = (RewardModel.from_backbone(path, 1) for path in (tiny_backbone, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), base.parameters(), strict=True))


def test_vocabulary_grows_to_the_tokenizer_the_same_way_every_time(tiny_backbone):
    grown = [RewardModel.from_backbone(tiny_backbone, 1, vocab_size=360).get_input_embeddings().weight for _ in range(2)]
    assert grown[0].shape == (360, 128)
    assert torch.equal(*grown)
    assert RewardModel.from_backbone(tiny_backbone, 1, vocab_size=300).get_input_embeddings().num_embeddings == 352


@pytest.mark.parametrize(
    ("num_labels", "name"),
    [(1, "Qwen2ForRewardModel"), (2, "Qwen2ForProcessRewardModel"), (3, "Qwen2ForStepClassification")],
)
def test_saved_names_are_those_that_vllm_serves(tiny_backbone, encoder, tmp_path, num_labels, name):
    save_model(RewardModel.from_backbone(tiny_backbone, num_labels), encoder, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]
    keys = set(load_file(tmp_path / "model.safetensors"))
    assert {key for key in keys if not key.startswith("model.")} == {
        f"score.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")
    }
    assert not any(file.suffix in (".bin", ".pt", ".pkl") for file in tmp_path.iterdir())


@pytest.mark.parametrize("family", ["tiny_backbone", "llama"])
def test_round_trip(family, request, encoder, tmp_path):
    model = RewardModel.from_backbone(request.getfixturevalue(family), num_labels=1).train()
    save_model(model, encoder, tmp_path)
    assert model.training
    loaded, contract = load_model(tmp_path)
    assert not loaded.training
    assert loaded.config._attn_implementation == PACKED
    assert contract.loss == "asym"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    torch.testing.assert_close(logits(model.eval(), encoded_responses()), logits(loaded, encoded_responses()))
    half, _ = load_model(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_self_test_finds_changed_weights(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["score.2.bias"] += 0.1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights are not those that were saved"):
        load_model(checkpoint)


def test_self_test_finds_a_changed_chat_template(checkpoint):
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        if (path := checkpoint / file).exists():
            path.write_text(path.read_text().replace("<|im_end|>\\n", "\\n").replace("<|im_end|>\n", "\n"))
    with pytest.raises(ValueError, match="self-test's input_ids changed"):
        load_model(checkpoint)


def test_a_checkpoint_without_self_test_loads_with_a_warning(checkpoint, caplog):
    path = checkpoint / "prm_config.json"
    config = json.loads(path.read_text())
    del config["self_test"]
    path.write_text(json.dumps(config))
    load_model(checkpoint)
    assert "holds no self-test" in caplog.text


def test_directories_that_are_no_checkpoint(checkpoint, tiny_backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prm_config.json.*scripts/train.py"):
        RewardModel.from_pretrained(tiny_backbone)
    with pytest.raises(ValueError, match=r"neither a checkpoint of scripts/train.py .* nor a published PRM that is known"):
        load_model(tiny_backbone)
    for load in (RewardModel.from_pretrained, load_model):
        with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
            load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="asym trained a head"):
        ImplicitPRM.from_pretrained(checkpoint)


def test_missing_weights_are_refused_and_not_drawn(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "score.0.bias"}, checkpoint / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"1 weights are missing \(score.0.bias"):
        load_model(checkpoint)
    check_complete([], checkpoint)


def test_backbones_that_cannot_be_used(tiny_backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        RewardModel.from_backbone(tmp_path / "nowhere", 1)
    shutil.copytree(tiny_backbone, tmp_path / "hybrid")
    Qwen3NextConfig(num_hidden_layers=4).save_pretrained(tmp_path / "hybrid")
    with pytest.raises(ValueError, match="linear_attention"):
        RewardModel.from_backbone(tmp_path / "hybrid", 1)


def test_backbone_outside_the_attention_interface(tiny_backbone, monkeypatch):
    monkeypatch.setattr("transformers.Qwen2Model._supports_attention_backend", False)
    with pytest.raises(ValueError, match="bypasses transformers' attention interface"):
        RewardModel.from_backbone(tiny_backbone, 1)
