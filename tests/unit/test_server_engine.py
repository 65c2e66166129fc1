"""The server engine: what is sent and read, requests in flight, every way in which a server fails, rollouts that resume."""

import dataclasses
import json
import threading
import time
from contextlib import closing

import httpx2
import pytest
from fake_server import FakeServer, after, completion

from prm.files import read_records
from prm.records import Question, Rollout
from prm.sampling import http_client
from prm.sampling.base import Engine, EngineConfig, EngineError, SampleRequest, SampleResult, SamplingConfig, make_engine
from prm.sampling.rollouts import RolloutConfig, generate_rollouts
from prm.sampling.server_engine import ServerEngine, read_result

CHAT = [{"role": "user", "content": "What is 3 + 4?"}]
REQUESTS = tuple(SampleRequest(("q", i), [], i, CHAT) for i in range(12))
SAMPLING = SamplingConfig(max_tokens=9, temperature=0.5, top_p=0.9)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(http_client, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def config_for(server: FakeServer, **settings) -> EngineConfig:
    return EngineConfig(model="judge-7b", engine="server", base_url=server.base_url, **{"max_request_retries": 2, **settings})


def results(server: FakeServer, requests=REQUESTS, **settings) -> list[SampleResult]:
    with closing(make_engine(config_for(server, **settings))) as engine:
        return list(engine.generate(requests, SAMPLING))


def failing_first(fault, times: int = 1):
    """Every request fails `times` times, then tells its seed."""
    seen, lock = {}, threading.Lock()

    def answer(body):
        with lock:
            seen[body["seed"]] = seen.get(body["seed"], 0) + 1
        return fault if seen[body["seed"]] <= times else f"seed {body['seed']}"

    return answer


def everything(num_requests: int) -> list[SampleResult]:
    return [SampleResult(("q", i), f"seed {i}", "stop", 3) for i in range(num_requests)]


class TestProtocol:
    def test_a_chat_by_hand(self):
        with FakeServer(lambda body: "seven") as server:
            (result,) = results(server, REQUESTS[3:4])
        assert result == SampleResult(("q", 3), "seven", "stop", 3)
        assert server.paths == ["/v1/chat/completions"]
        draw = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3}
        assert server.bodies == [{"model": "judge-7b", "messages": CHAT, **draw}]
        assert server.authorizations == [None]

    def test_token_ids_by_hand(self):
        with FakeServer(lambda body: completion("seven", is_chat=False, finish_reason="length", num_tokens=9)) as server:
            (result,) = results(server, [SampleRequest("a", [5, 6], 1)])
        assert result == SampleResult("a", "seven", "length", 9)
        assert server.paths == ["/v1/completions"]
        assert server.bodies[0]["prompt"] == [5, 6]
        assert "messages" not in server.bodies[0]

    def test_the_key_travels_in_the_header_only(self, monkeypatch):
        monkeypatch.setenv("MY_KEY", "s3cret")
        with FakeServer(lambda body: 401) as server, pytest.raises(EngineError) as error:
            results(server, REQUESTS[:1], api_key_env="MY_KEY")
        assert server.authorizations == ["Bearer s3cret"]
        assert "s3cret" not in str(error.value)

    def test_it_is_an_engine_that_keeps_so_many_requests_in_flight(self):
        with FakeServer(lambda body: after(0.02, f"seed {body['seed']}")) as server:
            assert sorted(results(server, max_num_seqs=3), key=lambda r: r.key) == everything(12)
            assert server.most_at_once == 3
            with closing(ServerEngine(config_for(server))) as engine:
                assert isinstance(engine, Engine)

    def test_results_come_as_they_finish(self):
        with FakeServer(lambda body: after(0.3 if body["seed"] == 0 else 0.0, "x")) as server:
            assert [r.key[1] for r in results(server, REQUESTS[:3])][-1] == 0

    def test_requests_are_taken_as_they_are_needed(self):
        taken = []
        with FakeServer(lambda body: "x") as server, closing(make_engine(config_for(server, max_num_seqs=2))) as engine:
            samples = engine.generate((taken.append(r) or r for r in REQUESTS), SAMPLING)
            next(samples)
            assert len(taken) == 2
            assert len(list(samples)) == 11
            assert list(engine.generate([], SAMPLING)) == []

    def test_an_unfinished_call_leaves_nothing_behind(self):
        with (
            FakeServer(lambda body: after(0.01 * body["seed"], "x")) as server,
            closing(make_engine(config_for(server))) as engine,
        ):
            next(engine.generate(REQUESTS, SAMPLING))
            assert not engine.client.running
            assert len(list(engine.generate(REQUESTS[:4], SAMPLING))) == 4

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ({"message": {"content": "a\ud800b\0"}, "finish_reason": "stop"}, ("a?b\ufffd", "stop")),
            ({"message": {"content": None}, "finish_reason": "length"}, ("", "length")),
            ({"text": "", "finish_reason": "stop"}, ("", "stop")),
            ({"message": {"content": "no"}, "finish_reason": "content_filter"}, ("no", "stop")),
        ],
    )
    def test_read_result(self, choice, expected):
        content = json.dumps({"choices": [choice], "usage": {"completion_tokens": 2}}).encode()
        result = read_result("k", content)
        assert (result.text, result.finish_reason) == expected


BROKEN = {
    "half a body": "<truncate>",
    "connection reset": "<reset>",
    "status 500": 500,
    "status 503": 503,
    "status 429": 429,
    "not JSON": b"<html>gateway</html>",
    "half JSON": b'{"choices": [{"mess',
    "deep JSON": b"[" * 100_000,
    "a list": b"[]",
    "no choices": {"choices": [], "usage": {"completion_tokens": 0}},
    "no usage": {"choices": [{"text": "a", "finish_reason": "stop"}]},
    "parts instead of text": {**completion("a"), "choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]},
    "aborted": completion("a", finish_reason="abort"),
}


class TestFailures:
    @pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
    def test_what_may_pass_is_tried_again(self, fault):
        with FakeServer(failing_first(fault, times=2)) as server:
            assert sorted(results(server, REQUESTS[:3]), key=lambda r: r.key) == everything(3)
        assert len(server.bodies) == 9

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (500, r"request \('q', 0\) failed 3 times, the last time with: status 500: .*as the test wants it"),
            ("<truncate>", "RemoteProtocolError"),
            ("<reset>", "ReadError"),
            (b"{}", "not an answer of the OpenAI protocol .*KeyError"),
        ],
    )
    def test_attempts_are_bounded_and_the_last_failure_is_named(self, fault, message):
        with FakeServer(lambda body: fault) as server, pytest.raises(EngineError, match=message):
            results(server, REQUESTS[:1])
        assert len(server.bodies) == 3

    @pytest.mark.parametrize("fault", ["<hang>", "<drip>"])
    def test_a_request_has_a_time_limit_even_if_bytes_keep_coming(self, fault):
        with FakeServer(failing_first(fault)) as server:
            start = time.monotonic()
            assert sorted(results(server, REQUESTS[:2], request_timeout_seconds=0.3), key=lambda r: r.key) == everything(2)
            assert time.monotonic() - start < 5
            server.answer = lambda body: fault
            with pytest.raises(EngineError, match=r"no answer within 0\.3 s; raise --request_timeout_seconds"):
                results(server, REQUESTS[:1], request_timeout_seconds=0.3)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 307])
    def test_what_no_retry_mends_fails_at_once(self, status):
        message = rf"/v1/chat/completions refuses request \('q', 0\) with status {status}"
        with FakeServer(lambda body: status) as server, pytest.raises(EngineError, match=message):
            results(server, REQUESTS[:1])
        assert len(server.bodies) == 1

    def test_nobody_there(self):
        with FakeServer(lambda body: "x") as server:
            pass
        with pytest.raises(EngineError, match="ConnectError"):
            results(server, REQUESTS[:1])

    def test_what_finished_beside_a_failure_is_kept(self, monkeypatch):
        async def ask(self, request):
            if request.body["seed"] == 7:
                raise EngineError("refused")
            return SampleResult(("q", request.body["seed"]), "x", "stop", 1)

        monkeypatch.setattr(http_client.HTTPClient, "ask", ask)
        engine = ServerEngine(EngineConfig(engine="server", base_url="http://localhost:1/v1"))
        samples = engine.generate(REQUESTS, SAMPLING)
        assert {next(samples).key[1] for _ in range(11)} == set(range(12)) - {7}
        with pytest.raises(EngineError, match="refused"):
            next(samples)
        engine.close()

    def test_the_server_may_ask_for_a_pause(self, monkeypatch):
        monkeypatch.setattr(http_client, "LONGEST_PAUSE_SECONDS", 0.4)
        with FakeServer(failing_first(429), headers={"Retry-After": "3600"}) as server:
            start = time.monotonic()
            assert len(results(server, REQUESTS[:1])) == 1
            assert 0.2 <= time.monotonic() - start < 2
        assert [http_client.retry_after(value) for value in ("7", None, "Wed, 21 Oct 2026 07:28:00 GMT")] == [7.0, 0.0, 0.0]


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"base_url": None}, "--base_url is None; give an address such as http://host:8000/v1"),
            ({"base_url": "host:8000"}, "--base_url is host:8000"),
            ({"base_url": "http://"}, "--base_url is http://; give an address"),
            ({"base_url": "https://host:80x0/v1"}, "--base_url is https://host:80x0/v1; give an address"),
            ({"base_url": "http://[::1"}, r"--base_url is http://\[::1; give an address"),
            ({"api_key_env": "NOT_SET_HERE"}, "--api_key_env NOT_SET_HERE: no such environment variable"),
            ({"dtype": "float32"}, "--dtype float32: the server decides that"),
            ({"max_model_len": 99}, "--max_model_len 99: the server decides that"),
            ({"tensor_parallel_size": 2}, "--tensor_parallel_size 2: the server decides that"),
            ({"data_parallel_size": 2}, "--data_parallel_size 2: the server decides that"),
            ({"request_timeout_seconds": 0.0}, r"--request_timeout_seconds is 0\.0"),
            ({"max_request_retries": -1}, "--max_request_retries is -1"),
            ({"engine": "auto"}, "--base_url is for --engine server; this is --engine auto"),
            ({"engine": "transformers", "base_url": None, "api_key_env": "PATH"}, "--api_key_env is for --engine server"),
        ],
    )
    def test_contradictions_are_refused(self, change, message):
        config = EngineConfig(engine="server", base_url="http://localhost:1/v1")
        config.check()
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **change).check()

    def test_a_key_that_no_request_can_carry(self, monkeypatch):
        config = EngineConfig(engine="server", base_url="http://localhost:1/v1", api_key_env="KEY")
        for key in ("schlüssel", "two\nlines"):
            monkeypatch.setenv("KEY", key)
            with pytest.raises(ValueError, match="--api_key_env KEY: holds what no request can carry"):
                config.check()
        monkeypatch.setenv("KEY", "sk-1")
        config.check()


class TestRollouts:
    QUESTIONS = tuple(Question(f"q{i}", f"What is {i} + 4?", str(i + 4)) for i in range(5))

    def config(self, server: FakeServer, output, **settings) -> RolloutConfig:
        values = {"model": "policy", "num_samples": 4, "max_request_retries": 1, "max_num_seqs": 3, **settings}
        return RolloutConfig(engine="server", base_url=server.base_url, output=str(output), **values)

    def test_no_model_is_needed_here(self, tmp_path):
        with FakeServer(lambda body: f"\\boxed{{{body['seed']}}}") as server:
            counts = generate_rollouts(self.config(server, tmp_path / "out"), self.QUESTIONS)
            generate_rollouts(self.config(server, tmp_path / "again"), self.QUESTIONS)
        assert (counts["generated"], counts["tokens"]) == (20, 60)
        first, second = ({r.key: r.response for r in read_records(tmp_path / name, Rollout)} for name in ("out", "again"))
        assert first == second
        assert len(set(first.values())) == 20
        assert server.bodies[0]["messages"][0]["role"] == "system"
        assert "\\boxed{}" in server.bodies[0]["messages"][0]["content"]
        assert {body["messages"][1]["content"] for body in server.bodies} == {q.question for q in self.QUESTIONS}

    def test_a_server_that_dies_costs_only_what_was_unfinished(self, tmp_path):
        number = iter(range(100))
        dying = FakeServer(lambda body: f"seed {body['seed']}" if next(number) < 9 else "<reset>")
        with dying as server, pytest.raises(EngineError, match="the same command resumes"):
            generate_rollouts(self.config(server, tmp_path / "out"), self.QUESTIONS)
        kept = {r.key: r.response for r in read_records(tmp_path / "out", Rollout)}
        assert 6 <= len(kept) <= 9
        # Another address and another concurrency are the same run; another model is not.
        with FakeServer(lambda body: f"seed {body['seed']}") as server:
            counts = generate_rollouts(self.config(server, tmp_path / "out", max_num_seqs=5), self.QUESTIONS)
            generate_rollouts(self.config(server, tmp_path / "whole"), self.QUESTIONS)
            with pytest.raises(ValueError, match="run with model 'policy', this one has 'other'"):
                generate_rollouts(self.config(server, tmp_path / "out", model="other"), self.QUESTIONS)
        assert (counts["already_there"], counts["generated"]) == (len(kept), 20 - len(kept))
        resumed, whole = (sorted(p.read_text() for p in (tmp_path / n).glob("*.jsonl")) for n in ("out", "whole"))
        assert sorted("".join(resumed).splitlines()) == sorted("".join(whole).splitlines())

    @pytest.mark.parametrize("text", [" \n", "a \ud800 b"])
    def test_bad_questions_are_refused_before_anything_is_sent(self, tmp_path, text):
        with FakeServer(lambda body: "x") as server:
            with pytest.raises(ValueError, match="question 'bad'"):
                generate_rollouts(self.config(server, tmp_path / "out"), [*self.QUESTIONS, Question("bad", text, "1")])
            with pytest.raises(ValueError, match="no question for this job"):
                generate_rollouts(self.config(server, tmp_path / "out", num_shards=9, shard_index=8), self.QUESTIONS)
        assert not server.bodies
        assert not (tmp_path / "out").exists()


def test_the_client_has_no_limit_of_its_own_that_a_long_answer_would_hit():
    with closing(ServerEngine(EngineConfig(engine="server", base_url="http://localhost:1/v1"))) as engine:
        assert engine.client.client.timeout == httpx2.Timeout(None)
