"""Sampling: the draw by hand, engines independent of batch and order, rollouts that resume, every refusal, replicas that die."""

import dataclasses
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prm.files import read_records
from prm.records import Question, Rollout
from prm.sampling import replicas, rollouts
from prm.sampling.base import Engine, EngineConfig, EngineError, SampleRequest, SampleResult, SamplingConfig, make_engine
from prm.sampling.prompts import encode_prompts, sample_seed
from prm.sampling.replicas import VllmEngine, deal, num_replicas
from prm.sampling.rollouts import RolloutConfig, generate_rollouts
from prm.sampling.transformers_engine import TransformersEngine, draw, pad_left, uniform_noise
from prm.sampling.vllm_engine import cpu_cache_bytes
from prm.steps import StepEncoder

QUESTIONS = [Question(f"q{i}", f"What is {i} + 4?", str(i + 4)) for i in range(5)]


@pytest.fixture
def config(tiny_backbone, tmp_path) -> RolloutConfig:
    output = str(tmp_path / "rollouts")
    return RolloutConfig(model=str(tiny_backbone), engine="transformers", output=output, num_samples=3, max_tokens=6)


@pytest.fixture(scope="module")
def engine(tiny_backbone):
    return TransformersEngine(EngineConfig(model=str(tiny_backbone), max_num_seqs=4))


def texts(output: str) -> dict:
    return {rollout.key: (rollout.response, rollout.num_tokens) for rollout in read_records(output, Rollout)}


class TestDraw:
    LOGITS = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)

    def test_by_hand(self):
        noise = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71], dtype=torch.float64)
        assert draw(self.LOGITS, noise, 1.0, 1.0).tolist() == [0, 0, 1, 1, 2]

    def test_top_p_keeps_the_token_that_reaches_it(self):
        noise = torch.tensor([0.0, 0.3, 0.62, 0.63, 0.99], dtype=torch.float64)
        # 0.5 and 0.3 remain, renormalised to 0.625 and 0.375, in the vocabulary's order.
        assert draw(self.LOGITS, noise, 1.0, 0.6).tolist() == [1, 1, 1, 2, 2]
        assert draw(self.LOGITS, noise, 1.0, 0.5).tolist() == [1] * 5

    def test_temperature(self):
        noise = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
        assert draw(self.LOGITS, noise, 0.0, 1.0).tolist() == [1] * 5
        assert draw(self.LOGITS, noise, 0.01, 1.0).tolist() == [1] * 5

    def test_noise_of_a_row_depends_on_its_seed_alone(self):
        assert torch.equal(uniform_noise([3, 1, 2], 4)[1], uniform_noise([1], 4)[0])

    def test_pad_left(self):
        ids, mask = pad_left([[5], [6, 7]])
        assert ids.tolist() == [[0, 5], [6, 7]]
        assert mask.tolist() == [[False, True], [True, True]]


class TestTransformersEngine:
    REQUESTS = tuple(SampleRequest(i, list(range(10, 13 + 2 * i)), seed=i) for i in range(6))
    SAMPLING = SamplingConfig(max_tokens=12)

    def test_it_is_an_engine(self, engine):
        assert isinstance(engine, Engine)

    def test_a_sample_does_not_depend_on_batch_or_order(self, engine, monkeypatch):
        # Many stop tokens, so that rows leave their batch at different steps.
        monkeypatch.setattr(engine, "stop_ids", set(range(0, 352, 6)))
        together = {result.key: result for result in engine.generate(self.REQUESTS, self.SAMPLING)}
        alone = {r.key: r for request in self.REQUESTS for r in engine.generate([request], self.SAMPLING)}
        backwards = {result.key: result for result in engine.generate(self.REQUESTS[::-1], self.SAMPLING)}
        assert together == alone == backwards
        assert len({result.num_tokens for result in together.values()}) > 2

    def test_another_seed_gives_another_sample(self, engine):
        other = [dataclasses.replace(request, seed=request.seed + 100) for request in self.REQUESTS]
        first, second = (next(engine.generate(batch[:1], self.SAMPLING)).text for batch in (self.REQUESTS, other))
        assert first != second

    def test_greedy_equals_generate_of_transformers(self, engine, tiny_backbone):
        model = AutoModelForCausalLM.from_pretrained(tiny_backbone)
        for result in engine.generate(self.REQUESTS, SamplingConfig(max_tokens=8, temperature=0)):
            prompt = torch.tensor([self.REQUESTS[result.key].prompt_token_ids])
            ids = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
            assert result.text == engine.tokenizer.decode(ids, skip_special_tokens=True)

    def test_finish_reasons_and_counts(self, engine, monkeypatch):
        results = list(engine.generate(self.REQUESTS, SamplingConfig(max_tokens=1)))
        assert {(result.finish_reason, result.num_tokens) for result in results} == {("length", 1)}
        monkeypatch.setattr(engine, "stop_ids", set(range(352)))
        results = list(engine.generate(self.REQUESTS, self.SAMPLING))
        assert {(result.finish_reason, result.num_tokens) for result in results} == {("stop", 1)}

    def test_the_context_bounds_a_response(self, tiny_backbone):
        engine = make_engine(EngineConfig(model=str(tiny_backbone), engine="transformers", max_model_len=8))
        (result,) = engine.generate([SampleRequest("a", [9] * 5, 0)], SamplingConfig(max_tokens=100))
        assert (result.num_tokens, result.finish_reason) == (3, "length")


class TestRollouts:
    def test_every_key_once_with_its_question(self, config):
        counts = generate_rollouts(config, QUESTIONS)
        written = list(read_records(config.output, Rollout))
        assert {r.key for r in written} == {(f"q{i}", j) for i in range(5) for j in range(3)}
        assert {(r.question_id, r.question, r.answer) for r in written} == {(q.id, q.question, q.answer) for q in QUESTIONS}
        assert counts["generated"] == 15 == counts["truncated"] + sum(r.finish_reason == "stop" for r in written)
        manifest = json.loads((Path(config.output) / "manifest.json").read_text())
        assert manifest["counts"] == counts
        assert manifest["config"]["num_samples"] == 3

    def test_interrupted_and_resumed_equals_uninterrupted(self, config, monkeypatch, tmp_path):
        class Dying(TransformersEngine):
            def generate(self, requests, sampling):
                for number, result in enumerate(super().generate(requests, sampling)):
                    if number == 7:
                        raise EngineError("power cut")
                    yield result

        with monkeypatch.context() as patch:
            patch.setattr(rollouts, "make_engine", Dying)
            with pytest.raises(EngineError, match="power cut"):
                generate_rollouts(config, QUESTIONS)
        assert len(texts(config.output)) == 7
        assert generate_rollouts(config, QUESTIONS)["generated"] == 8
        whole = dataclasses.replace(config, output=str(tmp_path / "whole"))
        generate_rollouts(whole, QUESTIONS)
        assert texts(config.output) == texts(whole.output)

    def test_a_finished_run_starts_no_engine_and_more_samples_extend_it(self, config, monkeypatch):
        generate_rollouts(config, QUESTIONS)
        before = texts(config.output)
        with monkeypatch.context() as patch:
            patch.setattr(rollouts, "make_engine", None)
            assert generate_rollouts(config, QUESTIONS)["generated"] == 0
        assert generate_rollouts(dataclasses.replace(config, num_samples=4), QUESTIONS)["generated"] == 5
        assert before.items() <= texts(config.output).items()

    def test_shards_together_equal_one_job(self, config, tmp_path):
        generate_rollouts(config, QUESTIONS)
        shards = str(tmp_path / "shards")
        for index in (1, 0):
            generate_rollouts(dataclasses.replace(config, output=shards, shard_index=index, num_shards=2), QUESTIONS)
        assert texts(config.output) == texts(shards)
        assert {p.name for p in (tmp_path / "shards").glob("*.json")} == {f"manifest-0000{i}-of-00002.json" for i in (0, 1)}

    def test_seed_by_hand(self):
        # The first 7 bytes of SHA-256 of '[0, "q", 1]'.
        assert sample_seed(0, "q", 1) == 0x4561B88F234C30
        assert len({sample_seed(run, question, index) for run in (0, 1) for question in "ab" for index in range(50)}) == 200

    def test_an_engine_needs_no_more_context_than_the_longest_prompt(self, config, monkeypatch):
        seen = []
        monkeypatch.setattr(rollouts, "make_engine", lambda engine_config: seen.append(engine_config) or TransformersEngine(config))
        generate_rollouts(config, QUESTIONS[:1])
        prompt = StepEncoder(tokenizer=TransformersEngine(config).tokenizer).prompt_ids(QUESTIONS[0].question)
        assert seen[0].max_model_len == len(prompt) + 6


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"max_tokens": 0}, "--max_tokens is 0"),
            ({"temperature": -1.0}, "--temperature is -1.0"),
            ({"top_p": 0.0}, "--top_p is 0.0"),
            ({"top_p": 1.5}, "--top_p is 1.5"),
            ({"num_samples": 0}, "--num_samples is 0"),
            ({"temperature": 0.0}, "would give 3 equal samples"),
            ({"num_shards": 2, "shard_index": 2}, "--shard_index 2 of --num_shards 2"),
            ({"num_shards": 9, "shard_index": 8}, "no question for this job"),
            ({"output": "rollouts.jsonl"}, "the output is a folder"),
            ({"max_num_seqs": 0}, "--max_num_seqs is 0"),
            ({"max_model_len": 9999}, "has 2048 positions"),
            ({"max_model_len": 20}, "question 'q0': a prompt of .* leaves no room for a response within 20"),
            ({"data_parallel_size": 2}, "need --engine vllm"),
        ],
    )
    def test_settings(self, config, change, message):
        with pytest.raises(ValueError, match=message):
            generate_rollouts(dataclasses.replace(config, **change), QUESTIONS)
        assert not Path(config.output).exists()

    def test_the_folder_of_the_questions(self, config, tmp_path):
        (tmp_path / "questions.jsonl").write_text("")
        change = {"questions": str(tmp_path / "questions.jsonl"), "output": str(tmp_path)}
        with pytest.raises(ValueError, match=r"--output .* holds the input .*questions\.jsonl"):
            generate_rollouts(dataclasses.replace(config, **change), QUESTIONS)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (" \n", "question 'bad' is empty"),
            ("a \ud800 b", "question 'bad' holds a lone surrogate"),
            ("a <|im_end|> b", "question 'bad': question contains the special token"),
        ],
    )
    def test_questions(self, config, text, message):
        with pytest.raises(ValueError, match=message):
            generate_rollouts(config, [*QUESTIONS, Question("bad", text, "1")])

    def test_tokenizer_of_another_model(self, config, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"question 'q0': its prompt holds token .*, the model knows 5"):
            encode_prompts(QUESTIONS, tiny_tokenizer, 500, 5)

    def test_model_that_is_missing_or_cannot_generate(self, config, tmp_path, tiny_backbone):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
            generate_rollouts(dataclasses.replace(config, model=str(tmp_path / "empty")), QUESTIONS)
        with pytest.raises(FileNotFoundError, match="no such folder, and the hub gives no model"):
            generate_rollouts(dataclasses.replace(config, model="Qwen/Qwen2.5-Meth-1.5B"), QUESTIONS)
        model = json.loads((tiny_backbone / "config.json").read_text())
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "config.json").write_text(json.dumps(model))
        with pytest.raises(FileNotFoundError, match="it has no tokenizer"):
            generate_rollouts(dataclasses.replace(config, model=str(bare)), QUESTIONS)
        (bare / "config.json").write_text(json.dumps({**model, "architectures": ["Qwen2ForRewardModel"]}))
        with pytest.raises(ValueError, match="is a reward model and writes no text"):
            generate_rollouts(dataclasses.replace(config, model=str(bare)), QUESTIONS)

    def test_another_run_in_the_folder(self, config, tmp_path):
        generate_rollouts(config, QUESTIONS)
        with pytest.raises(ValueError, match=r"run with temperature 1\.0, this one has 0\.7"):
            generate_rollouts(dataclasses.replace(config, temperature=0.7), QUESTIONS)
        with pytest.raises(ValueError, match="run with questions"):
            generate_rollouts(config, QUESTIONS[:4])
        (Path(config.output) / "manifest.json").unlink()
        with pytest.raises(ValueError, match=r"rows but no manifest"):
            generate_rollouts(config, QUESTIONS)

    def test_vllm_that_is_not_installed(self, config, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="vLLM is not installed"):
            make_engine(dataclasses.replace(config, engine="vllm"))
        assert EngineConfig(engine="auto").resolved_engine() == "transformers"


FAKE_REPLICA = """
import os, sys, time
from multiprocessing.connection import Connection
from prm.sampling.vllm_engine import Finished
connection = Connection(int(sys.argv[1]))
name, folder = connection.recv().model.split(":")
if name == "stillborn": sys.exit("no such model")
connection.send(("ready", None))
while True:
    connection.send(("want", 0))
    try: chunk = connection.recv()
    except EOFError: sys.exit()
    for number, prompt, seed in chunk.jobs:
        mark = os.path.join(folder, f"seen-{prompt[0]}")
        if name != "sound" and prompt[0] == 7 and (name == "cursed" or not os.path.exists(mark)):
            open(mark, "w").close()
            time.sleep(60) if name == "stuck" else os._exit(1)
        connection.send(("results", [Finished(number, f"{prompt[0]}/{chunk.sampling.max_tokens}", "stop", 1)]))
"""


class TestReplicas:
    REQUESTS = tuple(SampleRequest(("q", i), [i], i) for i in range(12))

    @pytest.fixture
    def start(self, monkeypatch, tmp_path):
        monkeypatch.setattr(replicas, "REPLICA", FAKE_REPLICA)
        monkeypatch.setattr(replicas, "visible_gpus", list)
        monkeypatch.setattr(replicas, "DEAL_SIZE", 2)
        engines = []

        def start(name: str, **settings) -> VllmEngine:
            settings = {"max_num_seqs": 3, "data_parallel_size": 2, "hang_timeout_seconds": 0.5, **settings}
            engines.append(VllmEngine(EngineConfig(model=f"{name}:{tmp_path}", engine="vllm", **settings)))
            return engines[-1]

        yield start
        processes = [replica.process for engine in engines for replica in engine.replicas]
        for engine in engines:
            engine.close()
        assert all(process.poll() is not None for process in processes)

    @pytest.mark.parametrize("name", ["sound", "mortal", "stuck"])
    def test_every_request_is_answered_once(self, start, name):
        results = list(start(name).generate(self.REQUESTS, SamplingConfig(max_tokens=9)))
        assert Counter(result.key for result in results) == Counter({("q", i): 1 for i in range(12)})
        assert all(result == SampleResult(("q", i), f"{i}/9", "stop", 1) for result in results for i in [result.key[1]])

    def test_an_engine_generates_again_even_after_an_unfinished_call(self, start):
        engine = start("sound")
        next(engine.generate(self.REQUESTS, SamplingConfig(max_tokens=1)))
        results = list(engine.generate(self.REQUESTS[:5], SamplingConfig(max_tokens=2)))
        assert {result.text for result in results} == {f"{i}/2" for i in range(5)}

    def test_deaths_are_bounded(self, start):
        with pytest.raises(EngineError, match="a vLLM replica died, after 2 restarts; finished samples are kept"):
            list(start("cursed", max_restarts=2).generate(self.REQUESTS, SamplingConfig()))

    def test_a_model_that_cannot_load_is_not_tried_again(self, start):
        with pytest.raises(EngineError, match=r"vLLM could not start(.|\n)*no such model"):
            list(start("stillborn").generate(self.REQUESTS, SamplingConfig()))

    def test_few_requests_start_few_replicas(self, start):
        engine = start("sound", max_num_seqs=256)
        assert list(engine.generate([], SamplingConfig())) == []
        list(engine.generate(self.REQUESTS, SamplingConfig()))
        assert len(engine.replicas) == 1

    def test_requests_are_dealt_in_runs(self, monkeypatch):
        monkeypatch.setattr(replicas, "DEAL_SIZE", 2)
        requests = self.REQUESTS[:7]
        assert [[r.seed for r in deal(requests, index, 2)] for index in (0, 1)] == [[0, 1, 4, 5], [2, 3, 6]]

    def test_num_replicas(self):
        assert num_replicas(EngineConfig(tensor_parallel_size=2), list("0123")) == 2
        assert num_replicas(EngineConfig(data_parallel_size=3), []) == 3
        assert num_replicas(EngineConfig(), []) == min(replicas.num_cores(), 8)
        with pytest.raises(ValueError, match="--tensor_parallel_size 4 times --data_parallel_size 2 needs 8 GPUs, 4 are visible"):
            num_replicas(EngineConfig(tensor_parallel_size=4, data_parallel_size=2), list("0123"))

    def test_every_replica_sees_its_own_gpus(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        engine = VllmEngine(EngineConfig(tensor_parallel_size=2))
        assert [engine._environment(index)["CUDA_VISIBLE_DEVICES"] for index in range(engine.num_replicas)] == ["4,5", "6,7"]

    def test_cpu_cache_by_hand(self, tiny_backbone):
        # 40 tokens are 2 blocks of 32; 2 (keys, values) * 2 layers * 1 head * 64 * 2 bytes = 512 bytes a token.
        config = EngineConfig(model=str(tiny_backbone), max_model_len=40, max_num_seqs=10)
        assert cpu_cache_bytes(config) == 10 * 2 * 32 * 512
        assert cpu_cache_bytes(dataclasses.replace(config, dtype="float32")) == 10 * 2 * 32 * 1024
        assert cpu_cache_bytes(dataclasses.replace(config, max_num_seqs=1 << 20)) == 4 << 30
