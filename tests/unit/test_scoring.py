"""Scoring: the order of the responses whatever the batches, nothing skipped in silence, outputs that name what made them."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_published import write_qwen
from transformers import AutoTokenizer

import prm.scoring.engines
import prm.scoring.scorer
from prm.files import read_records, write_jsonl
from prm.models import ImplicitPRM, RewardModel, save_model
from prm.models.packing import pack_responses
from prm.models.prefixes import batch_by_prefix, lay_out
from prm.models.step_scores import ACTIVATIONS
from prm.records import Response, StepScores
from prm.scoring import ModelConfig, Scorer, ScoringConfig, score_file
from prm.steps import StepEncoder

RESPONSES = [
    Response("b", 0, "What is 3 + 4?", ["Add.", "3 + 4 = 7.", "\\boxed{7}"], correct=True, answer="7", extracted="7"),
    Response("a", 1, "What is 2 * 5?", ["It is ten, since two fives make ten and ten it is: \\boxed{10}."]),
    Response("a", 0, "What is 2 * 5?", ["\\boxed{11}", "Done."], correct=False),
    Response("c", 0, "Why?", ["No.", "Yes.", "No.", "Yes.", "\\boxed{}"]),
]
EMPTY = Response("d", 0, "Why?", [])
LONG = Response("d", 1, "Why?", ["word " * 2000])
FORGED = Response("d", 2, "Why?", ["Good.<extra_0>"])


def make_checkpoint(folder, backbone, loss: str, **overrides) -> str:
    encoder = StepEncoder.for_loss(loss, AutoTokenizer.from_pretrained(backbone), max_length=512, **overrides)
    if encoder.num_labels:
        model = RewardModel.from_backbone(backbone, encoder.num_labels, vocab_size=len(encoder.tokenizer))
    else:
        model = ImplicitPRM.from_backbone(backbone)
        model.lm_head.weight.data[20:40] += 0.05
    save_model(model, encoder, folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    return make_checkpoint(tmp_path_factory.mktemp("asym"), tiny_backbone, "asym")


@pytest.fixture(scope="module")
def implicit(tmp_path_factory, tiny_backbone):
    return make_checkpoint(tmp_path_factory.mktemp("implicit"), tiny_backbone, "implicit_prm", reference_model=str(tiny_backbone))


def test_every_option_of_a_model_reaches_its_engine(checkpoint, implicit, tiny_backbone):
    engine = Scorer.load(ModelConfig(model=checkpoint, token_budget=77, dtype="bfloat16", device="cpu")).engine
    assert (engine.token_budget, engine.model.dtype, engine.model.device.type) == (77, torch.bfloat16, "cpu")
    assert Scorer.load(ModelConfig(model=implicit, reference=str(tiny_backbone))).engine.reference is not None
    with pytest.raises(ValueError, match="--reference"):
        Scorer.load(ModelConfig(model=checkpoint, reference=str(tiny_backbone)))
    config = ModelConfig(model=checkpoint, device="cpu")
    assert Scorer.load(config, dtype="bfloat16").engine.model.dtype == torch.bfloat16, "options change a config"
    assert config.dtype == "auto"
    with pytest.raises(ValueError, match="'none-such' is unknown"):
        Scorer.load(ModelConfig(model=str(tiny_backbone), recipe="none-such"))


def test_activations_by_hand():
    two = torch.tensor([[0.0, 0.0], [0.0, torch.tensor(3.0).log()]])
    torch.testing.assert_close(ACTIVATIONS["softmax"](two, 1), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(ACTIVATIONS["sigmoid"](torch.tensor([[0.0]]), 0), torch.tensor([0.5]))
    assert ACTIVATIONS["identity"](torch.tensor([[-2.5]]), 0).tolist() == [-2.5]


@pytest.mark.parametrize("name", ["checkpoint", "implicit"])
def test_scores_do_not_depend_on_batches_or_order(name, request):
    scorer = Scorer.load(request.getfixturevalue(name))
    together = list(scorer.score(RESPONSES))
    assert [s.key for s in together] == [r.key for r in RESPONSES]
    assert [len(s.step_scores) for s in together] == [3, 1, 2, 5]
    assert (together[0].correct, together[0].answer, together[0].extracted) == (True, "7", "7")
    scorer.engine.token_budget = 1
    alone = list(scorer.score(RESPONSES[::-1]))[::-1]
    for one, other in zip(together, alone, strict=True):
        assert one.step_scores == pytest.approx(other.step_scores, abs=1e-5)


@pytest.mark.parametrize("name", ["checkpoint", "implicit"])
@pytest.mark.parametrize("token_budget", [100, 4096])
def test_shared_beginnings_change_no_score(name, token_budget, request):
    scorer = Scorer.load(request.getfixturevalue(name), token_budget=token_budget)
    samples = [[f"Step {i % 2}.", *["More."] * (i % 4), f"\\boxed{{{i}}}"] for i in range(20)]
    responses = [*RESPONSES, *(Response(f"q{i % 3}", i, f"Question {i % 3}?", steps) for i, steps in enumerate(samples))]
    encoded = scorer.encoder.encode_batch(responses)
    assert scorer.engine.share_prefixes
    shared_rows = scorer.engine.rows(encoded)
    shared, computed = scorer.engine.score_encoded(encoded), scorer.engine.computed_tokens
    if len(shared_rows) == 1:
        first_step = {response.key: scores[0] for response, scores in zip(responses, shared, strict=True)}
        assert first_step["q0", 0] == first_step["q0", 6] == first_step["q0", 12], "one question, one first step: read once"
    scorer.engine.share_prefixes = False
    assert len(scorer.engine.rows(encoded)) >= len(shared_rows)
    for one, other in zip(shared, scorer.engine.score_encoded(encoded), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert computed < scorer.engine.computed_tokens - computed == sum(len(tokens.input_ids) for tokens in encoded)


def test_the_speed_counts_what_is_computed(checkpoint):
    scorer = Scorer.load(checkpoint, token_budget=150)
    list(scorer.score([*RESPONSES, replace(RESPONSES[0], sample_index=9)]))
    encoded = scorer.encoder.encode_batch(RESPONSES)
    rows = batch_by_prefix(encoded, 150)
    assert 1 < len(rows) < 4
    computed = sum(lay_out([encoded[index] for index in row], False, True).num_tokens for row in rows)
    assert scorer.speed.computed_tokens == computed < sum(len(tokens.input_ids) for tokens in encoded)
    assert scorer.speed.tokens == sum(len(tokens.input_ids) for tokens in [*encoded, encoded[0]])


def test_no_sharing_where_a_kernel_takes_queries_for_the_first_tokens(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(prm.scoring.engines, "aligns_right", lambda device, dtype, window: False)
    assert not Scorer.load(checkpoint).engine.share_prefixes
    assert "every response is computed whole" in caplog.text


def test_copies_are_scored_once(checkpoint, monkeypatch):
    scored = []
    real = prm.scoring.engines.score_rows

    def record(model, encoder, rows, *rest):
        scored.extend(response for row in rows for response in row)
        return real(model, encoder, rows, *rest)

    monkeypatch.setattr(prm.scoring.engines, "score_rows", record)
    copies = [replace(RESPONSES[index % 4], sample_index=10 + index) for index in range(9)]
    # The same tokens with other step ends are another response.
    split = Response("c", 99, "Why?", ["No.", "Yes.", "No.", "Yes.", "\\boxed{}", "!"])
    scores = list(Scorer.load(checkpoint).score([*RESPONSES, *copies, split]))
    assert len(scored) == 5
    assert [s.key for s in scores] == [*(r.key for r in RESPONSES), *(r.key for r in copies), split.key]
    assert [s.step_scores for s in scores[4:13]] == [scores[index % 4].step_scores for index in range(9)]


class Constant:
    """An engine that knows nothing, and says it `count` times a step."""

    computed_tokens = 0

    def __init__(self, value: float, count: int = 1):
        self.value, self.count = value, count

    def score_encoded(self, encoded):
        return [[self.value] * len(tokens.step_ends) * self.count for tokens in encoded]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (Constant(float("nan")), r"b #0: step 0 got the score nan"),
        (Constant(float("inf")), r"b #0: step 0 got the score inf"),
        (Constant(0.5, count=2), r"b #0: the engine gave 6 scores for 3 steps"),
    ],
)
def test_what_an_engine_gets_wrong_names_the_response(checkpoint, engine, message):
    scorer = Scorer(engine, Scorer.load(checkpoint).encoder)
    with pytest.raises(ValueError, match=message):
        list(scorer.score(RESPONSES))


def test_engine_vllm_is_built_from_the_folder_the_contract_and_the_dtype(checkpoint, implicit, monkeypatch):
    class VLLMScoringEngine(Constant):
        def __init__(self, directory, encoder, dtype="auto", tensor_parallel_size=1):
            super().__init__(0.25)
            self.made_of = (directory, encoder.loss, dtype)
            self.max_length = 120

    monkeypatch.setattr(prm.scoring.scorer, "VLLMScoringEngine", VLLMScoringEngine)
    scorer = Scorer.load(checkpoint, dtype="bfloat16", engine="vllm")
    assert scorer.engine.made_of == (checkpoint, "asym", "bfloat16")
    assert next(scorer.score(RESPONSES)).step_scores == [0.25] * 3
    longer = Response("long", 0, "?", ["word " * 130])
    dropped = []
    assert list(scorer.score([longer], dropped)) == []
    assert [drop.reason for drop in dropped] == ["too_long"], "the served model has no positions for it"
    with pytest.raises(ValueError, match="--torch_compile is of --engine torch"):
        Scorer.load(checkpoint, engine="vllm", torch_compile=True)
    with pytest.raises(ValueError, match="is an implicit PRM, which has no pooling model; use --engine torch"):
        Scorer.load(implicit, engine="vllm")
    with pytest.raises(ValueError, match=f"--engine vllm: {re.escape(str(implicit))} is an implicit PRM"):
        Scorer.load(ModelConfig(model=str(implicit)), engine="vllm")
    for option in ({"device": "cpu"}, {"token_budget": 100}):
        with pytest.raises(ValueError, match=f"--{next(iter(option))} is of --engine torch"):
            Scorer.load(checkpoint, engine="vllm", **option)


def test_a_published_prm_is_exported_before_vllm_serves_it(tmp_path):
    write_qwen(tmp_path / "qwen")
    with pytest.raises(FileNotFoundError, match=r"no folder with a prm_config\.json; write one with scripts/export_vllm"):
        Scorer.load(tmp_path / "qwen", engine="vllm", recipe="qwen")


@pytest.mark.parametrize(("largest", "sizes"), [(9999, [2, 4, 8, 8, 3]), (5, [2, 4, 5, 5, 5, 4]), (0, [2] * 12 + [1])])
def test_windows_double_up_to_what_the_engine_takes(checkpoint, monkeypatch, largest, sizes):
    monkeypatch.setattr(prm.scoring.scorer, "WINDOWS", (2, 8))
    scorer = replace(Scorer.load(checkpoint), largest_window=largest)
    responses = [replace(RESPONSES[0], sample_index=index) for index in range(25)]
    assert [len(window) for window in scorer.score_windows(responses)] == sizes


def test_a_larger_model_takes_smaller_windows(checkpoint, monkeypatch):
    engine = Scorer.load(checkpoint).engine
    num_weights = sum(weight.numel() for weight in engine.model.parameters())
    monkeypatch.setitem(prm.scoring.engines.FLOPS_PER_WINDOW, "cpu", 2 * num_weights * 500 * 70)
    assert engine.largest_window == Scorer.load(checkpoint).largest_window == 70
    engine.reference = engine.model  # an implicit PRM's is as large
    assert engine.largest_window == 35


def test_windows_keep_the_order(checkpoint, monkeypatch):
    whole = list(Scorer.load(checkpoint).score(RESPONSES))
    monkeypatch.setattr(prm.scoring.scorer, "WINDOWS", (3, 3))
    for one, other in zip(Scorer.load(checkpoint).score(iter(RESPONSES)), whole, strict=True):
        assert one.key == other.key
        assert one.step_scores == pytest.approx(other.step_scores, abs=1e-5)


def test_discriminative_scores_are_the_sigmoid_of_the_logits(checkpoint):
    scorer = Scorer.load(checkpoint)
    encoded = scorer.encoder.encode_batch(RESPONSES[:1])[0]
    with torch.no_grad():
        logits = scorer.engine.model(**scorer.engine.model.inputs(pack_responses([encoded])))
    assert next(scorer.score(RESPONSES[:1])).step_scores == pytest.approx(logits[:, 0].sigmoid().tolist(), abs=1e-6)


def test_implicit_scores_are_taken_against_the_reference(implicit, tiny_backbone):
    scorer = Scorer.load(implicit)
    assert scorer.engine.reference is not None
    with_reference = next(scorer.score(RESPONSES))
    assert all(abs(score) < 1 for score in with_reference.step_scores)
    scorer.engine.model = scorer.engine.reference
    assert next(scorer.score(RESPONSES)).step_scores == [0.0, 0.0, 0.0]


def test_what_cannot_be_scored_is_listed_and_named(checkpoint, caplog):
    dropped = []
    mixed = [EMPTY, RESPONSES[0], LONG, RESPONSES[1], FORGED]
    scored = list(Scorer.load(checkpoint).score(mixed, dropped))
    assert [s.key for s in scored] == [("b", 0), ("a", 1)]
    assert {((drop.question_id, drop.sample_index), drop.reason) for drop in dropped} == {
        (EMPTY.key, "no_steps"),
        (LONG.key, "too_long"),
        (FORGED.key, "unreadable"),
    }
    assert all(drop.detail in caplog.text for drop in dropped)
    for text in ("d #0 is empty", "d #1 has", "max_length is 512", "<extra_0>"):
        assert text in caplog.text


def test_a_blank_step_takes_its_neighbours_score(checkpoint):
    scorer = Scorer.load(checkpoint)
    (plain,) = scorer.score([Response("q", 0, "Why?", ["No.", "Yes."])])
    (spread,) = scorer.score([Response("q", 0, "Why?", ["", " ", "No.", "\n", "Yes.", ""])])
    first, last = plain.step_scores
    assert spread.step_scores == pytest.approx([first, first, first, first, last, last], abs=1e-6)
    with pytest.raises(ValueError, match="no steps"):
        list(scorer.score([Response("q", 0, "Why?", [" "])]))


@pytest.mark.parametrize(("response", "message"), [(EMPTY, "no steps"), (LONG, "max_length is 512"), (FORGED, "separator")])
def test_without_a_counter_what_cannot_be_scored_raises(checkpoint, response, message):
    with pytest.raises(ValueError, match=message):
        list(Scorer.load(checkpoint).score([RESPONSES[0], response]))


def test_reference_errors(checkpoint, implicit, tiny_backbone, tmp_path):
    assert ModelConfig(model=checkpoint).reference_model is None
    assert ModelConfig(model=implicit).reference_model == str(tiny_backbone)
    with pytest.raises(ValueError, match=r"is no implicit PRM \(asym\)"):
        _ = ModelConfig(model=checkpoint, reference="somewhere").reference_model
    for gone in (str(tmp_path / "gone"), "./gone", "outputs/run/gone"):
        with pytest.raises(FileNotFoundError, match="give its new place with --reference"):
            _ = ModelConfig(model=implicit, reference=gone).reference_model
    assert ModelConfig(model=implicit, reference="Qwen/Qwen2.5-Math-1.5B").reference_model == "Qwen/Qwen2.5-Math-1.5B"
    nameless = make_checkpoint(tmp_path / "nameless", tiny_backbone, "implicit_prm")
    with pytest.raises(ValueError, match="names no reference model"):
        _ = ModelConfig(model=str(nameless)).reference_model


@pytest.fixture
def config(checkpoint, tmp_path) -> ScoringConfig:
    write_jsonl(tmp_path / "in.jsonl", [*RESPONSES, EMPTY])
    return ScoringConfig(checkpoint, str(tmp_path / "in.jsonl"), str(tmp_path / "out" / "scores.jsonl"), device="cpu")


def test_file_in_scores_out_with_counts(config, tmp_path):
    assert score_file(config) == {"responses": 5, "scored": 4, "no_steps": 1}
    scored = list(read_records(config.output, StepScores))
    assert [s.key for s in scored] == [r.key for r in RESPONSES]
    manifest = json.loads((tmp_path / "out" / "scores.manifest.json").read_text())
    assert manifest["counts"] == {"responses": 5, "scored": 4, "no_steps": 1}


def test_an_interrupted_run_continues_and_redoes_nothing(config, monkeypatch):
    expected = ScoringConfig(config.model, config.input, config.output + "-whole.jsonl", device="cpu")
    score_file(expected)
    monkeypatch.setattr(prm.scoring.scorer, "WINDOWS", (1, 1))
    monkeypatch.setattr(prm.metrics.degenerate, "MIN_STEPS", 1)
    original, scored = Scorer.score_windows, []

    def interrupted(*args):
        for number, window in enumerate(original(*args)):
            if number == 2:
                raise KeyboardInterrupt
            yield window

    monkeypatch.setattr(Scorer, "score_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_file(config)

    def recorded(self, responses, *rest):
        responses = list(responses)
        scored.extend(r.key for r in responses)
        return original(self, responses, *rest)

    monkeypatch.setattr(Scorer, "score_windows", recorded)
    assert score_file(config) == {"responses": 5, "scored": 4, "no_steps": 1}
    assert len(scored) == 3  # two of the five were there already
    for one, other in zip(*(read_records(c.output, StepScores) for c in (config, expected)), strict=True):
        assert one.key == other.key
        assert one.step_scores == pytest.approx(other.step_scores, abs=1e-5)


def test_scores_of_another_model_are_not_taken_for_this_one(config, tiny_backbone, tmp_path):
    score_file(config)
    other = make_checkpoint(tmp_path / "other", tiny_backbone, "step_ce")
    with pytest.raises(ValueError, match=r"is of a run with model"):
        score_file(replace(config, model=other))
    with pytest.raises(ValueError, match="is of a run with max_step_length"):
        score_file(replace(config, max_step_length=100))


def test_steps_are_merged_as_for_training(config):
    score_file(replace(config, max_step_length=500))
    assert {len(s.step_scores) for s in read_records(config.output, StepScores)} == {1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_budget": 0}, "--token_budget 0"),
        ({"max_step_length": -3}, "--max_step_length -3"),
        ({"num_processes": 0}, "--num_processes 0"),
        ({"device": "tpu"}, "--device 'tpu' is unknown"),
        ({"device": ""}, "--device '' is unknown"),
        ({"device": "cuda:7"}, "--device cuda:7: PyTorch sees 0 CUDA devices"),
        ({"output": "scores.parquet"}, r"the output is a folder or a \.jsonl file"),
        ({"output": ""}, "--output is empty"),
    ],
)
def test_options_that_cannot_be_are_refused_before_a_model_loads(config, monkeypatch, change, message):
    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        score_file(replace(config, **change))


def change_json(weights, name, **changes):
    path = weights.with_name(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"a \.safetensors file is damaged or cut off .*; copy"),
        (lambda path: path.write_bytes(b""), r"a \.safetensors file is damaged or cut off .*; copy"),
        (lambda path: path.unlink(), r"holds no weights, that is, no \.safetensors file; copy"),
        (
            lambda path: change_json(path, "prm_config.json", self_test={}),
            r"prm_config\.json holds the self-test {}; restore",
        ),
        (
            lambda path: change_json(path, "config.json", hidden_size=64),
            "the weights have other shapes than",
        ),
        (lambda path: change_json(path, "config.json", model_type="foo"), "its config.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_stays(config, tmp_path, damage, message):
    model = shutil.copytree(config.model, tmp_path / "damaged")
    damage(model / "model.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=f"{model}: {message}"):
        score_file(replace(config, model=str(model), output=str(tmp_path / "new" / "scores.jsonl")))
    assert not list((tmp_path / "new").iterdir())


def test_bad_files_fail_before_a_model_loads(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="no responses to score"):
        score_file(replace(config, input=str(tmp_path / "empty.jsonl")))
    (tmp_path / "bad.jsonl").write_text('{"question_id": "a"\n')
    with pytest.raises(ValueError, match=r"bad.jsonl:1: not valid JSON"):
        score_file(replace(config, input=str(tmp_path / "bad.jsonl")))
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        score_file(replace(config, model=str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()
