"""The scoring engine behind an address: what is sent and read, every way in which a server fails or is another one, resuming."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeServer, PooledModel, after, models, pooling
from test_scoring import EMPTY, LONG, RESPONSES, make_checkpoint

import prm.scoring.scorer
from prm.files import read_records, write_jsonl
from prm.models.files import hash_model
from prm.records import Response, StepScores
from prm.sampling import http_client
from prm.sampling.base import EngineError, ServerConfig
from prm.scoring import Scorer, ScoringConfig, ScoringEngine, score_file, server_engine
from prm.scoring.exported import scores_of_logits
from prm.scoring.server_engine import ServerScoringEngine, rows_at_step_ends
from prm.steps import EncodedResponse, StepEncoder

MANY = tuple(Response(f"q{i}", 0, f"What is {i} + 4?", [f"{j} + {i} = {j + i}." for j in range(1, 4)]) for i in range(40))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(http_client, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    return make_checkpoint(tmp_path_factory.mktemp("asym"), tiny_backbone, "asym")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """The checkpoint without its weights."""
    path = tmp_path_factory.mktemp("served") / "asym"
    return str(shutil.copytree(checkpoint, path, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="module")
def pooled(checkpoint):
    return PooledModel(checkpoint)


@pytest.fixture(scope="module")
def expected(checkpoint):
    return {scores.key: scores.step_scores for scores in Scorer.load(checkpoint).score([*RESPONSES, *MANY])}


def contract_of(folder) -> Path:
    return Path(folder) / "prm_config.json"


def serve(answer, **settings) -> FakeServer:
    return FakeServer(answer, **{"models": models(), **settings})


def load(folder: str, server: FakeServer, **settings) -> Scorer:
    config = ServerConfig(base_url=server.base_url.removesuffix("/v1"), **{"max_request_retries": 2, **settings})
    return Scorer.load(folder, engine="server", server=config)


def are_equal(scores, expected) -> bool:
    scores = list(scores)
    return bool(scores) and all(s.step_scores == pytest.approx(expected[s.key], abs=1e-6) for s in scores)


class TestProtocol:
    @pytest.mark.parametrize("by_step", [False, True])
    def test_scores_of_the_torch_engine_from_rows_by_token_or_by_step(self, checkpoint, folder, expected, by_step):
        encoder = StepEncoder.load(folder)
        with serve(PooledModel(checkpoint, encoder.separator_id if by_step else None)) as server:
            scorer = load(folder, server)
            scores = list(scorer.score(RESPONSES))
        assert [s.key for s in scores] == [r.key for r in RESPONSES]
        assert are_equal(scores, expected)
        encoded = encoder.encode_batch(RESPONSES)
        self_test, request = server.bodies
        assert self_test["input"] == [json.loads(contract_of(folder).read_text())["self_test"]["input_ids"]]
        assert sorted(request["input"]) == sorted(tokens.input_ids for tokens in encoded)
        assert server.paths == ["/pooling", "/pooling"]
        assert server.authorizations == [None, None]
        assert scorer.speed.computed_tokens == sum(len(tokens.input_ids) for tokens in encoded)

    def test_several_requests_are_in_flight(self, folder, pooled, expected, monkeypatch):
        monkeypatch.setattr(server_engine, "REQUEST_TOKENS", 200)
        monkeypatch.setattr(server_engine, "MAX_REQUESTS", 3)
        with serve(lambda body: after(0.02, pooled(body))) as server:
            scores = list(load(folder, server).score(MANY))
        assert [s.key for s in scores] == [r.key for r in MANY]
        assert are_equal(scores, expected)
        assert server.most_at_once == 3
        assert all(sum(map(len, body["input"])) <= 200 for body in server.bodies)
        assert len(server.bodies) > 5

    def test_the_key_travels_and_an_address_may_end_in_v1(self, folder, pooled, monkeypatch):
        monkeypatch.setenv("MY_KEY", "s3cret")
        with serve(pooled) as server:
            config = ServerConfig(base_url=server.base_url + "/", api_key_env="MY_KEY")
            engine = ServerScoringEngine(folder, StepEncoder.load(folder), config)
        assert isinstance(engine, ScoringEngine)
        assert server.paths == ["/pooling"]
        assert server.authorizations == ["Bearer s3cret"]

    def test_the_contract_s_activation_reads_the_good_class(self, tiny_tokenizer):
        encoder = StepEncoder.for_loss("step_ce", tiny_tokenizer)
        logits = np.log(np.array([[1.0, 2.0, 5.0]], dtype=np.float32))
        assert scores_of_logits(logits, encoder) == pytest.approx([5 / 8])

    def test_rows_at_step_ends_by_hand(self):
        response = EncodedResponse([7, 8, 9], [0, 2], 0)
        outputs = np.array([1, 2, 3, 4, 5, 6], dtype=np.float32)
        assert rows_at_step_ends(outputs, response, 2).tolist() == [[1, 2], [5, 6]]
        assert rows_at_step_ends(outputs, response, 3).tolist() == [[1, 2, 3], [4, 5, 6]]
        with pytest.raises(ValueError, match="6 numbers for a response of 2 steps and 3 tokens, neither 1 a step nor 1 a token"):
            rows_at_step_ends(outputs, response, 1)


HALF_ANSWERS = {
    "half a body": "<truncate>",
    "connection reset": "<reset>",
    "status 500": 500,
    "status 429": 429,
    "not JSON": b"<html>gateway</html>",
    "half JSON": b'{"data": [{"index": 0, "da',
    "a list": b"[]",
    "no data": {"error": "overloaded"},
    "too few outputs": pooling([]),
    "twice the first": {"data": pooling([[0.1]])["data"] * 2},
    "numbers instead of base64": {"data": [{"index": 0, "data": [[0.1]]}]},
    "half of the base64": {"data": [{"index": 0, "data": "AADAf"}]},
    "half of a number": {"data": [{"index": 0, "data": "AADA"}]},
}


class TestFailures:
    @pytest.mark.parametrize("fault", HALF_ANSWERS.values(), ids=HALF_ANSWERS)
    def test_what_may_pass_is_tried_again(self, folder, pooled, expected, fault):
        seen, lock = {}, threading.Lock()

        def answer(body):
            with lock:
                count = seen[str(body)] = seen.get(str(body), 0) + 1
            return fault if count <= 2 else pooled(body)

        with serve(answer) as server:
            assert are_equal(load(folder, server).score(RESPONSES[:1]), expected)
        assert len(server.bodies) == 6

    def test_attempts_are_bounded_and_the_last_failure_is_named(self, folder, pooled):
        with serve(lambda body: 500 if len(body["input"]) == 4 else pooled(body)) as server:
            message = "a request of 4 responses failed 3 times, the last time with: status 500: .* the same command resumes"
            with pytest.raises(EngineError, match=message):
                list(load(folder, server).score(RESPONSES))
        assert len(server.bodies) == 4

    def test_a_hanging_server_has_a_time_limit(self, folder, pooled):
        with serve(lambda body: "<hang>") as server, pytest.raises(EngineError, match=r"no answer within 0\.1 s"):
            load(folder, server, request_timeout_seconds=0.1, max_request_retries=0)

    def test_nobody_there_is_told_at_once(self, folder):
        with serve(None) as server:
            pass
        message = (
            r"--base_url http://127.* GET /v1/models failed with: ConnectError.*; start `vllm serve .*asym --config .*yaml` there"
        )
        with pytest.raises(EngineError, match=message):
            load(folder, server)

    @pytest.mark.parametrize("answer", [404, b"<html>", {"data": []}, {"data": ["tiny"]}])
    def test_another_kind_of_server(self, folder, answer):
        message = r"--base_url .*(refuses GET /v1/models with status 404|no list of models).* --model"
        with FakeServer(None, models=answer) as server, pytest.raises(EngineError, match=message):
            load(folder, server)

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_a_server_that_does_not_pool(self, folder, status):
        message = f"--base_url .*/pooling refuses the self-test with status {status}.*; start `vllm serve .* there"
        with serve(lambda body: status) as server, pytest.raises(EngineError, match=message):
            load(folder, server)
        assert len(server.bodies) == 1

    @pytest.mark.parametrize("outputs", [0, 1, 4, 5])
    def test_outputs_of_another_model_end_the_run_at_once(self, folder, outputs):
        message = rf"/pooling: {outputs} numbers for a response of 2 steps and \d+ tokens.*give --model the folder that is served$"
        with serve(lambda body: pooling([[0.0] * outputs])) as server, pytest.raises(ValueError, match=message):
            load(folder, server)
        assert len(server.bodies) == 1

    @pytest.mark.parametrize("output", [0.0, None])
    def test_other_scores_than_were_saved_are_another_model_s(self, folder, output):
        message = r"the self-test scores \[(0\.5|nan), .*, saved were .* serves another model, or this one in another precision"
        answering = serve(lambda body: pooling([[output]] * len(ids) for ids in body["input"]))
        with answering as server, pytest.raises(ValueError, match=message):
            load(folder, server)

    def test_a_score_that_is_no_number_names_the_response(self, folder, pooled):
        def answer(body):
            return pooled(body) if len(body["input"]) == 1 else pooling([[None]] * len(ids) for ids in body["input"])

        with (
            serve(answer) as server,
            pytest.raises(ValueError, match=r"b #0: step 0 got the score nan.* for a server in the export"),
        ):
            list(load(folder, server).score(RESPONSES))

    def test_without_a_self_test_nothing_is_compared(self, folder, pooled, tmp_path, caplog):
        bare = shutil.copytree(folder, tmp_path / "bare")
        contract = json.loads(contract_of(bare).read_text())
        with serve(pooled) as server:
            contract_of(bare).write_text(json.dumps({**contract, "self_test": None}))
            load(str(bare), server)
            assert "holds no self-test; nothing shows that" in caplog.text
            contract_of(bare).write_text(json.dumps({**contract, "max_length": 10}))
            load(str(bare), server)
            assert "10 tokens do not hold the self-test" in caplog.text
        assert not server.bodies


class TestFiles:
    @pytest.fixture
    def config(self, folder, tmp_path):
        write_jsonl(tmp_path / "in.jsonl", [*RESPONSES, EMPTY, *MANY])
        return ScoringConfig(
            folder,
            str(tmp_path / "in.jsonl"),
            str(tmp_path / "out.jsonl"),
            engine="server",
            base_url="http://localhost:1",
            max_request_retries=0,
        )

    def at(self, config, server, **changes):
        return replace(config, base_url=server.base_url, **changes)

    def test_what_is_longer_than_the_contract_is_left_out(self, config, pooled, expected, tmp_path):
        write_jsonl(tmp_path / "in.jsonl", [*RESPONSES, EMPTY, LONG])
        lengths = [len(tokens.input_ids) for tokens in StepEncoder.load(config.model).encode_batch(RESPONSES)]
        with serve(pooled) as server:
            counts = score_file(self.at(config, server))
        assert counts == {"responses": 6, "scored": 4, "no_steps": 1, "too_long": 1}
        scores = list(read_records(config.output, StepScores))
        assert [s.key for s in scores] == [r.key for r in RESPONSES]
        assert are_equal(scores, expected)
        manifest = json.loads((tmp_path / "out.manifest.json").read_text())
        assert manifest["speed"]["tokens"] == manifest["speed"]["computed_tokens"] == sum(lengths)
        assert manifest["run"]["engine"] == "server"

    def test_a_server_that_takes_less_than_the_contract_is_refused(self, config, pooled, tmp_path):
        with (
            serve(pooled, models=models(511)) as server,
            pytest.raises(ValueError, match=r"up to 511 tokens, .* up to 512, .*vllm.yaml"),
        ):
            score_file(self.at(config, server))
        assert not (tmp_path / "out.jsonl").exists()

    def test_a_server_that_dies_costs_only_what_was_unfinished(self, config, pooled, expected, tmp_path, monkeypatch):
        monkeypatch.setattr(prm.scoring.scorer, "WINDOWS", (8, 8))
        monkeypatch.setattr(prm.metrics.degenerate, "MIN_STEPS", 1)
        number = iter(range(100))
        dying = serve(lambda body: pooled(body) if next(number) < 4 else "<reset>")
        with dying as server, pytest.raises(EngineError, match="the same command resumes"):
            score_file(self.at(config, server))
        assert not (tmp_path / "out.jsonl").exists()
        with serve(pooled) as server:
            assert score_file(self.at(config, server)) == {"responses": 45, "scored": 44, "no_steps": 1}
            sent = sum(len(body["input"]) for body in server.bodies[1:])
            assert sent == 44 - 24, "three windows were there"
            before = len(server.bodies)
            score_file(self.at(config, server))
            assert len(server.bodies) == before, "nothing is asked once all are scored"
        scores = list(read_records(config.output, StepScores))
        assert [s.key for s in scores] == [r.key for r in [*RESPONSES, *MANY]]
        assert are_equal(scores, expected)

    def test_scores_of_another_engine_or_model_are_not_added_to(self, config, checkpoint, pooled, tmp_path):
        with serve(pooled) as server:
            score_file(self.at(config, server))
        with pytest.raises(ValueError, match="is of a run with "):
            score_file(ScoringConfig(checkpoint, config.input, config.output))
        # The same contract with its weights beside it is the same model, on another address.
        assert score_file(replace(config, model=checkpoint))["scored"] == 44
        assert hash_model(checkpoint) != hash_model(config.model)
        other = shutil.copytree(config.model, tmp_path / "other")
        contract_of(other).write_text(contract_of(other).read_text().replace('"aggregation": "', '"aggregation": "geometric_'))
        with pytest.raises(ValueError, match="is of a run with model"):
            score_file(replace(config, model=str(other)))


OPTIONS = {"model": "m", "input": "i", "output": "o"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": None}, "--engine server: --base_url is None; give an address such as http://host:8000$"),
        ({"base_url": "host:8000"}, "--base_url is host:8000; give an address"),
        ({"api_key_env": "NOT_SET_HERE"}, "--api_key_env NOT_SET_HERE: no such environment variable"),
        ({"request_timeout_seconds": 0.0}, r"--request_timeout_seconds is 0\.0"),
        ({"max_request_retries": -1}, "--max_request_retries is -1"),
        ({"engine": "torch"}, "--base_url is for --engine server; this is --engine torch"),
        ({"engine": "vllm"}, "--base_url is for --engine server; this is --engine vllm"),
        ({"token_budget": 100}, "--token_budget is of --engine torch"),
        ({"recipe": "qwen"}, "--recipe is of --engine torch"),
        ({"device": "cpu"}, "--device is of --engine torch"),
        ({"dtype": "float32"}, "--dtype float32: the server decides that"),
        ({"tensor_parallel_size": 2}, "--tensor_parallel_size 2 needs --engine vllm; the server decides that"),
        ({"num_processes": 2}, "--num_processes 2: one keeps a server busy"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    server = {**OPTIONS, "engine": "server", "base_url": "http://localhost:1"}
    ScoringConfig(**server)
    with pytest.raises(ValueError, match=message):
        ScoringConfig(**{**server, **options})


def test_what_no_server_scores(folder, tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match="--base_url is None"):
        Scorer.load(folder, engine="server")
    with pytest.raises(ValueError, match="--torch_compile is of --engine torch"):
        Scorer.load(folder, engine="server", torch_compile=True)
    implicit = make_checkpoint(tmp_path / "implicit", tiny_backbone, "implicit_prm", reference_model=str(tiny_backbone))
    with pytest.raises(ValueError, match=r"--engine server: .* is an implicit PRM"):
        Scorer.load(implicit, engine="server")
