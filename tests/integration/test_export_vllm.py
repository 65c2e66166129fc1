"""Exported checkpoints in a real vLLM on the CPU: parity as part of the export, scoring through it, a server over HTTP."""

import json
import shlex

import export_vllm
import httpx2
import pytest
import readme
import score
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from vllm_server import vllm_serve

from prm.files import read_records, write_jsonl
from prm.models import RewardModel, load_model, save_model
from prm.models.step_scores import score_batch
from prm.records import Response, StepScores
from prm.serving.export import write_served
from prm.serving.parity import check_parity
from prm.steps import StepEncoder, load_tokenizer

pytestmark = pytest.mark.slow
FAMILIES = {"Llama": (LlamaConfig, LlamaForCausalLM), "Qwen3": (Qwen3Config, Qwen3ForCausalLM)}
RESPONSES = [Response(f"q{i}", 0, f"What is {i} + 4?", [f"{j} + 4 = {j + 4}." for j in range(1, 2 + 7 * i)]) for i in range(5)]


def make_checkpoint(backbone, folder, loss, **contract):
    """A PRM with a head whose scores spread."""
    encoder = StepEncoder.for_loss(loss, AutoTokenizer.from_pretrained(backbone), max_length=2048, **contract)
    model = RewardModel.from_backbone(backbone, encoder.num_labels, vocab_size=len(encoder.tokenizer))
    with torch.no_grad():
        model.score[2].weight.mul_(10)
    save_model(model, encoder, folder)
    return str(folder)


@pytest.fixture
def other_backbone(tiny_backbone, tmp_path):
    """Folder of a tiny random causal LM of another family."""

    def make(family):
        torch.manual_seed(0)
        sizes = {"vocab_size": 352, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
        make_config, make_model = FAMILIES[family]
        make_model(make_config(**sizes, num_attention_heads=2, num_key_value_heads=1)).save_pretrained(tmp_path / "backbone")
        load_tokenizer(tiny_backbone).save_pretrained(tmp_path / "backbone")
        return tmp_path / "backbone"

    return make


def export(model, output, *more):
    export_vllm.main(["--model", str(model), "--output", str(output), *more])


def test_three_outputs_without_a_plugin_in_bfloat16(other_backbone, tmp_path, capsys):
    checkpoint = make_checkpoint(other_backbone("Llama"), tmp_path / "checkpoint", "step_ce")
    write_jsonl(tmp_path / "responses.jsonl", RESPONSES)
    export(checkpoint, tmp_path / "served", "--dtype", "bfloat16", "--input", str(tmp_path / "responses.jsonl"))
    printed = capsys.readouterr().out
    assert "parity   175 steps of 10 responses of up to " in printed
    assert "(limit 1e-02)" in printed
    assert json.loads((tmp_path / "served" / "config.json").read_text())["architectures"] == ["LlamaModel"]


def test_a_linear_head(other_backbone, tmp_path):
    backbone = other_backbone("Qwen3")
    encoder = StepEncoder.for_loss("step_ce", load_tokenizer(backbone), num_labels=2, max_length=2048)
    model = RewardModel.from_backbone(backbone, 2, vocab_size=len(encoder.tokenizer))
    torch.manual_seed(1)
    model.score = nn.Linear(128, 2)
    write_served(model, encoder, tmp_path / "served")
    parity = check_parity(model, encoder, tmp_path / "served", RESPONSES)
    assert (parity.num_responses, parity.num_steps, parity.limit) == (10, 175, 1e-4)
    assert parity.highest - parity.lowest > 0.05


def test_scores_through_vllm_are_those_of_torch(tiny_backbone, tmp_path):
    checkpoint = make_checkpoint(tiny_backbone, tmp_path / "checkpoint", "step_ce", num_labels=2)
    export(checkpoint, tmp_path / "served", "--parity", "False")
    write_jsonl(tmp_path / "responses.jsonl", RESPONSES)
    scores = {}
    for engine, model in (("torch", checkpoint), ("vllm", tmp_path / "served")):
        output = tmp_path / f"{engine}.jsonl"
        files = ["--input", str(tmp_path / "responses.jsonl"), "--output", str(output)]
        score.main(["--model", str(model), *files, "--engine", engine])
        scores[engine] = {s.key: s.step_scores for s in read_records(output, StepScores)}
    assert scores["torch"].keys() == scores["vllm"].keys() == {r.key for r in RESPONSES}
    for key, ours in scores["torch"].items():
        assert scores["vllm"][key] == pytest.approx(ours, abs=1e-5)
    values = [value for row in scores["torch"].values() for value in row]
    assert max(values) - min(values) > 0.1


def test_served_over_http_a_calibrated_score_comes_back_for_every_step(tiny_backbone, tmp_path, capsys, monkeypatch):
    checkpoint = make_checkpoint(tiny_backbone, tmp_path / "checkpoint", "asym")
    export(checkpoint, tmp_path / "served", "--parity", "False", "--temperature", "2")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    (program, verb, *arguments) = shlex.split(lines["serve"])
    assert (program, verb, arguments[0]) == ("vllm", "serve", str(tmp_path / "served"))
    model, encoder = load_model(checkpoint)
    with torch.no_grad():
        model.score[2].weight.div_(2)
        model.score[2].bias.div_(2)
    encoded = encoder.encode_batch(RESPONSES)
    expected = [score_batch(model, encoder, [response])[0] for response in encoded]
    with vllm_serve([*arguments, "--enforce-eager"], tmp_path) as address, httpx2.Client(trust_env=False, timeout=60) as client:
        answer = client.post(f"{address}/pooling", json={"input": [response.input_ids for response in encoded]})
        for item, ours in zip(answer.json()["data"], expected, strict=True):
            assert [row[0] for row in item["data"]] == pytest.approx(ours, abs=1e-5)
        # The request that the export printed, read as a shell would read it.
        body = json.loads(shlex.split(lines["request"])[-1])
        (item,) = client.post(f"{address}/pooling", json=body).json()["data"]
        saved = json.loads((tmp_path / "served" / "prm_config.json").read_text())["self_test"]["step_scores"]
        assert [row[0] for row in item["data"]] == pytest.approx(saved, abs=1e-5)
        assert client.post(f"{address}/pooling", json={"input": [5] * 2049}).status_code == 400
        # The README's code, as it stands there but for the places.
        *_, code = readme.PYTHON_BLOCKS
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        names = {}
        exec(code.replace("outputs/served", str(tmp_path / "served")).replace("http://localhost:8000", address), names)
        (item,) = names["answer"]["data"]
        (tokens,) = encoder.encode_batch(names["responses"])
        assert [row[0] for row in item["data"]] == pytest.approx(score_batch(model, encoder, [tokens])[0], abs=1e-5)
