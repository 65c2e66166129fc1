"""Speed of tokenization: responses in; responses per CPU-second in batches and step by step, and whether both agree, out."""

import time
from collections.abc import Sequence
from typing import Any

from prm.records import Response
from prm.steps import StepEncoder


def tokenizing_report(responses: Sequence[Response], encoder: StepEncoder, repetitions: int) -> dict[str, Any]:
    """Median ratio over interleaved repetitions. Raises ValueError for responses that the contract cannot hold."""
    encoder.encode_batch(responses[:1])  # compiles the template
    pairs = []
    for _ in range(repetitions):
        start = time.process_time()
        together = encoder.encode_batch(responses)
        middle = time.process_time()
        alone = [encoder.encode_by_step(response) for response in responses]
        pairs.append((middle - start, time.process_time() - middle))
    batched, looped = sorted(pairs, key=lambda pair: pair[1] / pair[0])[repetitions // 2]
    return {
        "responses": len(responses),
        "tokens": sum(len(encoded.input_ids) for encoded in together),
        "per_cpu_second": len(responses) / batched,
        "step_by_step_per_cpu_second": len(responses) / looped,
        "ratio": looped / batched,
        "equal": together == alone,
    }
