"""The vLLM engine without vLLM: a worker that is a fake, the ways in which it may fail, ids and folders that are refused before."""

import json
import math
import os
import types
from dataclasses import replace

import pytest
import torch

from prm.sampling.base import EngineError
from prm.scoring import vllm_engine
from prm.scoring.exported import pooling_task, served_dtype
from prm.scoring.vllm_engine import VLLMScoringEngine
from prm.scoring.vllm_worker import Job, pick
from prm.steps import EncodedResponse, StepEncoder

FAKE_WORKER = """
import sys, time
import numpy as np
from multiprocessing.connection import Connection
from prm.scoring.vllm_worker import Outputs
connection = Connection(int(sys.argv[1]))
settings = connection.recv()
name = settings.dtype
if name == "stillborn": sys.exit("no such model")
connection.send(("ready", None))
while True:
    try: jobs = connection.recv()
    except EOFError: sys.exit()
    if name == "mortal": sys.exit("out of memory")
    if name == "stuck": time.sleep(60)
    for job in reversed(jobs):
        rows = [[position / 10, 0.0, job.prompt_token_ids[position] / 100] for position in job.positions]
        connection.send(("outputs", [Outputs(job.number, np.array(rows, dtype=np.float32))]))
    if name == "brief": sys.exit("killed")
"""
ENCODED = [EncodedResponse([5, 6, 7, 8], [1, 3], 0), EncodedResponse([9, 10], [1], 0)]


@pytest.fixture
def folder(tmp_path):
    config = {"architectures": ["Qwen2ForRewardModel"], "vocab_size": 300, "max_position_embeddings": 64, "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def encoder(tiny_tokenizer):
    return StepEncoder.for_loss("asym", tiny_tokenizer)


@pytest.fixture
def start(folder, encoder, monkeypatch):
    monkeypatch.setattr(vllm_engine, "WORKER", FAKE_WORKER)
    engines = []

    def start(name="sound", **contract):
        engines.append(VLLMScoringEngine(folder, replace(encoder, **contract), dtype=name))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
    assert all(engine.process.poll() is not None for engine in engines if hasattr(engine, "process"))


def test_a_model_is_spread_over_as_many_gpus_as_asked_for(folder, encoder, monkeypatch):
    monkeypatch.setattr(vllm_engine, "visible_gpus", lambda: ["2", "5", "6"])
    started = []
    monkeypatch.setattr(VLLMScoringEngine, "start_process", lambda self, code, environment: started.append(environment))
    monkeypatch.setattr(VLLMScoringEngine, "connection", types.SimpleNamespace(send=started.append), raising=False)
    monkeypatch.setattr(VLLMScoringEngine, "_receive", lambda self, kind, seconds: None)
    VLLMScoringEngine(folder, encoder, tensor_parallel_size=2)._start()
    assert started[0]["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert started[1].tensor_parallel_size == 2
    with pytest.raises(ValueError, match="--tensor_parallel_size 4 needs as many GPUs, 3 are visible"):
        VLLMScoringEngine(folder, encoder, tensor_parallel_size=4)
    monkeypatch.setattr(vllm_engine, "visible_gpus", list)
    assert VLLMScoringEngine(folder, encoder).devices == []
    with pytest.raises(ValueError, match="--tensor_parallel_size 2 needs as many GPUs, 0 are visible"):
        VLLMScoringEngine(folder, encoder, tensor_parallel_size=2)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_outputs_at_the_step_ends_become_scores_in_the_order_of_the_responses(start):
    engine = start()
    for _ in range(2):
        first, second = engine.score_encoded(ENCODED)
        assert first == pytest.approx([sigmoid(0.1), sigmoid(0.3)])
        assert second == pytest.approx([sigmoid(0.1)])
    assert engine.score_encoded([]) == []


def test_the_contract_s_activation_reads_the_good_class(start):
    (scores,) = start(activation="softmax", num_labels=3).score_encoded(ENCODED[:1])
    good, bad = math.exp(0.06), math.exp(0.1) + 1
    assert scores[0] == pytest.approx(good / (good + bad))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stillborn", r"could not start; the end of its log:(.|\n)*no such model"),
        ("mortal", r"died; the end of its log:(.|\n)*out of memory"),
        ("stuck", r"made no forward pass for 0\.3 s"),
    ],
)
def test_a_worker_that_fails_ends_the_call_and_is_gone(start, monkeypatch, name, message):
    engine = start(name)
    if name == "stuck":
        monkeypatch.setattr(vllm_engine, "HANG_SECONDS", 0.3)
    with pytest.raises(EngineError, match=message):
        engine.score_encoded(ENCODED)
    assert engine.process.poll() is not None


def test_a_worker_that_died_between_two_calls_ends_the_second(start):
    engine = start("brief")
    assert len(engine.score_encoded(ENCODED)) == 2
    os.waitid(os.P_PID, engine.process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(EngineError, match=r"died; the end of its log:(.|\n)*killed"):
        engine.score_encoded(ENCODED)
    assert not engine.is_running


def test_answers_of_a_call_that_was_interrupted_are_not_those_of_the_next(start, monkeypatch):
    engine = start()
    expected = engine.score_encoded(ENCODED[::-1])
    with monkeypatch.context() as patch:
        patch.setattr(VLLMScoringEngine, "_receive", lambda self, kind, seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.score_encoded(ENCODED)
    assert engine.score_encoded(ENCODED[::-1]) == expected


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (EncodedResponse([], [], 0), "response 1 has 0 tokens, the served model takes 1 to 64"),
        (EncodedResponse([5] * 65, [64], 0), "response 1 has 65 tokens"),
        (EncodedResponse([5, 300], [1], 0), "response 1 holds token 300, the vocabulary ends at 299"),
        (EncodedResponse([5, 6], [2], 0), r"response 1 has step ends \[2\] outside of its 2 tokens"),
    ],
)
def test_what_vllm_would_refuse_is_refused_before_it_starts(start, response, message):
    engine = start()
    with pytest.raises(ValueError, match=message):
        engine.score_encoded([ENCODED[0], response])
    assert not engine.is_running


def test_a_folder_that_vllm_cannot_serve_names_the_export(folder, encoder):
    config = json.loads((folder / "config.json").read_text())
    for architecture in ("Qwen2ForStepClassification", "LlamaModel", "Qwen3ForRewardModel"):
        with pytest.raises(ValueError, match=rf"no pooling model {architecture}; write one with scripts/export_vllm.py --model"):
            pooling_task({**config, "architectures": [architecture]}, folder)
    (folder / "modules.json").write_text("[]")
    assert pooling_task({**config, "architectures": ["LlamaModel"]}, folder) == "token_embed"
    assert pooling_task({**config, "architectures": ["MistralForTokenClassification"]}, folder) == "token_classify"
    with pytest.raises(FileNotFoundError, match=r"nowhere/config.json: no such file"):
        VLLMScoringEngine(folder / "nowhere", encoder)


def test_the_worker_takes_the_asked_positions_of_all_tokens():
    pooled = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.bfloat16)
    number, logits = pick(Job(7, [10, 11, 12], [0, 2]), pooled)
    assert (number, logits.tolist()) == (7, [[1.0, 2.0], [5.0, 6.0]])
    with pytest.raises(AssertionError):
        pick(Job(7, [10, 11, 12], [0]), pooled[:2])


def test_precision_is_that_of_the_torch_engine(monkeypatch):
    for is_cuda, auto in ((False, "float16"), (True, "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_cuda=is_cuda: is_cuda)
        assert served_dtype("auto", {"dtype": "float16"}) == auto
        assert served_dtype("float32", {"dtype": "float16"}) == "float32"
