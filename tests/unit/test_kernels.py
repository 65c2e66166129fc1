"""Compiled layers compute what eager ones do, for rows of every length in one graph; Liger leaves our forward alone."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Qwen2Config
from transformers.integrations.liger import apply_liger_kernel
from transformers.models.qwen2 import modeling_qwen2

from prm.models import ImplicitPRM, RewardModel
from prm.models.kernels import LIGER_OPTIONS, check_liger, compile_layers
from prm.models.packing import pack_responses
from prm.steps import EncodedResponse

MAKERS = {"reward": lambda path: RewardModel.from_backbone(path, 1), "implicit": ImplicitPRM.from_backbone}


def row(*lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    responses = [EncodedResponse(torch.randint(300, (n,), generator=generator).tolist(), [n // 2, n - 1], 2) for n in lengths]
    return pack_responses(responses, with_targets=True)


def outputs_and_gradients(model, batch):
    model.zero_grad()
    output = model(**model.inputs(batch))
    output.square().sum().backward()
    return output.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.fixture
def no_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def test_compiled_layers_compute_the_same_from_one_graph(no_graphs, tiny_backbone):
    eager, compiled = (RewardModel.from_backbone(tiny_backbone, 1).train() for _ in range(2))
    names = list(eager.state_dict())
    compile_layers(compiled, backend="eager")
    for model in (eager, compiled):
        model.gradient_checkpointing_enable()
    graphs = []
    for batch in (row(9, 5), row(30), row(7, 3, 11, 2, 19)):
        for ours, theirs in zip(outputs_and_gradients(compiled, batch), outputs_and_gradients(eager, batch), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        graphs.append(no_graphs["stats"]["unique_graphs"])
    assert 0 < graphs[0] <= 4
    assert graphs[-1] == graphs[0], f"recompiled: {graphs}"
    assert list(compiled.state_dict()) == names


def prompt_row(*lengths):
    """Responses to one prompt, which stands in the row once."""
    responses = [EncodedResponse([*range(20), *range(100 + i, 100 + i + n)], [19 + n], 20) for i, n in enumerate(lengths)]
    return pack_responses(responses, share_prefixes=True)


@torch.no_grad()
def test_rows_with_shared_beginnings_take_one_graph_more(no_graphs, tiny_backbone):
    eager, compiled = (RewardModel.from_backbone(tiny_backbone, 1).eval() for _ in range(2))
    compile_layers(compiled, backend="eager")
    graphs = []
    for batch in (row(9, 5), row(30, 2), prompt_row(3, 9), prompt_row(12, 4, 4), row(7, 3, 11), prompt_row(2, 1, 9, 30)):
        torch.testing.assert_close(compiled(**compiled.inputs(batch)), eager(**eager.inputs(batch)), rtol=1e-4, atol=1e-5)
        graphs.append(no_graphs["stats"]["unique_graphs"])
    assert prompt_row(3, 9)["cu_seqlens"].tolist() == [0, 23, 32]
    assert graphs[0] == graphs[1] < graphs[2] <= 2 * graphs[0]
    assert graphs[2:] == graphs[2:3] * 4, f"recompiled: {graphs}"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("options", [None, {"use_reentrant": False}])
def test_gradient_checkpointing_keeps_the_documents_apart(tiny_backbone, kind, options):
    """Every layer is computed again with the boundaries of its documents."""
    plain, checkpointed = (MAKERS[kind](tiny_backbone).train() for _ in range(2))
    checkpointed.gradient_checkpointing_enable(options)
    seen = []
    for layer in checkpointed.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["cu_seq_lens_q"].tolist()), with_kwargs=True
        )
    _, gradients = outputs_and_gradients(checkpointed, row(9, 5, 12))
    assert seen == [[0, 9, 14, 26]] * 4  # two layers, forward and again
    _, expected = outputs_and_gradients(plain, row(9, 5, 12))
    torch.testing.assert_close(gradients, expected)


def test_liger_replaces_the_decoder_s_parts_and_not_our_forward(tiny_backbone, monkeypatch):
    pytest.importorskip("liger_kernel")
    for name in ("apply_rotary_pos_emb", "Qwen2RMSNorm", "Qwen2MLP"):  # replaced for the whole process
        monkeypatch.setattr(modeling_qwen2, name, getattr(modeling_qwen2, name))
    for make in MAKERS.values():
        model = make(tiny_backbone)
        forward = model.forward
        apply_liger_kernel(model, LIGER_OPTIONS)
        assert model.forward == forward
        parts = [model.model.norm, *(p for layer in model.model.layers for p in (layer.input_layernorm, layer.mlp))]
        assert all(part.forward.__func__.__qualname__.startswith("Liger") for part in parts)
    assert modeling_qwen2.apply_rotary_pos_emb.__module__.startswith("liger_kernel")
    check_liger(model.config, torch.device("cuda"))
    model.config.model_type = "unheard_of"
    with pytest.raises(ValueError, match="no Liger kernels for unheard_of"):
        check_liger(model.config, torch.device("cuda"))


def test_liger_needs_an_accelerator_and_its_package(monkeypatch):
    with pytest.raises(ValueError, match="do not run on CPU"):
        check_liger(Qwen2Config(), torch.device("cpu"))
    monkeypatch.setattr("prm.models.kernels.is_liger_kernel_available", lambda: False)
    with pytest.raises(ValueError, match="needs liger-kernel: install it"):
        check_liger(Qwen2Config(), torch.device("cuda"))
