"""Log-probs of target tokens: those of the full logits, and their gradients, in memory that does not grow with the vocabulary."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prm.models.log_probs import BLOCK_COLUMNS, BLOCK_ELEMENTS, LogProbHead, block_columns, token_logps


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors made inside, those alive at the same time."""

    live = peak = 0

    def __init__(self):
        super().__init__()
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.known |= {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        output = function(*args, **kwargs or {})
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        return output

    def free(self, key, size):
        self.known.discard(key)
        self.live -= size


def full_logps(hidden, targets, weight, bias=None):
    logits = nn.functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def random_inputs(targets, hidden, vocabulary, dtype=torch.float32, bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(targets, hidden), (vocabulary, hidden), (vocabulary,)]
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() if shape[-1:] != (vocabulary,) or bias else None
        for shape in shapes
    )
    return hidden, torch.randint(vocabulary, (targets,), generator=generator), weight, bias


def gradients(function, hidden, targets, weight, bias, *options):
    output = function(hidden, targets, weight, bias, *options)
    leaves = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    return output, *torch.autograd.grad(output.square().sum(), leaves)


def test_log_probs_by_hand():
    hidden = torch.tensor([[0.0], [3.0]]).log1p()  # logits (0, 0) and (0, log 4): probabilities (1/2, 1/2) and (1/5, 4/5)
    output = token_logps(hidden, torch.tensor([0, 1]), torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(output.exp(), torch.tensor([0.5, 0.8]))


@pytest.mark.parametrize("columns", [1, 3, 20, 100, None])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_change_neither_values_nor_gradients(columns, bias):
    inputs = random_inputs(7, 8, 20, torch.float64, bias)
    for ours, theirs in zip(gradients(token_logps, *inputs, columns), gradients(full_logps, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    hidden, targets, weight, bias = random_inputs(5, 3, 8, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logps(h, targets, w, b, 3), (hidden, weight, bias))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    names = ("hidden", "targets", "weight", "bias")
    inputs = dict(zip(names, random_inputs(5, 3, 8), strict=True))
    inputs[frozen] = inputs[frozen].detach()
    token_logps(**inputs, columns=3).sum().backward()
    assert [name for name in names if inputs[name].grad is None] == [n for n in names if n in ("targets", frozen)]


def test_tied_to_the_embeddings_both_gradients_arrive():
    _, targets, weight, bias = random_inputs(6, 4, 9, torch.float64)
    tokens = torch.tensor([0, 3, 3, 1, 8, 5])
    for ours, theirs in zip(
        gradients(token_logps, weight[tokens], targets, weight, bias, 2)[1:],
        gradients(full_logps, weight[tokens], targets, weight, bias)[1:],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_half_precision_is_as_near_to_the_truth_as_full_logits_are():
    inputs = [t if t is None or not t.is_floating_point() else t.detach().bfloat16() for t in random_inputs(64, 32, 1000)]
    truth = gradients(full_logps, *(t.double().requires_grad_() if t.is_floating_point() else t for t in inputs))
    inputs = [t.requires_grad_() if t.is_floating_point() else t for t in inputs]
    ours, theirs = gradients(token_logps, *inputs, 100), gradients(full_logps, *inputs)
    assert [t.dtype for t in ours] == [torch.float32] + [torch.bfloat16] * 3
    for a, b, exact in zip(ours, theirs, truth, strict=True):
        assert (a - exact).norm() < 1.05 * (b - exact).norm() + 1e-6


def test_autocast_multiplies_in_half_precision_and_keeps_gradients_in_full():
    inputs = random_inputs(16, 8, 40)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gradients(token_logps, *inputs, 7), gradients(full_logps, *inputs)
    assert {t.dtype for t in ours} == {torch.float32}
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_extreme_logits_stay_finite():
    hidden, weight = torch.tensor([[1.0], [1.0]], requires_grad=True), torch.tensor([[-3e38], [0.0], [200.0], [3e38]])
    output = token_logps(hidden, torch.tensor([3, 2]), weight, columns=1)
    assert output.tolist() == [0.0, pytest.approx(-3e38)]
    output.sum().backward()
    assert hidden.grad.isfinite().all()


def test_no_targets():
    hidden, _, weight, bias = random_inputs(3, 4, 9)
    token_logps(hidden[:0], torch.zeros(0, dtype=torch.long), weight, bias).sum().backward()
    assert not weight.grad.any()
    assert not hidden.grad.any()


def peak_of(function, vocabulary, targets=512):
    hidden, targets, weight, _ = random_inputs(targets, 4, vocabulary, bias=False)
    weight.requires_grad_(False)
    with PeakMemory() as memory:
        function(hidden, targets, weight).sum().backward()
    return memory.peak


def test_memory_does_not_grow_with_the_vocabulary():
    small, large = (peak_of(token_logps, size) for size in (32768, 131072))
    assert large == pytest.approx(small, rel=0.01)
    assert large < 1.1 * 4 * BLOCK_ELEMENTS["cpu"]
    assert peak_of(full_logps, 32768) > 2 * small  # what this test is there to find


def test_blocks_are_as_wide_as_matrix_kernels_want_them():
    fewest, most = BLOCK_COLUMNS
    for device in BLOCK_ELEMENTS:
        widths = [block_columns(number, device) for number in (0, 1, 511, 4097, 13_000, 16_384, 10**6)]
        assert all(width % 128 == 0 and fewest <= width <= most for width in widths)
    assert block_columns(13_000, "cuda") == 10_240
    assert block_columns(13_000, "cpu") == 640


def test_head_has_the_names_of_the_linear_layer_and_shares_its_parameters():
    for linear in (nn.Linear(3, 5), nn.Linear(3, 5, bias=False)):
        head = LogProbHead(linear)
        assert head.state_dict().keys() == linear.state_dict().keys()
        assert head.weight is linear.weight
        assert head.bias is linear.bias
        hidden, targets = torch.randn(2, 3), torch.tensor([4, 0])
        torch.testing.assert_close(head(hidden, targets), full_logps(hidden, targets, linear.weight, linear.bias))
