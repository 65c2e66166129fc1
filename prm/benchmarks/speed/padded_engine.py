"""The scoring that people publish: encoded responses in, step scores out, by padded batches."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from prm.steps import EncodedResponse


@dataclass
class PaddedEngine:
    """What published scoring code does: padded batches, one after the other, the head at every position."""

    backbone: PreTrainedModel
    head: nn.Module
    batch_size: int
    token_budget: int | None = None
    """Sort by length first, and let batches hold this many tokens, padding included, instead of `batch_size` responses."""
    computed_tokens: int = field(default=0, init=False)
    """Tokens of all responses so far, without padding."""

    def batches(self, encoded: list[EncodedResponse]) -> list[list[int]]:
        """Indices of the responses of each batch."""
        indices = list(range(len(encoded)))
        if self.token_budget is None:
            return [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        batches: list[list[int]] = []
        for index in sorted(indices, key=lambda i: -len(encoded[i].input_ids)):
            if not batches or (len(batches[-1]) + 1) * len(encoded[batches[-1][0]].input_ids) > self.token_budget:
                batches.append([])
            batches[-1].append(index)
        return batches

    @torch.no_grad()
    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        self.computed_tokens += sum(len(response.input_ids) for response in encoded)
        scores: dict[int, list[float]] = {}
        for batch in self.batches(encoded):
            tokens = [torch.tensor(encoded[index].input_ids) for index in batch]
            inputs = {"input_ids": tokens, "attention_mask": [torch.ones_like(ids) for ids in tokens]}
            padded = {name: pad_sequence(rows, batch_first=True).to(self.backbone.device) for name, rows in inputs.items()}
            hidden = self.backbone(**padded, use_cache=False).last_hidden_state
            probabilities = self.head(hidden)[..., 0].float().sigmoid().cpu()
            scores |= {index: probabilities[row, encoded[index].step_ends].tolist() for row, index in enumerate(batch)}
        return [scores[index] for index in range(len(encoded))]
