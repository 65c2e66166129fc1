"""Scores on a GPU: those of the CPU, whatever shares a row, compiled or not; and no wait for the device within a row."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModel, AutoModelForCausalLM

from prm.attention import PACKED
from prm.benchmarks.speed.workload import model_config, stub_encoder
from prm.models import ImplicitPRM, RewardModel
from prm.models.backbone import PackedModel
from prm.models.kernels import compile_layers
from prm.models.log_probs import token_logps
from prm.models.packing import pack_responses
from prm.models.reward_model import build_head
from prm.models.step_scores import _row_scores
from prm.scoring import TorchEngine
from prm.steps import EncodedResponse

pytestmark = pytest.mark.gpu
HALF = 5e-3
"""Bfloat16 keeps 8 bits: what the largest of the scores below may be off by."""


def responses(number: int = 40, prompt: int = 60) -> list[EncodedResponse]:
    """Three prompts, lengths from 20 to 400 tokens, up to six steps; each begins with a part of the last one to its prompt."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(2, 256, (n,), generator=generator).tolist()

    prompts, made = [tokens(prompt) for _ in range(3)], []
    last: list[list[int]] = [[], [], []]
    for index in range(number):
        length = 20 + int(380 * torch.rand((), generator=generator))
        ends = sorted({prompt + (length * part) // (1 + index % 6) - 1 for part in range(1, 2 + index % 6)})
        common = last[index % 3][: length // 3]
        last[index % 3] = [*common, *tokens(length - len(common))]
        made.append(EncodedResponse([*prompts[index % 3], *last[index % 3]], ends, prompt))
    return made


def model_of(kind: str) -> PackedModel:
    """A random PRM in float32: of four layers and hidden size 256, or, implicit, of two and 128."""
    torch.manual_seed(0)
    if kind == "implicit_prm":
        return ImplicitPRM.from_parts(AutoModelForCausalLM.from_config(model_config("tiny"), attn_implementation=PACKED)).eval()
    backbone = AutoModel.from_config(model_config("small"), attn_implementation=PACKED)
    return RewardModel.from_parts(backbone, build_head(256, 1)).eval()


def scores(engine: TorchEngine) -> torch.Tensor:
    return torch.tensor([score for row in engine.score_encoded(responses()) for score in row], dtype=torch.float64)


def engine(model, kind: str, **options) -> TorchEngine:
    return TorchEngine(model, stub_encoder(kind), **{"token_budget": 2000, **options})


@pytest.fixture(params=["asym", "implicit_prm"])
def kind(request) -> str:
    return request.param


def test_float32_scores_are_the_cpus(gpu, kind):
    model = model_of(kind)
    expected = scores(engine(copy.deepcopy(model), kind))
    torch.testing.assert_close(scores(engine(model.to(gpu), kind)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share_prefixes", [False, True])
def test_bfloat16_scores_are_the_cpus_in_float32(gpu, kind, share_prefixes):
    model = model_of(kind)
    expected = scores(engine(copy.deepcopy(model), kind))
    on_gpu = engine(model.to(gpu, torch.bfloat16), kind, share_prefixes=share_prefixes)
    assert on_gpu.share_prefixes is share_prefixes
    torch.testing.assert_close(scores(on_gpu), expected, atol=HALF * max(1.0, expected.abs().max().item()), rtol=0)


def test_compiled_layers_score_the_same_and_are_compiled_once(gpu):
    torch._dynamo.reset()
    model = model_of("asym").to(gpu, torch.bfloat16)
    eager = scores(engine(copy.deepcopy(model), "asym"))
    compile_layers(model)
    compiled = engine(model, "asym")
    for budget in (2000, 480, 500, 1234, 8000):  # rows with shared beginnings, and from 480 on some without
        if budget == 500:
            counters.clear()
        compiled.token_budget = budget
        torch.testing.assert_close(scores(compiled), eager, atol=HALF, rtol=0)
    assert not counters["stats"]["unique_graphs"], "compiled anew for other rows"


def test_nothing_in_a_row_waits_for_the_device(gpu, kind):
    """Copies to the GPU, forward pass and head are put in its queue; the scores alone are waited for, at the end."""
    model = model_of(kind).to(gpu, torch.bfloat16)
    row = sorted(responses(8), key=lambda response: response.input_ids)  # as engines lay them out: neighbors share
    for turn in range(2):
        torch.cuda.set_sync_debug_mode("error" if turn else "default")  # kernels load in the first turn
        try:
            with torch.no_grad():
                _row_scores(model, stub_encoder(kind), row, None, share_prefixes=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert "shared" in pack_responses(row, kind != "asym", share_prefixes=True)


def test_log_probs_hold_no_tokens_by_vocabulary(gpu):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 256, generator=generator).to(gpu, torch.bfloat16).requires_grad_() for n in (2048, 128000))
    targets = torch.randint(128000, (2048,), generator=generator).to(gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_allocated(gpu)
    logps = token_logps(hidden, targets, weight)
    logps.sum().backward()
    peak = torch.cuda.max_memory_allocated(gpu) - before
    full = (hidden.detach().float() @ weight.detach().float().T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logps.detach(), full, atol=0.2, rtol=1e-2)
    assert peak < 2048 * 128000 * 4 / 2
