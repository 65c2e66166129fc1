"""What scoring computes: an engine and encoded responses in; the responses, tokens and FLOPs that it really computes out.

Copies that an engine scores once, and prefixes that it computes once a row, count once; padding never counts.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from prm.models.inference import LastLayerAtReads
from prm.models.packing import pack_responses
from prm.scoring import Scorer, ScoringEngine, TorchEngine
from prm.scoring.scorer import without_copies
from prm.steps import EncodedResponse
from prm.training.flops import forward_flops


@dataclass(frozen=True)
class Computed:
    """The work behind the scores of some responses."""

    responses: int
    tokens: int
    flops: int
    """Of all models that run: an implicit PRM's reference doubles them, but neither responses nor tokens."""


def computed_work(engine: ScoringEngine, encoded: list[EncodedResponse], config: PreTrainedConfig) -> Computed:
    """The work of `engine.score_encoded(encoded)` on a model of `config`, by the rows that the engine itself packs.

    The attention of a continuation to the keys of what it continues counts. Engines other than `TorchEngine` share nothing: they
    compute every response whole.
    """
    if isinstance(engine, Scorer):
        return computed_work(engine.engine, list(without_copies(encoded).values()), config)
    documents, first_positions = [response.input_ids for response in encoded], [0] * len(encoded)
    heads, num_models = {"num_steps": sum(len(response.step_ends) for response in encoded)}, 1
    last: dict[str, Any] = {}
    if isinstance(engine, TorchEngine):
        rows = [[encoded[index] for index in row] for row in engine.rows(encoded)]
        layouts = [engine.lay_out(row) for row in rows]
        documents = [document for layout in layouts for document in layout.documents]
        first_positions = [first for layout in layouts for first in layout.first_positions]
        batches = [pack_responses(row, engine.is_implicit, engine.share_prefixes) for row in rows]
        if engine.is_implicit:
            heads = {"num_targets": sum(len(batch["target_positions"]) for batch in batches)}
            num_models = 1 if engine.reference is None else 2
        if engine.model.reads_early:
            reads = [batch["target_positions"] - 1 if engine.is_implicit else batch["step_ends"] for batch in batches]
            positions = [batch["position_ids"][0, read].tolist() for batch, read in zip(batches, reads, strict=True)]
            at_reads = isinstance(engine.model.model.layers[-1], LastLayerAtReads)
            last = {"reads": list(itertools.chain(*positions)), "queries_at_reads": at_reads}
    lengths = [len(document) for document in documents]
    flops = num_models * forward_flops(config, lengths, **heads, first_positions=first_positions, **last)
    return Computed(len(encoded), sum(lengths), flops)
