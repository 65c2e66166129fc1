"""Base and policy of the miniature: the loss by hand, a run that equals its interrupted twin, and the errors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from prm.miniature import corpus, policy
from prm.miniature.policy import BaseConfig, PolicyConfig, train_base, train_policy
from prm.miniature.tokenizer import build_tokenizer
from prm.steps import load_tokenizer

BASE = BaseConfig(
    num_layers=1,
    hidden_size=64,
    intermediate_size=64,
    fact_steps=3,
    document_steps=2,
    mark_steps=1,
    fact_batch=4,
    document_batch=2,
    checkpoint_every=2,
)
POLICY = PolicyConfig(num_steps=3, batch_size=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_base(BASE, tmp_path_factory.mktemp("base"))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return Qwen2ForCausalLM.from_pretrained(directory).state_dict()


def assert_equal(left: Path, right: Path) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loss_is_the_likelihood_of_the_response_whatever_the_padding() -> None:
    tokenizer = build_tokenizer(corpus.tokenizer_texts(BASE.problems, 0, num=50))
    model = policy.new_model(BASE, tokenizer)
    short, long = ([5, 6, 7, 8], [False, False, True, True]), ([9, 8, 7, 6, 5, 4], [False] + 5 * [True])
    logps = F.log_softmax(model(torch.tensor([short[0]])).logits[0], dim=-1)
    alone = policy.summed_loss(model, [short])
    assert alone.item() == pytest.approx(-(logps[1, 7] + logps[2, 8]).item(), rel=1e-5)
    together = policy.summed_loss(model, [short, long])
    assert together.item() == pytest.approx((alone + policy.summed_loss(model, [long])).item(), rel=1e-5)


def test_checkpoint_is_complete_and_a_finished_run_is_left_alone(base: Path) -> None:
    assert not (base / policy.STATE_FILE).exists()
    model = Qwen2ForCausalLM.from_pretrained(base)
    tokenizer = load_tokenizer(base)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.hidden_size // model.config.num_attention_heads == 64
    before = (base / "model.safetensors").stat().st_mtime_ns
    train_base(replace(BASE, fact_steps=1), base)
    assert (base / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", ["base", "policy"])
def test_a_killed_run_ends_at_the_same_weights(stage: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(directory: Path) -> Path:
        return train_base(BASE, directory) if stage == "base" else train_policy(POLICY, base, directory)

    real_step, calls = policy._step, []

    def killed_at_the_third(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(policy, "_step", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    assert (tmp_path / "killed" / policy.STATE_FILE).exists()
    monkeypatch.setattr(policy, "_step", real_step)
    assert_equal(train(tmp_path / "killed"), train(tmp_path / "whole"))


def test_the_seed_decides(base: Path, tmp_path: Path) -> None:
    other = train_base(replace(BASE, seed=1), tmp_path / "other")
    assert not torch.equal(weights(base)["lm_head.weight"], weights(other)["lm_head.weight"])


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hidden_size 100 is not a multiple of 64"):
        BaseConfig(hidden_size=100)
    with pytest.raises(FileNotFoundError, match="no base model here"):
        train_policy(POLICY, tmp_path / "nowhere", tmp_path / "policy")
