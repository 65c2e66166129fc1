"""Memory of token log-probs: vocabulary sizes in, the peak of a forward and backward pass in chunks and with full logits out."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prm.benchmarks.speed.peak_memory import PeakMemory
from prm.models.log_probs import token_logps


def full_logps(
    hidden: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"], weight: Float[Tensor, "vocabulary hidden"]
) -> Float[Tensor, " targets"]:
    """The same log-probs from the logits of all rows at once."""
    return F.linear(hidden, weight).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]


WAYS = {"chunked": token_logps, "full": full_logps}


def vocabulary_report(
    sizes: Sequence[int], hidden_size: int, num_targets: int, device: torch.device, dtype: torch.dtype, seed: int
) -> list[dict[str, Any]]:
    """Bytes beyond weights and inputs for each vocabulary size, chunked and full; None where the system does not tell."""
    return [
        {"vocab_size": size} | {way: extra_memory(way, size, hidden_size, num_targets, device, dtype, seed) for way in WAYS}
        for size in sizes
    ]


def extra_memory(
    way: str, vocab_size: int, hidden_size: int, num_targets: int, device: torch.device, dtype: torch.dtype, seed: int
) -> int | None:
    """Peak of one forward and backward pass. The lm_head is frozen, so that its gradient, as large as itself, does not count."""
    torch.manual_seed(seed)
    weight = torch.randn(vocab_size, hidden_size, device=device, dtype=dtype)
    hidden = torch.randn(num_targets, hidden_size, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab_size, (num_targets,), device=device)
    WAYS[way](hidden[:8], targets[:8], weight).sum().backward()  # loads kernels
    with PeakMemory(device) as peak:
        WAYS[way](hidden, targets, weight).sum().backward()
    return peak.bytes
