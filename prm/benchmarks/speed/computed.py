"""What scoring computes: an engine and encoded responses in; the responses, tokens and FLOPs that it really computes out.

Copies that an engine scores once and prompts that it computes once a row count once; padding, which serves nobody, never.
"""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from prm.models import ImplicitPRM
from prm.models.prefixes import lay_out
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

    A continuation's attention over the keys of its prompt counts. Engines other than `TorchEngine` share nothing: they compute
    every response whole.
    """
    if isinstance(engine, Scorer):
        return computed_work(engine.engine, list(without_copies(encoded).values()), config)
    documents, first_positions = [response.input_ids for response in encoded], [0] * len(encoded)
    heads, num_models = {"num_steps": sum(len(response.step_ends) for response in encoded)}, 1
    if isinstance(engine, TorchEngine):
        is_implicit = isinstance(engine.model, ImplicitPRM)
        rows = [[encoded[index] for index in row] for row in engine.rows(encoded)]
        layouts = [lay_out(row, is_implicit, engine.share_prompts) for row in rows]
        documents = [document for layout in layouts for document in layout.documents]
        first_positions = [first for layout in layouts for first in layout.first_positions]
        if is_implicit:
            heads = {"num_targets": sum(len(response.input_ids) - response.response_start for response in encoded)}
            num_models = 1 if engine.reference is None else 2
    lengths = [len(document) for document in documents]
    flops = num_models * forward_flops(config, lengths, **heads, first_positions=first_positions)
    return Computed(len(encoded), sum(lengths), flops)
