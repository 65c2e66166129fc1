"""Floating-point operations: a decoder's config and document lengths in, the FLOPs of a forward pass out; and what GPUs reach.

Padding, recomputation, norms and embeddings never count, so that MFU = 3 * forward_flops / (seconds * peak) measures useful work.
"""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedConfig

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
}
"""Dense bfloat16 FLOPs per second by what the device's name contains, as NVIDIA's data sheets say; the first match holds."""

TRAINING_FACTOR = 3
"""A training step's FLOPs over its forward pass's: the backward pass computes two products for each one."""


def peak_flops(device_name: str) -> float | None:
    """Peak of `torch.cuda.get_device_name()`; None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def forward_flops(
    config: PreTrainedConfig,
    lengths: Iterable[int],
    num_steps: int = 0,
    num_labels: int = 1,
    num_targets: int = 0,
    first_positions: Iterable[int] | None = None,
    reads: Sequence[int] | None = None,
    queries_at_reads: bool = False,
) -> int:
    """FLOPs of one forward pass over documents of `lengths` tokens, each under its own causal attention.

    Per token 2 for every weight of the layers' linear maps; per document 4 * heads * head_dim for every pair of a query and a key
    it sees, n^2 / 2 of them in a layer without a window. A document whose first position is p > 0 continues p tokens computed
    before: its queries see their keys too. `num_steps` step ends add the two-layer head with `num_labels` outputs,
    `num_targets` response tokens the lm_head (implicit PRM). With `reads`, positions of tokens in their documents, the last MLP is
    computed at these only, and with `queries_at_reads` the last layer's queries, attention and output, too. For decoders with gated
    MLPs: Qwen, Llama, Mistral, Gemma, Phi-3.
    """
    hidden, lengths = config.hidden_size, list(lengths)
    firsts = [0] * len(lengths) if first_positions is None else list(first_positions)
    ends = [first + length for first, length in zip(firsts, lengths, strict=True)]
    linear = 2 * sum(lengths) * config.num_hidden_layers * weights_per_layer(config)
    if reads is not None:
        saved = mlp_weights(config) + 2 * config.hidden_size * query_width(config) * queries_at_reads
        linear -= 2 * (sum(lengths) - len(reads)) * saved
    spans = [
        sum(squared_span(e, w) - squared_span(first, w) for first, e in zip(firsts, ends, strict=True))
        for w in layer_windows(config)
    ]
    if reads is not None and queries_at_reads:
        window = layer_windows(config)[-1]
        spans[-1] = sum(squared_span(at + 1, window) - squared_span(at, window) for at in reads)
    attention = 2 * query_width(config) * sum(spans)
    head = 2 * num_steps * hidden * (hidden + num_labels)
    return linear + attention + head + 2 * num_targets * hidden * config.vocab_size


def query_width(config: PreTrainedConfig) -> int:
    """Query heads times their size: 1536 for Qwen2.5-Math-1.5B."""
    return config.num_attention_heads * head_size(config)


def head_size(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def weights_per_layer(config: PreTrainedConfig) -> int:
    """Weights of a layer's linear maps: queries, keys, values, output, and the three of the gated MLP."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    return config.hidden_size * heads * head_size(config) + mlp_weights(config)


def mlp_weights(config: PreTrainedConfig) -> int:
    """Of a layer's gated MLP."""
    return 3 * config.hidden_size * config.intermediate_size


def layer_windows(config: PreTrainedConfig) -> Sequence[int | None]:
    """Tokens that each layer's queries see at most; None for all."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [config.sliding_window if kind == "sliding_attention" else None for kind in kinds]


def squared_span(length: int, window: int | None) -> int:
    """Twice the pairs of a query and a key it sees: n^2, under a window of w < n tokens 2 n w - w^2."""
    return length * length if window is None or window >= length else 2 * length * window - window * window
