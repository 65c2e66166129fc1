"""Faster layers compute what torch's and transformers' do; on a CPU freed memory stays with the process."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from prm.attention import PACKED
from prm.benchmarks.speed.workload import stub_encoder
from prm.models import ImplicitPRM, RewardModel
from prm.models.inference import HAS_ONEDNN, FusedRMSNorm, OneDNNLinear, keep_freed_memory, prepare_for_inference
from prm.models.kernels import compile_layers
from prm.models.packing import pack_responses
from prm.scoring import TorchEngine
from prm.steps import EncodedResponse

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")


@pytest.fixture
def seen(monkeypatch):
    """Shapes of what oneDNN was given."""
    shapes = []
    ours = torch.ops.prm.onednn_linear

    def record(input, weight, bias):
        shapes.append(tuple(input.shape))
        return ours(input, weight, bias)

    monkeypatch.setattr("prm.models.inference.onednn_linear", record)
    return shapes


@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (1, 300, 48), (0, 48), (2, 3, 5, 48)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_layer_is_as_exact_as_torchs(shape, bias, seen):
    torch.manual_seed(0)
    layer = nn.Linear(48, 33, bias=bias)
    inputs = torch.randn(shape)
    exact = copy.deepcopy(layer).double()(inputs.double())
    prepare_for_inference(layer, "cpu")
    torch.testing.assert_close(layer(inputs).double(), exact, rtol=1e-5, atol=1e-5)
    assert seen == [shape]


def test_gradients_and_other_precisions_are_torchs(seen):
    layer = OneDNNLinear(16, 4)
    layer(torch.randn(3, 16)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        layer.bfloat16()(torch.randn(3, 16).bfloat16())
        layer.double()(torch.randn(3, 16).double())
    assert seen == []


def test_an_engine_prepares_its_model_whose_weights_stay(tiny_backbone):
    model = RewardModel.from_backbone(tiny_backbone, 1).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    TorchEngine(model, stub_encoder("asym"))
    after = copy.deepcopy(model).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linear) >= 9
    assert {type(module) for module in linear} == {OneDNNLinear}


@torch.no_grad()
def test_compiled_layers_take_it_as_one_operator(tiny_backbone):
    """Rows of every length with more than one step in one graph; the scoring benchmark's test compiles with inductor."""
    torch._dynamo.reset()
    counters.clear()
    eager, compiled = (RewardModel.from_backbone(tiny_backbone, 1).eval() for _ in range(2))
    prepare_for_inference(compiled, "cpu")
    compile_layers(compiled, backend="aot_eager")
    graphs = []
    for lengths in ((9, 5), (30,), (7, 3, 11)):
        row = pack_responses([EncodedResponse(list(range(n)), [2, n - 1], 2) for n in lengths])
        torch.testing.assert_close(compiled(**compiled.inputs(row)), eager(**eager.inputs(row)), rtol=1e-4, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]
    torch._dynamo.reset()


SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}


WINDOW = {"sliding_window": 6}
LAST_WINDOW = WINDOW | {"use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Qwen2Config, {}),
        (Qwen2Config, LAST_WINDOW),
        (LlamaConfig, {"attention_bias": True}),
        (LlamaConfig, WINDOW),  # an entry that Llama does not know
        (MistralConfig, WINDOW),
        (MistralConfig, {"sliding_window": None}),
        (Qwen3Config, {}),
    ],
)
@pytest.mark.parametrize("kind", [RewardModel, ImplicitPRM])
@pytest.mark.parametrize("share_prefixes", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@torch.no_grad()
def test_the_last_layer_runs_where_it_is_read(config, options, kind, share_prefixes, device):
    """Its MLP everywhere, its queries on a CPU; the model computes here whatever it is prepared for."""
    torch.manual_seed(0)
    options = options | SMALL | {"num_key_value_heads": 2, "head_dim": 12, "num_labels": 2, "attn_implementation": PACKED}
    model = kind(config(**options)).eval()
    last = model.model.layers[-1]
    rows: dict[str, list[int]] = {"mlp": [], "q_proj": [], "k_proj": []}
    for name, part in (("mlp", last.mlp), ("q_proj", last.self_attn.q_proj), ("k_proj", last.self_attn.k_proj)):
        part.register_forward_hook(lambda module, inputs, output, name=name: rows[name].append(output.shape[1]))
    prompt = list(range(20))
    row = [EncodedResponse([*prompt, *range(n, 2 * n)], [22, 19 + n], 20) for n in (5, 9, 14)]
    batch = model.inputs(pack_responses(row, kind is ImplicitPRM, share_prefixes))
    expected = model(**batch)
    prepare_for_inference(model, device)
    assert model.reads_early is (config is not Qwen3Config), "others keep their last layer"
    torch.testing.assert_close(model(**batch), expected, rtol=1e-4, atol=1e-5)
    whole = batch["input_ids"].shape[1]
    reads = len(expected) if model.reads_early else whole
    assert rows == {"mlp": [whole, reads], "q_proj": [whole, reads if device == "cpu" else whole], "k_proj": [whole, whole]}
    assert len(expected) < whole


@pytest.mark.parametrize("norm", [Qwen2RMSNorm, LlamaRMSNorm, MistralRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_fused_norm_is_no_less_exact(norm, dtype):
    torch.manual_seed(0)
    layer = norm(96, eps=1e-5).to(dtype)
    layer.weight.uniform_(0.5, 1.5)
    states = 3 * torch.randn(1, 50, 96).to(dtype)
    exact = F.rms_norm(states.double(), (96,), layer.weight.double(), 1e-5)
    theirs = (layer(states) - exact).abs().max()
    prepare_for_inference(layer, "cuda")
    assert type(layer) is FusedRMSNorm
    output = layer(states)
    assert output.dtype == dtype
    assert (output - exact).abs().max() <= theirs + 1e-6


def test_a_model_with_fused_norms_scores_the_same(tiny_backbone):
    plain, fused = (RewardModel.from_backbone(tiny_backbone, 1).eval() for _ in range(2))
    prepare_for_inference(fused, "cuda")
    assert sum(type(module) is FusedRMSNorm for module in fused.modules()) == 5
    row = pack_responses([EncodedResponse(list(range(n)), [n - 1], 2) for n in (9, 30)])
    torch.testing.assert_close(fused(**fused.inputs(row)), plain(**plain.inputs(row)), rtol=1e-4, atol=1e-6)


FAULTS = """
import resource, sys
import torch
from prm.models.inference import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(30):
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_freed_memory_is_not_mapped_anew():
    """64 MiB, made and freed ten times: 16,384 pages of 4 KiB each time (fewer of larger ones), or none.

    Small blocks that live on may cut the first holes: it took up to eight turns until one fitted for good, so twenty go before.
    """

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("give back") / 4
