"""Responses and a loaded PRM in, one score per step out, in the order of the responses.

What cannot be scored (no step, longer than the contract's `max_length`, text that the contract cannot hold) raises, or is dropped
and listed with the reason where the caller passes a list: never skipped or cut in silence. A blank step has nothing to read: it
takes the score of the step before it, or at the beginning that of the first step which is not blank.
"""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from prm.metrics.degenerate import DegenerateDetector
from prm.records import Response, StepScores
from prm.sampling.base import ServerConfig
from prm.scoring.engines import ENGINES, ScoringEngine, TorchEngine
from prm.scoring.exported import check_exported
from prm.scoring.options import ModelConfig
from prm.scoring.server_engine import ServerScoringEngine
from prm.scoring.vllm_engine import VLLMScoringEngine
from prm.steps import EncodedResponse, StepEncoder

logger = logging.getLogger(__name__)

WINDOWS = (32, 2048)
"""Fewest and most responses of a window: those that an engine gets at a time, to sort them and to share what they begin with.

Scores reach the caller, and a file, window by window. Each is twice the one before, up to what the engine takes in about half a
minute by its size, never by a clock: rows are packed in one way however busy the machine is, and wherever a run was broken off.
"""
SERVED_WINDOW = 512
"""Most responses of a window for vLLM, which keeps so many in flight at the most."""
CopyKey = tuple[tuple[int, ...], tuple[int, ...], int]
"""Token ids, step ends and where the response starts."""
MAX_NAMED = 10
"""How many dropped responses are named in warnings."""


@dataclass(frozen=True)
class Dropped:
    """A response without scores."""

    question_id: str
    sample_index: int
    reason: str
    """`no_steps`, `too_long` or `unreadable`."""
    detail: str


@dataclass
class Speed:
    """Responses and their tokens over the seconds of encoding and scoring."""

    responses: int = 0
    tokens: int = 0
    """Each response counted whole, whatever an engine computes once for several."""
    computed_tokens: int = 0
    """Without copies, which are scored once; shared prefixes counted once a row."""
    seconds: float = 0.0

    def add(self, encoded: Sequence[EncodedResponse], computed_tokens: int, seconds: float) -> None:
        self.responses += len(encoded)
        self.tokens += sum(len(response.input_ids) for response in encoded)
        self.computed_tokens += computed_tokens
        self.seconds += seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def responses_per_second(self) -> float:
        return self.responses / max(self.seconds, 1e-9)

    def summary(self) -> dict[str, float]:
        """For the manifest."""
        rates = {"tokens_per_second": self.tokens_per_second, "responses_per_second": self.responses_per_second}
        return dataclasses.asdict(self) | rates

    def __str__(self) -> str:
        share = self.computed_tokens / max(self.tokens, 1)
        return (
            f"{self.responses} responses in {self.seconds:.0f} s: {self.responses_per_second:.1f} responses/s, "
            f"{self.tokens_per_second:,.0f} tokens/s, {share:.0%} of them computed"
        )


@dataclass
class Scorer:
    """A loaded PRM, ready to score."""

    engine: ScoringEngine
    encoder: StepEncoder
    name: str = "the model"
    """What errors call it."""
    allow_constant: bool = False
    """Whether scores that hardly depend on the step are kept, and no error."""
    largest_window: int = WINDOWS[1]
    """Most responses that the engine gets at a time, within `WINDOWS`."""
    speed: Speed = field(default_factory=Speed, init=False)
    """Of all calls so far."""

    @classmethod
    def load(
        cls,
        model: str | Path | ModelConfig,
        *,
        engine: str = "torch",
        torch_compile: bool = False,
        tensor_parallel_size: int = 1,
        server: ServerConfig | None = None,
        **options: Any,
    ) -> "Scorer":
        """Load a PRM by its folder or hub name, with `options` of ModelConfig (dtype, device, token_budget, ...), or by its config.

        `server` says where engine "server" finds it. Raises FileNotFoundError or ValueError for a model or a reference that is
        missing, and for options that the engine lacks; EngineError as `ServerScoringEngine` does.
        """
        config = model if isinstance(model, ModelConfig) else ModelConfig(model=str(model))
        config = dataclasses.replace(config, **options) if options else config
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r} is unknown: choose from {', '.join(ENGINES)}")
        if engine == "torch":
            loaded = TorchEngine.load(config, torch_compile)
            return cls(loaded, loaded.encoder, config.model, config.allow_constant, loaded.largest_window)
        check_exported(config, engine, torch_compile)
        encoder = StepEncoder.load(config.model)
        if engine == "vllm":
            served = VLLMScoringEngine(config.model, encoder, config.dtype, tensor_parallel_size=tensor_parallel_size)
        else:
            served = ServerScoringEngine(config.model, encoder, server or ServerConfig())
        encoder = dataclasses.replace(encoder, max_length=served.max_length)
        return cls(served, encoder, config.model, config.allow_constant, SERVED_WINDOW)

    def score(self, responses: Iterable[Response], dropped: list[Dropped] | None = None) -> Iterator[StepScores]:
        """Yield the scores of each response, in order; with `dropped`, leave out what cannot be scored and add it there.

        Raises ValueError, naming the response, when the engine gives too few or too many scores, or one that is not finite. Unless
        `allow_constant` is set, also raises ValueError, naming the model, when all steps so far got one score; the first scores are
        held back until that can be told.
        """
        for window in self.score_windows(responses, dropped):
            yield from window

    def score_windows(
        self,
        responses: Iterable[Response],
        dropped: list[Dropped] | None = None,
        detector: DegenerateDetector | None = None,
        size: int = 0,
    ) -> Iterator[list[StepScores]]:
        """`score`, one list for each window of responses that are packed together; what is dropped leaves no gap in them.

        A run that continues another one gives a `detector` that has seen its scores, and the `size` that its next window would have
        had.
        """
        fewest, most = WINDOWS
        most = max(fewest, min(most, self.largest_window))
        remaining, size = iter(responses), min(max(size, fewest), most)
        detector = self.new_detector() if detector is None else detector
        held: list[list[StepScores]] = []
        while True:
            kept, seconds = self._next_readable(remaining, size, dropped)
            if not kept:
                break
            encoded = [tokens for _, tokens in kept]
            start, computed = time.monotonic(), self.computed_tokens
            scores = self.score_encoded(encoded)
            seconds += time.monotonic() - start
            self.speed.add(encoded, self.computed_tokens - computed, seconds)
            size = min(2 * size, most)
            records = []
            for (response, _), step_scores in zip(kept, scores, strict=True):
                check_scores(without_blanks(response), step_scores)
                records.append(scores_of(response, with_blanks(step_scores, response.steps)))
                detector.update(response.steps, records[-1].step_scores)
            held.append(records)
            if not self.allow_constant:
                detector.check()
            if detector.has_enough:
                yield from held
                held.clear()
        yield from held

    def new_detector(self) -> DegenerateDetector:
        """One that has seen no scores yet."""
        return DegenerateDetector(self.name, self.encoder.reading)

    def _next_readable(
        self, remaining: Iterator[Response], size: int, dropped: list[Dropped] | None
    ) -> tuple[list[tuple[Response, EncodedResponse]], float]:
        """The next `size` responses that can be encoded, fewer at the end, and the seconds that encoding took."""
        kept: list[tuple[Response, EncodedResponse]] = []
        seconds = 0.0
        while len(kept) < size and (window := list(islice(remaining, size - len(kept)))):
            start = time.monotonic()
            encoded = encode_each(self.encoder, [without_blanks(response) for response in window], dropped)
            kept += [(response, tokens) for response, tokens in zip(window, encoded, strict=True) if tokens is not None]
            seconds += time.monotonic() - start
        return kept, seconds

    @property
    def computed_tokens(self) -> int:
        return self.engine.computed_tokens

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """Scores in order. Samples of a question are often word for word the same; such copies are scored once."""
        unique = without_copies(encoded)
        by_key = dict(zip(unique, self.engine.score_encoded(list(unique.values())), strict=True))
        return [list(by_key[copy_key(tokens)]) for tokens in encoded]


def without_copies(encoded: Iterable[EncodedResponse]) -> dict[CopyKey, EncodedResponse]:
    """Each different response once, by what makes it different, in the order of the first of its copies."""
    return {copy_key(tokens): tokens for tokens in encoded}


def copy_key(tokens: EncodedResponse) -> CopyKey:
    """What decides a response's scores: two with the same key are copies."""
    return tuple(tokens.input_ids), tuple(tokens.step_ends), tokens.response_start


def without_blanks(response: Response) -> Response:
    """The response without its blank steps."""
    steps = [step for step in response.steps if step.strip()]
    return response if len(steps) == len(response.steps) else dataclasses.replace(response, steps=steps)


def with_blanks(scores: list[float], steps: Sequence[str]) -> list[float]:
    """Scores of the steps that are not blank, spread over all; a blank one takes its neighbor's."""
    places = accumulate(bool(step.strip()) for step in steps)
    return [scores[max(place - 1, 0)] for place in places]


def scores_of(response: Response, step_scores: list[float]) -> StepScores:
    """The record of a response's scores, with what is known of its outcome."""
    return StepScores(*response.key, step_scores, response.correct, response.answer, response.extracted)


def check_scores(response: Response, step_scores: list[float]) -> None:
    """Raise ValueError, naming the response, for scores that are not one finite number per step."""
    if len(step_scores) != len(response.steps):
        raise ValueError(f"{response.name}: the engine gave {len(step_scores)} scores for {len(response.steps)} steps")
    for index, score in enumerate(step_scores):
        if not math.isfinite(score):
            raise ValueError(
                f"{response.name}: step {index} got the score {score}; the weights are damaged or overflow in this precision: "
                "try --dtype float32, for a server in the export"
            )


def encode_each(encoder: StepEncoder, responses: list[Response], dropped: list[Dropped] | None) -> list[EncodedResponse | None]:
    """Encode responses; with `dropped`, what cannot be encoded is None and added there."""
    if dropped is None:
        return encoder.encode_batch(responses)
    unlimited = dataclasses.replace(encoder, max_length=sys.maxsize)
    with_steps = [response for response in responses if response.steps]
    found = iter(_encode_readable(unlimited, with_steps, dropped))
    encoded = [next(found) if response.steps else None for response in responses]
    for index, (response, tokens) in enumerate(zip(responses, encoded, strict=True)):
        if not response.steps:
            _drop(dropped, response, "no_steps", f"{response.name} is empty")
        elif tokens is not None and len(tokens.input_ids) > encoder.max_length:
            detail = f"{response.name} has {len(tokens.input_ids)} tokens, max_length is {encoder.max_length}"
            _drop(dropped, response, "too_long", detail)
            encoded[index] = None
    return encoded


def _encode_readable(encoder: StepEncoder, responses: list[Response], dropped: list[Dropped]) -> list[EncodedResponse | None]:
    try:
        return encoder.encode_batch(responses) if responses else []
    except ValueError as error:
        if len(responses) > 1:
            middle = len(responses) // 2
            halves = responses[:middle], responses[middle:]
            return [tokens for half in halves for tokens in _encode_readable(encoder, half, dropped)]
        _drop(dropped, responses[0], "unreadable", str(error))
        return [None]


def _drop(dropped: list[Dropped], response: Response, reason: str, detail: str) -> None:
    dropped.append(Dropped(*response.key, reason, detail))
    if len(dropped) <= MAX_NAMED:
        logger.warning("dropped (%s): %s", reason, detail)
