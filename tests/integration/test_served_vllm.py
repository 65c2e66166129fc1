"""A real vLLM server on the CPU behind the server engine: rollouts by chat, completions of token ids, its own refusals."""

from contextlib import closing

import generate_rollouts
import pytest
from vllm_server import vllm_serve

from prm.files import read_records, write_jsonl
from prm.records import Question, Rollout
from prm.sampling.base import EngineConfig, EngineError, SampleRequest, SamplingConfig, make_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tiny_backbone, tmp_path_factory):
    """Base URL of a server with the tiny backbone."""
    arguments = ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    with vllm_serve([str(tiny_backbone), *arguments, "--no-enable-chunked-prefill"], tmp_path_factory.mktemp("server")) as address:
        yield f"{address}/v1"


def test_completions_of_token_ids_are_those_of_the_engine_here(served, tiny_backbone, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    requests = [SampleRequest(i, [10 + i, 20, 30 + i % 7], i) for i in range(20)]
    here = EngineConfig(model=str(tiny_backbone), engine="transformers", dtype="float32", max_model_len=256)
    there = EngineConfig(model="tiny", engine="server", base_url=served)
    results = []
    for config in (here, there):
        with closing(make_engine(config)) as engine:
            results.append({r.key: r for r in engine.generate(requests, SamplingConfig(max_tokens=12, temperature=0))})
    expected, got = results
    assert got.keys() == expected.keys()
    # A server keeps back the bytes of an unfinished character at the end; a near tie may fall either way.
    texts = [{key: (r.text.rstrip("\ufffd"), r.finish_reason, r.num_tokens) for key, r in side.items()} for side in (expected, got)]
    assert sum(texts[0][key] == texts[1][key] for key in expected) >= 18


def test_rollouts_by_chat_depend_on_their_seeds_alone(served, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    questions = [Question(f"q{i}", f"Take {i}. Add 4.", str(i + 4)) for i in range(6)]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    common = ["--questions", str(tmp_path / "questions.jsonl"), "--num_samples", "3", "--max_tokens", "12", "--max_num_seqs", "1"]
    for name in ("first", "second"):
        server = ["--model", "tiny", "--engine", "server", "--base_url", served, "--output", str(tmp_path / name)]
        generate_rollouts.main([*common, *server])
    first, second = ({r.key: r for r in read_records(tmp_path / name, Rollout)} for name in ("first", "second"))
    assert first == second
    assert first.keys() == {(f"q{i}", j) for i in range(6) for j in range(3)}
    assert len({r.response for r in first.values()}) > 15
    assert {r.num_tokens for r in first.values() if r.finish_reason == "length"} == {12}


@pytest.mark.parametrize(
    ("model", "prompt", "message"),
    [("huge", [5], "status 404: .*huge"), ("tiny", [5] * 300, "status 400: .*256"), ("tiny", [10**6], "status 400")],
)
def test_its_refusals_end_the_run_with_its_own_words(served, monkeypatch, model, prompt, message):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    config = EngineConfig(model=model, engine="server", base_url=served)
    with closing(make_engine(config)) as engine, pytest.raises(EngineError, match=message):
        list(engine.generate([SampleRequest("bad", prompt, 0)], SamplingConfig(max_tokens=4)))
