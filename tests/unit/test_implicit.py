"""The implicit PRM: log-probs of response tokens, step rewards, cached reference, no tokens x vocabulary tensor."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

import prm.training.ref_logps
from prm.models import ImplicitPRM, RewardModel, load_model, save_model
from prm.models.files import hash_model
from prm.models.implicit import compute_ref_logps, sum_by_step
from prm.models.packing import pack_responses
from prm.models.step_scores import score_batch
from prm.steps import EncodedResponse, StepEncoder
from prm.training.ref_logps import cached_ref_logps

RESPONSES = [
    EncodedResponse([5, 9, 30, 31, 32, 33], [3, 5], 2),
    EncodedResponse([5, 9, 7, 40, 41, 42, 43, 44, 45, 46, 47], [4, 5, 10], 3),
    EncodedResponse([8, 50], [1], 1),
]


@pytest.fixture
def encoder(tiny_backbone):
    return StepEncoder.for_loss("implicit_prm", AutoTokenizer.from_pretrained(tiny_backbone), reference_model=str(tiny_backbone))


@pytest.fixture
def policy(tiny_backbone):
    return ImplicitPRM.from_backbone(tiny_backbone).eval()


def logps(model, responses):
    return model(**model.inputs(pack_responses(responses, with_targets=True)))


def test_step_sums_by_hand():
    assert sum_by_step(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 1, 2]), 3).tolist() == [3.0, 4.0, 8.0]


def test_log_probs_equal_the_causal_lm_s_own_in_each_response_alone(policy, tiny_backbone):
    reference = AutoModelForCausalLM.from_pretrained(tiny_backbone, attn_implementation="eager").eval()
    expected = []
    for ids, _, start in RESPONSES:
        probabilities = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected += [probabilities[position - 1, ids[position]] for position in range(start, len(ids))]
    torch.testing.assert_close(logps(policy, RESPONSES), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_an_empty_set_of_targets_is_a_differentiable_zero(policy):
    batch = pack_responses(RESPONSES[:1], with_targets=True)
    batch["target_positions"] = batch["target_positions"][:0]
    policy(**policy.inputs(batch)).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())


def test_rewards_are_beta_times_the_log_ratio_and_zero_for_the_reference_itself(policy, encoder, tiny_backbone):
    reference = ImplicitPRM.from_backbone(tiny_backbone).eval()
    assert score_batch(policy, encoder, RESPONSES, reference) == [[0.0] * 2, [0.0] * 3, [0.0]]
    with torch.no_grad():
        policy.lm_head.weight[30] += 0.5
    ratio = (logps(policy, RESPONSES[:1]) - logps(reference, RESPONSES[:1])).tolist()
    expected = [0.05 * (ratio[0] + ratio[1]), 0.05 * (ratio[2] + ratio[3])]
    assert score_batch(policy, encoder, RESPONSES[:1], reference)[0] == pytest.approx(expected, rel=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_backbone):
    gradients = []
    for is_checkpointed in (False, True):
        model = ImplicitPRM.from_backbone(tiny_backbone).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        logps(model, RESPONSES).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_reference_log_probs_come_in_the_order_of_the_responses(policy):
    flat = logps(policy, RESPONSES).detach()
    for budget in (1, 12, 1000):
        values = compute_ref_logps(policy, RESPONSES, budget)
        assert [len(v) for v in values] == [4, 8, 1]
        torch.testing.assert_close(torch.cat(values), flat, atol=1e-5, rtol=1e-5)


def test_cache_is_used_for_the_same_reference_and_tokens_only(policy, tiny_backbone, tmp_path, monkeypatch):
    computed = []
    original = compute_ref_logps
    monkeypatch.setattr(prm.training.ref_logps, "compute_ref_logps", lambda *a: computed.append(1) or original(*a))
    first = cached_ref_logps(str(tiny_backbone), RESPONSES, tmp_path)
    again = cached_ref_logps(str(tiny_backbone), RESPONSES, tmp_path)
    assert len(computed) == 1
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    cached_ref_logps(str(tiny_backbone), RESPONSES[:2], tmp_path)
    policy.lm_head.weight.data += 0.1
    policy.save_pretrained(tmp_path / "other")
    cached_ref_logps(str(tmp_path / "other"), RESPONSES, tmp_path)
    assert len(computed) == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_ranks_share_the_work_and_get_the_whole(policy, monkeypatch):
    whole = compute_ref_logps(policy, RESPONSES)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def gather(shares, mine):
        assert len(mine) == 1  # the second of three responses
        shares[:] = [[whole[0], whole[2]], mine]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    shared = prm.training.ref_logps._over_ranks(policy, RESPONSES, 100)
    for ours, expected in zip(shared, whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_hash_names_the_model_and_not_its_folder_or_neighbours(tiny_backbone, policy, tmp_path):
    policy.save_pretrained(tmp_path / "a")
    policy.save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "optimizer.bin").write_text("state")
    assert hash_model(tmp_path / "a") == hash_model(tmp_path / "b")
    policy.lm_head.weight.data[0, 0] += 1
    policy.save_pretrained(tmp_path / "b")
    assert hash_model(tmp_path / "a") != hash_model(tmp_path / "b")


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_saved_policy_is_an_ordinary_causal_lm(is_tied, tmp_path, encoder):
    sizes = {"vocab_size": 352, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    config = Qwen2Config(**sizes, num_key_value_heads=1, tie_word_embeddings=is_tied)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "start")
    policy = ImplicitPRM.from_backbone(tmp_path / "start").eval()
    assert (policy.lm_head.weight is policy.model.embed_tokens.weight) == is_tied
    with torch.no_grad():
        policy.lm_head.weight[30] += 0.5
    save_model(policy, encoder, tmp_path / "saved")
    loaded, contract = load_model(tmp_path / "saved")
    assert isinstance(loaded, ImplicitPRM)
    assert contract.reference_model == encoder.reference_model
    torch.testing.assert_close(logps(loaded, RESPONSES), logps(policy, RESPONSES))
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(causal) is Qwen2ForCausalLM
    assert torch.equal(causal.lm_head.weight, policy.lm_head.weight)
    with pytest.raises(ValueError, match="has no head; load it with ImplicitPRM"):
        RewardModel.from_pretrained(tmp_path / "saved")


def test_soft_capped_logits_are_refused(tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    Gemma2ForCausalLM(Gemma2Config(**sizes, num_key_value_heads=1, head_dim=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gemma2: packed attention does not cap logits"):
        ImplicitPRM.from_backbone(tmp_path)


def test_a_relative_reference_is_saved_as_a_full_path(policy, encoder, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_backbone.parent)
    save_model(policy, replace(encoder, reference_model=tiny_backbone.name), tmp_path)
    assert load_model(tmp_path)[1].reference_model == str(tiny_backbone.resolve())
