"""Scores that an evaluation keeps: never scored twice, never another run's, and a break leaves no trace in them."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from test_scoring import EMPTY, FORGED, LONG, RESPONSES, make_checkpoint

import prm.metrics.degenerate
import prm.scoring.scorer
from prm.files import read_rows
from prm.records import Response
from prm.scoring import ModelConfig, Scorer, score_kept
from prm.scoring.identity import hash_responses
from prm.steps import StepEncoder

MANY = [Response(f"q{i}", 0, "How many?", [f"There are {i}.", f"And {i} more."]) for i in range(20)]
UNREADABLE = [replace(FORGED, question_id="forged"), EMPTY, LONG]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    return make_checkpoint(tmp_path_factory.mktemp("asym"), tiny_backbone, "asym")


@pytest.fixture
def config(checkpoint) -> ModelConfig:
    return ModelConfig(model=checkpoint, device="cpu")


@pytest.fixture
def no_model(monkeypatch):
    return lambda: monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))


class FakeEngine:
    """Scores by the number of the response that is scored, and remembers what it was given together."""

    def __init__(self, score_of=lambda number: 0.1 + 0.04 * (number % 20), break_at: int | None = None):
        self.score_of, self.break_at = score_of, break_at
        self.windows: list[list[tuple[int, ...]]] = []
        self.number = self.computed_tokens = 0

    def score_encoded(self, encoded):
        if len(self.windows) == self.break_at:
            raise KeyboardInterrupt
        self.windows.append([tuple(tokens.input_ids) for tokens in encoded])
        self.number += len(encoded)
        numbers = range(self.number - len(encoded), self.number)
        return [[self.score_of(number)] * len(tokens.step_ends) for number, tokens in zip(numbers, encoded, strict=True)]


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(prm.scoring.scorer, "WINDOWS", (2, 8))
    monkeypatch.setattr(prm.metrics.degenerate, "MIN_STEPS", 4)


@pytest.fixture
def score(config, checkpoint, tmp_path):
    """Score with a fake engine; `start` is the number of the first response that it scores."""
    encoder = StepEncoder.load(checkpoint)

    def run(name, engine, responses=MANY, start=0):
        engine.number = start
        return score_kept(config, responses, tmp_path / name, load=lambda: Scorer(engine, encoder, "fake"))

    return run


def interrupted(score, name, engine, **options):
    with pytest.raises(KeyboardInterrupt):
        score(name, engine, **options)


def test_what_is_scored_needs_no_model_and_keeps_its_counts(config, tmp_path, no_model):
    responses = [*RESPONSES, *UNREADABLE]
    first, dropped = score_kept(config, responses, tmp_path)
    assert [scores.key for scores in first] == [response.key for response in RESPONSES]
    assert dropped == Counter(no_steps=1, too_long=1, unreadable=1)
    no_model()
    assert score_kept(config, responses, tmp_path) == (first, dropped)
    graded = [replace(response, correct=True, answer="new") for response in responses]
    again, _ = score_kept(config, graded, tmp_path)
    assert [scores.step_scores for scores in again] == [scores.step_scores for scores in first]
    assert {(scores.correct, scores.answer) for scores in again} == {(True, "new")}, "an outcome is not kept with the scores"


def test_nothing_but_unreadable_responses(config, tmp_path, no_model):
    assert score_kept(config, [EMPTY], tmp_path) == ([], Counter(no_steps=1))
    no_model()
    assert score_kept(config, [EMPTY], tmp_path) == ([], Counter(no_steps=1))


def drops(folder):
    rows = [row for row, _ in read_rows(folder / "scores" / "dropped")]
    return {(row["question_id"], row["sample_index"]): (row["reason"], row["detail"]) for row in rows}


def test_what_cannot_be_scored_is_kept_with_the_reason(config, tmp_path):
    score_kept(config, [*RESPONSES, *UNREADABLE], tmp_path)
    kept = drops(tmp_path)
    assert {key: reason for key, (reason, _) in kept.items()} == dict(
        zip((response.key for response in UNREADABLE), ("unreadable", "no_steps", "too_long"), strict=True)
    )
    for response, text in zip(UNREADABLE, ("<extra_0>", "is empty", "max_length is 512"), strict=True):
        assert response.name in kept[response.key][1]
        assert text in kept[response.key][1]
    score_kept(config, RESPONSES, tmp_path / "readable")
    assert not (tmp_path / "readable" / "scores" / "dropped").exists()


@pytest.mark.parametrize("break_at", [1, 2, 3])
def test_what_was_dropped_before_a_break_is_not_tried_again(score, tmp_path, small_windows, monkeypatch, break_at):
    responses = [EMPTY, *MANY[:5], LONG, *MANY[5:], UNREADABLE[0]]
    whole = score("whole", FakeEngine(), responses)
    interrupted(score, "broken", FakeEngine(break_at=break_at), responses=responses)
    tried, encode = [], prm.scoring.scorer.encode_each
    monkeypatch.setattr(prm.scoring.scorer, "encode_each", lambda e, given, d: tried.extend(given) or encode(e, given, d))
    before = drops(tmp_path / "broken")
    kept = sum(1 for file in (tmp_path / "broken" / "scores").glob("*.jsonl") for _ in read_rows(file))
    assert score("broken", FakeEngine(), responses, start=kept) == whole
    assert before
    assert not before.keys() & {response.key for response in tried}
    assert drops(tmp_path / "broken") == drops(tmp_path / "whole")


def test_drops_alone_are_another_runs(config, tmp_path):
    score_kept(config, [EMPTY], tmp_path)
    (tmp_path / "scores" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"scores holds \.jsonl rows but no manifest\.json; .*, or remove"):
        score_kept(config, [EMPTY], tmp_path)


def test_scores_of_another_run_are_refused(config, tmp_path, tiny_backbone, no_model):
    score_kept(config, RESPONSES, tmp_path / "out")
    no_model()
    other = make_checkpoint(tmp_path / "other", tiny_backbone, "step_ce")
    remedy = rf"name another --output_dir, or remove {tmp_path}/out/scores"
    with pytest.raises(ValueError, match=rf"--output_dir {tmp_path}/out: .*manifest.json is of a run with model .*; {remedy}"):
        score_kept(replace(config, model=other), RESPONSES, tmp_path / "out")
    with pytest.raises(ValueError, match="is of a run with dtype 'auto', this one has 'bfloat16'"):
        score_kept(replace(config, dtype="bfloat16"), RESPONSES, tmp_path / "out")
    for changed in (replace(RESPONSES[0], steps=["Add.", "\\boxed{7}"]), replace(RESPONSES[0], question="What is 3 + 5?")):
        with pytest.raises(ValueError, match="is of a run with responses"):
            score_kept(config, [changed, *RESPONSES[1:]], tmp_path / "out")
    (tmp_path / "out" / "scores" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"out/scores holds \.jsonl rows but no manifest\.json"):
        score_kept(config, RESPONSES, tmp_path / "out")


def test_the_hash_tells_borders_apart():
    one, two = Response("a", 0, "?", ["b", "c"]), Response("a", 0, "?", ["b c"])
    assert len({hash_responses(given) for given in ([one], [two], [one, two], [two, one], [])}) == 5
    assert hash_responses([one]) == hash_responses([replace(one, correct=True, step_labels=[1, 1])])


@pytest.mark.parametrize("break_at", [0, 1, 2, 3])
def test_a_run_that_goes_on_packs_as_an_unbroken_one(score, tmp_path, small_windows, break_at):
    responses = [EMPTY, *MANY[:5], *UNREADABLE[::2], *MANY[5:]]
    whole, first, second = FakeEngine(), FakeEngine(break_at=break_at), FakeEngine()
    expected = score("whole", whole, responses)
    assert [len(window) for window in whole.windows] == [2, 4, 8, 6]
    interrupted(score, "broken", first, responses=responses)
    kept = sum(1 for file in (tmp_path / "broken" / "scores").glob("*.jsonl") for _ in read_rows(file))
    assert score("broken", second, responses, start=kept) == expected
    assert [*first.windows, *second.windows] == whole.windows
    files = {name: [f.read_bytes() for f in sorted((tmp_path / name / "scores").glob("*.jsonl"))] for name in ("whole", "broken")}
    assert files["whole"] == files["broken"]


def test_a_deleted_shard_is_scored_again(score, tmp_path, small_windows):
    expected = score("out", FakeEngine())
    (tmp_path / "out" / "scores" / "part-00003.jsonl").unlink()
    engine = FakeEngine()
    assert score("out", engine, start=14) == expected
    assert sum(map(len, engine.windows)) == 6


def test_a_constant_at_the_end_is_judged_with_what_stood_before(score, small_windows):
    """The detector of the second half alone would call it a constant."""
    engines = [FakeEngine(lambda n: 0.1 * n if 0 < n < 6 else 0.5, break_at=b) for b in (None, 2, None)]
    expected = score("whole", engines[0])
    interrupted(score, "broken", engines[1])
    assert score("broken", engines[2], start=6) == expected


def test_a_constant_stops_a_run_that_goes_on_where_it_stops_an_unbroken_one(score, tmp_path, small_windows):
    almost = lambda number: 0.51 if number == 0 else 0.5  # noqa: E731
    errors = []
    with pytest.raises(ValueError, match="this is a constant") as error:
        score("whole", FakeEngine(almost))
    errors.append(str(error.value))
    assert len(list((tmp_path / "whole" / "scores").glob("*.jsonl"))) == 3
    interrupted(score, "broken", FakeEngine(almost, break_at=2))
    for _ in range(2):
        with pytest.raises(ValueError, match="this is a constant") as error:
            score("broken", FakeEngine(almost), start=6)
        errors.append(str(error.value))
    assert len(set(errors)) == 1


def test_a_constant_from_the_start_leaves_nothing_to_refuse(score, config, tmp_path, small_windows):
    with pytest.raises(ValueError, match="this is a constant"):
        score("out", FakeEngine(lambda number: 0.5))
    assert not (tmp_path / "out" / "scores").exists()
    assert len(score_kept(replace(config, dtype="float32"), MANY, tmp_path / "out")[0]) == 20


def test_a_constant_is_kept_where_it_is_allowed(config, checkpoint, tmp_path, small_windows):
    scorer = Scorer(FakeEngine(lambda number: 0.5), StepEncoder.load(checkpoint), "fake", allow_constant=True)
    scores, _ = score_kept(config, MANY, tmp_path, load=lambda: scorer)
    assert {score for row in scores for score in row.step_scores} == {0.5}
    assert [Scorer.load(config, allow_constant=allowed).allow_constant for allowed in (True, False)] == [True, False]


def test_a_scorer_that_serves_several_places_tells_the_speed_of_each(config, tmp_path):
    scorer = Scorer.load(config)
    for name, responses in (("a", RESPONSES), ("b", RESPONSES[:1])):
        score_kept(config, responses, tmp_path, name, lambda: scorer)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["speed"]["responses"] == manifest["counts"]["scored"] == len(responses)
