"""What trains: adapters that merge into the weights exactly, a head alone, a checkpoint of ours continued."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from prm.models import ImplicitPRM, RewardModel, load_model, save_model
from prm.models.adapt import (
    TRAINABLE,
    adapted_layers,
    adapter_state,
    add_lora,
    add_product,
    check_start,
    freeze_backbone,
    load_adapter_state,
    merged_state_dict,
    save_adapter_state,
    start_reward_model,
)
from prm.models.packing import pack_responses
from prm.steps import EncodedResponse, StepEncoder

RESPONSES = [EncodedResponse([5, 9, 30, 31, 32, 33], [3, 5], 2), EncodedResponse([5, 9, 7, 40, 41, 42, 43], [4, 6], 3)]


@pytest.fixture
def encoder(tiny_backbone):
    return StepEncoder.for_loss("asym", AutoTokenizer.from_pretrained(tiny_backbone))


@pytest.fixture
def lora():
    pytest.importorskip("peft")
    return add_lora


def outputs(model):
    return model(**model.inputs(pack_responses(RESPONSES, with_targets=True)))


def trained(model):
    """`model` after one step, in which every adapter gets a second factor that is not zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    outputs(model).square().sum().backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 0.01 * weight.grad
    return model.eval()


def test_merged_weight_by_hand():
    weight, first, second = torch.zeros(2, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    assert add_product(weight + 1, first, second, 0.5).tolist() == [[2.5, 4.0], [3.0, 5.0]]
    assert add_product(weight.bfloat16(), first, second, 1.0).dtype == torch.bfloat16


def test_adapters_start_at_zero_and_leave_decoder_and_lm_head_frozen(lora, tiny_backbone):
    plain, adapted = (RewardModel.from_backbone(tiny_backbone, 1).eval() for _ in range(2))
    lora(adapted, rank=4, alpha=8)
    torch.testing.assert_close(outputs(adapted), outputs(plain))
    assert len(adapted_layers(adapted)) == 2 * 7
    trains = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {name for name in trains if ".lora_" not in name} == {f"score.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}
    policy = ImplicitPRM.from_backbone(tiny_backbone)
    lora(policy, rank=4, alpha=8)
    assert all(".lora_" in name for name, weight in policy.named_parameters() if weight.requires_grad)


def test_adapters_depend_on_the_seed_alone(lora, tiny_backbone):
    factors = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        model = RewardModel.from_backbone(tiny_backbone, 1)
        torch.manual_seed(noise)
        lora(model, rank=4, alpha=8, seed=seed)
        factors.append(model.model.layers[0].self_attn.q_proj.lora_A.default.weight)
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])


def test_options_of_the_adapters_arrive(lora, tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, 1)
    lora(model, rank=4, alpha=8, dropout=0.5, target_modules=["q_proj", "v_proj"])
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == {"q_proj", "v_proj"}
    layer = model.model.layers[0].self_attn.q_proj
    assert (layer.scaling["default"], layer.lora_dropout["default"].p, layer.lora_A.default.out_features) == (2.0, 0.5, 4)


@pytest.mark.parametrize("make", [lambda path: RewardModel.from_backbone(path, 2), ImplicitPRM.from_backbone])
def test_saved_checkpoint_is_merged_and_scores_the_same(lora, make, encoder, tiny_backbone, tmp_path):
    model = make(tiny_backbone)
    names = model.state_dict().keys()
    lora(model, rank=4, alpha=8)
    before = outputs(trained(model))
    loss = "implicit_prm" if isinstance(model, ImplicitPRM) else "step_ce"
    encoder = StepEncoder.for_loss(loss, encoder.tokenizer, **({"num_labels": 2} if loss == "step_ce" else {}))
    save_model(model, encoder, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == names
    loaded, _ = load_model(tmp_path)
    torch.testing.assert_close(outputs(loaded), before, rtol=1e-4, atol=1e-5)
    assert (outputs(loaded) - outputs(make(tiny_backbone).eval())).abs().max() > 1e-2


def test_state_dict_of_gathered_weights_is_merged_and_not_the_model_s_own(lora, tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, 1)
    assert merged_state_dict(model).keys() == model.state_dict().keys()
    lora(model, rank=4, alpha=8)
    gathered = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    merged = merged_state_dict(model, gathered)
    assert set(merged["model.layers.1.mlp.up_proj.weight"].unique().tolist()) == {1 + 2.0 * 4}
    assert set(merged["model.layers.0.self_attn.q_proj.bias"].unique().tolist()) == {1.0}
    assert adapter_state(model, gathered)["score.0.bias"].tolist() == [1.0] * 128


def test_a_run_continues_from_its_adapters_bit_for_bit(lora, encoder, tiny_backbone, tmp_path):
    def fresh():
        model = RewardModel.from_backbone(tiny_backbone, 1, seed=3)
        lora(model, rank=4, alpha=8, seed=3)
        return model

    model = trained(fresh())
    save_model(model, encoder, tmp_path)
    save_adapter_state(model, tmp_path)
    continued = fresh()
    load_adapter_state(continued, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), continued.parameters(), strict=True))
    save_adapter_state(RewardModel.from_backbone(tiny_backbone, 1), tmp_path / "nowhere")  # nothing to write


def test_continuing_merges_no_weight(lora, encoder, tiny_backbone, tmp_path, monkeypatch):
    """Merged copies of all adapted weights would take as much memory again as the decoder."""
    model = RewardModel.from_backbone(tiny_backbone, 1)
    lora(model, rank=4, alpha=8)
    save_model(model, encoder, tmp_path)
    save_adapter_state(model, tmp_path)
    monkeypatch.setattr("prm.models.adapt.add_product", None)
    load_adapter_state(model, tmp_path)


def test_adapters_continue_on_their_own_backbone_and_options_only(lora, encoder, tiny_backbone, tmp_path):
    model = RewardModel.from_backbone(tiny_backbone, 1)
    lora(model, rank=4, alpha=8)
    with pytest.raises(FileNotFoundError, match=f"no {TRAINABLE}.*use --lora_rank 0"):
        load_adapter_state(model, tmp_path)
    save_model(model, encoder, tmp_path)
    save_adapter_state(model, tmp_path)
    other = RewardModel.from_backbone(tiny_backbone, 1)
    lora(other, rank=2, alpha=8)
    with pytest.raises(ValueError, match=r"lora_A.*is not what trains now"):
        load_adapter_state(other, tmp_path)
    other = RewardModel.from_backbone(tiny_backbone, 1)
    lora(other, rank=4, alpha=8, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="is not what trains now"):
        load_adapter_state(other, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.norm.weight is not that of --model_name_or_path"):
        load_adapter_state(model, tmp_path)


def test_names_that_no_layer_has(lora, tiny_backbone):
    with pytest.raises(ValueError, match=r"--lora_target_modules lm_head query: the decoder's linear layers are down_proj, "):
        lora(RewardModel.from_backbone(tiny_backbone, 1), 4, 8, target_modules=["q_proj", "query", "lm_head"])


def test_without_peft(monkeypatch, tiny_backbone):
    monkeypatch.setattr("prm.models.adapt.is_peft_available", lambda: False)
    with pytest.raises(ValueError, match=r"--lora_rank needs peft: install it with"):
        add_lora(RewardModel.from_backbone(tiny_backbone, 1), 4, 8)


def test_frozen_backbone_leaves_the_head(tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, 1)
    freeze_backbone(model)
    outputs(model).sum().backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
        f"score.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")
    }


def test_a_checkpoint_of_ours_keeps_its_head(encoder, tiny_backbone, tmp_path):
    model = RewardModel.from_backbone(tiny_backbone, 1, seed=7)
    save_model(model, encoder, tmp_path)
    options = {"num_labels": 1, "seed": 0, "dtype": torch.float32, "vocab_size": len(encoder.tokenizer)}
    continued = start_reward_model(tmp_path, **options)
    assert torch.equal(continued.score[0].weight, model.score[0].weight)
    assert all(weight.requires_grad for weight in continued.parameters())
    new = start_reward_model(tiny_backbone, **options)
    assert torch.equal(new.score[0].weight, RewardModel.from_backbone(tiny_backbone, 1, seed=0).score[0].weight)


def test_a_checkpoint_with_other_outputs_is_refused(encoder, tiny_backbone, tmp_path):
    save_model(RewardModel.from_backbone(tiny_backbone, 1), encoder, tmp_path)
    with pytest.raises(ValueError, match="asym trained a model of 1 outputs per step, this objective needs 3 outputs per step"):
        start_reward_model(tmp_path, 3, 0, torch.float32, 352)
    with pytest.raises(ValueError, match="this objective needs token log-probs, no head"):
        check_start(tmp_path, 0)
    config = json.loads((tmp_path / "prm_config.json").read_text())
    (tmp_path / "prm_config.json").write_text(json.dumps(config | {"num_labels": 0, "loss": "implicit_prm"}))
    with pytest.raises(ValueError, match="implicit_prm trained a model of token log-probs, no head"):
        check_start(tmp_path, 1)
    assert check_start(tmp_path, 0)
    assert not check_start(tiny_backbone, 1)
