"""A model and the folder exported from it in; the largest difference of a step score between torch and vLLM out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from prm.models.backbone import PackedModel
from prm.models.checkpoint import EXAMPLE
from prm.models.step_scores import largest_difference, score_batch
from prm.records import Response
from prm.scoring.exported import served_length
from prm.scoring.scorer import without_blanks
from prm.scoring.vllm_engine import VLLMScoringEngine
from prm.steps import EncodedResponse, SequenceTooLongError, StepEncoder

LIMITS = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
"""Largest difference of a step score, absolute below 1 and relative above, by the precision of both engines."""
REPEATS = (1, 2, 5, 12, 30)
"""How often the built-in responses repeat the steps of the self-test: from about 50 to about 1,000 tokens."""


class Parity(NamedTuple):
    """What was compared and how much it differs."""

    num_responses: int
    num_steps: int
    num_tokens: int
    """Length of the longest response."""
    lowest: float
    highest: float
    """Lowest and highest score by torch: that engines agree on scores which are all alike proves little."""
    difference: float
    limit: float


class ParityError(RuntimeError):
    """vLLM does not score as torch does."""


def built_in_responses(encoder: StepEncoder) -> list[EncodedResponse]:
    """The self-test's example and longer ones made of it, up to the contract's `max_length`."""
    encoded: list[EncodedResponse] = []
    for repeats in REPEATS:
        try:
            encoded += encoder.encode_batch([replace(EXAMPLE, steps=EXAMPLE.steps * repeats)])
        except SequenceTooLongError:
            break
    return encoded


def score_with_torch(model: PackedModel, encoder: StepEncoder, encoded: Sequence[EncodedResponse]) -> list[list[float]]:
    """Scores response by response, on CUDA where there is one; the memory there is free again afterwards."""
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scores = [score_batch(model, encoder, [response])[0] for response in encoded]
    model.to("cpu")
    torch.cuda.empty_cache()
    return scores


def check_parity(model: PackedModel, encoder: StepEncoder, directory: str | Path, responses: Sequence[Response] = ()) -> Parity:
    """Compare on the built-in responses and these. Raises ParityError above the limit, ValueError for what cannot be encoded."""
    encoder = replace(encoder, max_length=served_length(model.config.to_dict(), encoder))
    given = [plain for plain in map(without_blanks, responses) if plain.steps]
    encoded = [*built_in_responses(encoder), *(encoder.encode_batch(given) if given else ())]
    if not encoded:
        raise ValueError(f"max_length {encoder.max_length} is below the built-in example; give shorter responses by --input")
    dtype = str(model.dtype).removeprefix("torch.")
    ours = score_with_torch(model, encoder, encoded)
    with VLLMScoringEngine(directory, encoder, dtype) as engine:
        theirs = engine.score_encoded(encoded)
    longest = max(len(response.input_ids) for response in encoded)
    scores = [score for row in ours for score in row]
    difference = largest_difference(ours, theirs)
    parity = Parity(len(ours), len(scores), longest, min(scores), max(scores), difference, LIMITS[dtype])
    if not parity.difference <= parity.limit:
        raise ParityError(
            f"vLLM and torch differ by {parity.difference:.1e} on {parity.num_steps} steps; {dtype} allows {parity.limit:.0e}. "
            "If --dtype float32 passes, it is rounding and the model needs that precision; if not, vLLM reads the weights otherwise"
        )
    return parity
