"""The engine behind an address: encoded responses in, step scores out, from a `vllm serve` that pools the exported folder.

The server is asked for the head's outputs before any activation of its own, so that it scores as `--engine vllm` does however it
was started. It may pool at every token or at separators alone: the number of rows tells which. Numbers travel as bytes, since JSON
has no NaN: vLLM would refuse the whole request, and nothing would tell which response has one.
"""

import base64
import json
import logging
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from prm.models.checkpoint import compare_examples, encode_example, example_record
from prm.models.packing import batch_by_tokens
from prm.sampling.base import EngineError, ServerConfig
from prm.sampling.http_client import FailedAttempt, HTTPClient, ServerRequest
from prm.scoring.exported import check_encoded, read_config, scores_of_logits, served_length
from prm.steps import CONFIG_NAME, EncodedResponse, StepEncoder, read_prm_config

logger = logging.getLogger(__name__)

REQUEST_TOKENS = 8192
"""Tokens of one request, at most, unless a single response has more."""
ENCODING = {"encoding_format": "base64", "embed_dtype": "float32", "endianness": "little"}
MAX_REQUESTS = 16
"""Requests in flight: enough that no forward pass of the server waits for the next one."""


class ServerScoringEngine:
    """A `ScoringEngine`. It holds connections only while it scores."""

    def __init__(self, directory: str | Path, encoder: StepEncoder, server: ServerConfig):
        """Ask the server what it takes, and for the scores of the contract's example.

        Raises ValueError for an address that is none, for a server that takes shorter responses than the export, and for other
        scores than were saved; EngineError where no server answers.
        """
        server.check_server("server", "http://host:8000")
        config = read_config(directory)
        self.directory, self.encoder, self.server = Path(directory), encoder, server
        self.address = server.base_url.rstrip("/").removesuffix("/v1")
        self.vocab_size = config["vocab_size"]
        self.computed_tokens = 0
        served, limit = self._first_answer(ServerRequest("GET /v1/models", "/v1/models", None, read_models, 0))
        logger.info("%s serves %s", self.address, served)
        self.max_length = served_length(config, encoder)
        if limit is not None and limit < self.max_length:
            raise ValueError(
                f"--base_url {self.address}: takes up to {limit} tokens, but {directory} up to {self.max_length}, and what has "
                f"scores must not depend on the server; {self._remedy}"
            )
        self._check_example(config.get("dtype", "float32"))

    def score_encoded(self, encoded: list[EncodedResponse]) -> list[list[float]]:
        """Scores in order.

        Raises ValueError for ids that vLLM would refuse and for outputs of another model, EngineError for a server that fails.
        """
        check_encoded(encoded, self.max_length, self.vocab_size)
        batches = batch_by_tokens([len(response.input_ids) for response in encoded], REQUEST_TOKENS)
        scores: dict[int, list[float]] = {}
        with closing(self._client()) as client:
            for batch, found in client.ask_all(self._request(batch, [encoded[i] for i in batch]) for batch in batches):
                scores.update(zip(batch, found, strict=True))
        self.computed_tokens += sum(len(response.input_ids) for response in encoded)
        return [scores[index] for index in range(len(encoded))]

    def _client(self) -> HTTPClient:
        return HTTPClient(self.server, self.address, MAX_REQUESTS)

    def _request(self, batch: list[int], responses: list[EncodedResponse]) -> ServerRequest:
        body = {"input": [response.input_ids for response in responses], "use_activation": False, **ENCODING}
        read = partial(self._read, batch, responses)
        return ServerRequest(f"a request of {len(responses)} responses", "/pooling", body, read)

    def _read(self, batch: list[int], responses: list[EncodedResponse], content: bytes) -> tuple[list[int], list[list[float]]]:
        """The batch and its scores. Raises FailedAttempt for half an answer, ValueError for outputs of another model."""
        outputs = read_outputs(content, len(responses))
        try:
            rows = [rows_at_step_ends(o, r, self.encoder.num_labels) for o, r in zip(outputs, responses, strict=True)]
        except ValueError as error:
            raise ValueError(f"{self.address}/pooling: {error}; {self._remedy}") from error
        return batch, [scores_of_logits(logits, self.encoder) for logits in rows]

    def _first_answer(self, request: ServerRequest) -> Any:
        """The answer to a single request. Raises EngineError, with the remedy, where none comes."""
        try:
            with closing(self._client()) as client:
                return next(client.ask_all([request]))
        except EngineError as error:
            raise EngineError(f"--base_url {error}; {self._remedy}") from error

    @property
    def _remedy(self) -> str:
        folder = self.directory
        return f"start `vllm serve {folder} --config {folder}/vllm.yaml` there, or give --model the folder that is served"

    def _check_example(self, dtype: str) -> None:
        """Raise ValueError where the contract's example gets other tokens or scores than were saved with the weights."""
        saved, encoded = read_prm_config(self.directory).get("self_test"), encode_example(self.encoder)
        if saved is None or len(encoded.input_ids) > self.max_length:
            reason = f"{CONFIG_NAME} holds no self-test" if saved is None else f"{self.max_length} tokens do not hold the self-test"
            logger.warning("%s: %s; nothing shows that %s serves this model", self.directory, reason, self.address)
            return
        request = self._request([0], [encoded])._replace(name="the self-test")
        _, (scores,) = self._first_answer(request)
        remedy = f"{self.address} serves another model, or this one in another precision; {self._remedy}"
        compare_examples(example_record(encoded, scores, dtype), saved, self.directory, remedy)


def read_models(content: bytes) -> tuple[str, int | None]:
    """What an answer of /v1/models says: name and source of the first model, and its longest prompt. Raises FailedAttempt."""
    try:
        model = json.loads(content)["data"][0]
        limit = model.get("max_model_len")
        return f"{model['id']} ({model.get('root')})", None if limit is None else int(limit)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise FailedAttempt(f"no list of models ({error!r:.200}): {content[:200]!r}") from error


def read_outputs(content: bytes, number: int) -> list[Float32[np.ndarray, " outputs"]]:
    """The outputs of `number` prompts in an answer of /pooling. Raises FailedAttempt for anything else, such as half an answer."""
    try:
        items = json.loads(content)["data"]
        if [item["index"] for item in items] != list(range(number)):
            raise ValueError(f"{len(items)} outputs for {number} prompts")
        decoded = [base64.b64decode(item["data"], validate=True) for item in items]
        return [np.frombuffer(data, dtype="<f4").astype(np.float32) for data in decoded]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FailedAttempt(f"not an answer of vLLM's pooling ({error!r:.200}): {content[:200]!r}") from error


def rows_at_step_ends(
    outputs: Float32[np.ndarray, " outputs"], response: EncodedResponse, num_labels: int
) -> Float32[np.ndarray, "steps labels"]:
    """The rows at a response's step ends, out of one for each token or one for each step. Raises ValueError for another number."""
    num_steps, num_tokens = len(response.step_ends), len(response.input_ids)
    if len(outputs) == num_steps * num_labels:
        return outputs.reshape(num_steps, num_labels)
    if len(outputs) == num_tokens * num_labels:
        return outputs.reshape(num_tokens, num_labels)[response.step_ends]
    raise ValueError(
        f"{len(outputs)} numbers for a response of {num_steps} steps and {num_tokens} tokens, neither {num_labels} a step nor "
        f"{num_labels} a token: this is another model"
    )
