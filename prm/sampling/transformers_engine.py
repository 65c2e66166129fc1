"""The engine without vLLM: requests in, samples out, with a decoding loop over left-padded batches of `transformers`.

Every request draws from a generator of its own, one uniform number a token, so its sample does not depend on its batch.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from prm.sampling.base import EngineConfig, SampleRequest, SampleResult, SamplingConfig, stop_token_ids
from prm.steps import load_tokenizer


class TransformersEngine:
    """Decodes up to `max_num_seqs` requests at once; finished ones leave the batch at once."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = load_tokenizer(config.model)
        self.model = AutoModelForCausalLM.from_pretrained(config.model, dtype=config.dtype).to(self.device).eval()
        self.context = config.max_model_len or self.model.config.get_text_config().max_position_embeddings
        self.stop_ids = set(stop_token_ids(config, self.tokenizer))

    def generate(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        """Yield results in the order of finishing, batch by batch."""
        size = self.config.max_num_seqs
        for start in range(0, len(requests), size):
            yield from self._decode(requests[start : start + size], sampling)

    @torch.inference_mode()
    def _decode(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> Iterator[SampleResult]:
        budgets = [min(sampling.max_tokens, self.context - len(request.prompt_token_ids)) for request in requests]
        noise = uniform_noise([request.seed for request in requests], max(budgets)).to(self.device)
        input_ids, mask = (tensor.to(self.device) for tensor in pad_left([request.prompt_token_ids for request in requests]))
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        cache, generated = DynamicCache(config=self.model.config), [[] for _ in requests]
        alive = torch.arange(len(requests), device=self.device)
        for step in range(max(budgets)):
            inputs = {"input_ids": input_ids, "attention_mask": mask.long(), "position_ids": positions}
            logits = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            tokens = draw(logits, noise[alive, step], sampling.temperature, sampling.top_p)
            going_on = []
            for row, (index, token) in enumerate(zip(alive.tolist(), tokens.tolist(), strict=True)):
                generated[index].append(token)
                is_stopped = token in self.stop_ids
                if is_stopped or len(generated[index]) == budgets[index]:
                    yield self._result(requests[index], generated[index], is_stopped)
                else:
                    going_on.append(row)
            if not going_on:
                return
            if len(going_on) < len(alive):
                rows = torch.tensor(going_on, device=self.device)
                alive, tokens, mask, positions = alive[rows], tokens[rows], mask[rows], positions[rows]
                cache.batch_select_indices(rows)
            input_ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def _result(self, request: SampleRequest, tokens: list[int], is_stopped: bool) -> SampleResult:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return SampleResult(request.key, text, "stop" if is_stopped else "length", len(tokens))

    def close(self) -> None:
        self.model = None


def draw(
    logits: Float[Tensor, "batch vocab"], noise: Float[Tensor, "batch"], temperature: float, top_p: float
) -> Int[Tensor, "batch"]:
    """The token at which the cumulated probability first exceeds `noise`, a number in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        is_outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(is_outside, 0.0))
    cumulated = probabilities.cumsum(-1)
    targets = noise[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def uniform_noise(seeds: Sequence[int], length: int) -> Float[Tensor, "batch length"]:
    """Numbers in [0, 1): row i depends on seed i alone."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds])


def pad_left(prompts: Sequence[list[int]]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Token ids with zeros before the shorter prompts, and where the real ones are."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return ids, mask
