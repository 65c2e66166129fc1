"""Monte-Carlo labels with an engine that answers by rule: what is asked, shared, counted, dropped, refused and resumed."""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from fake_server import FakeServer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prm.annotation import monte_carlo
from prm.annotation.monte_carlo import MonteCarloConfig, label_by_completions, longest_response
from prm.annotation.prefixes import Tracer, cut_prefixes, in_chunks
from prm.files import read_records, read_rows, write_jsonl
from prm.grading import GradingPool
from prm.records import Response
from prm.sampling.base import EngineError, SampleResult
from prm.steps import StepEncoder, load_tokenizer

GOOD, BAD, LAST = "Step {}: fine.", "Step {}: slip.", "So \\boxed{{{}}}."


def response(question: str, index: int, error: int | None, num_steps: int = 4, **changes) -> Response:
    """A response to a question with answer 7 whose steps from `error` on are bad."""
    is_right = error is None
    steps = [(GOOD if is_right or i < error else BAD).format(i) for i in range(num_steps - 1)]
    steps.append(LAST.format(7 if is_right else 6))
    return dataclasses.replace(Response(question, index, f"Question {question}?", steps, is_right, answer="7"), **changes)


class FakeEngine:
    """Completes a prefix without a slip rightly with probability `success`, drawn from the request's seed, any other wrongly."""

    def __init__(self, model: Path, success: float = 1.0, dies_after: int | None = None):
        self.tokenizer, self.success, self.dies_after = load_tokenizer(model), success, dies_after
        self.calls: list[list[str]] = []
        self.seeds: list[int] = []

    def generate(self, requests, sampling):
        self.calls.append([self.tokenizer.decode(r.prompt_token_ids).split("assistant\n")[1] for r in requests])
        for request, text in sorted(zip(requests, self.calls[-1], strict=True), key=lambda pair: pair[0].seed):
            if self.dies_after is not None and len(self.seeds) >= self.dies_after:
                raise EngineError("power cut")
            self.seeds.append(request.seed)
            is_right = "slip" not in text and random.Random(request.seed).random() < self.success
            yield SampleResult(request.key, f"\\boxed{{{7 if is_right else 6}}}", "stop", 5)

    @property
    def asked(self) -> Counter:
        """How often each prefix was completed, by its number of steps and the number of slips in it."""
        return Counter((text.count("Step"), text.count("slip")) for call in self.calls for text in call)

    def close(self) -> None:
        pass


@pytest.fixture
def run(tiny_backbone, tmp_path, monkeypatch):
    """Label responses with a fake engine; returns (labelled rows by key, counts, engine)."""

    def run(responses: list, name: str = "out.jsonl", engine: FakeEngine | None = None, **settings):
        write_jsonl(tmp_path / "in.jsonl", responses)
        engine = engine or FakeEngine(tiny_backbone)
        monkeypatch.setattr(monte_carlo, "make_engine", lambda config: engine)
        paths = {"input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / name), "model": str(tiny_backbone)}
        settings = {"engine": "transformers", "num_completions": 4, "num_workers": 1, **settings}
        counts = label_by_completions(MonteCarloConfig(**paths, **settings))
        return {r.key: r for r in read_records(tmp_path / name, Response)}, counts, engine

    return run


class TestLabels:
    def test_soft_hard_and_counts_by_hand(self, run):
        rows, counts, engine = run([response("q", 0, error=2)])
        labelled = rows["q", 0]
        assert labelled.completions == [[4, 4], [4, 4], [0, 4], [0, 1]]
        assert labelled.step_labels == [1.0, 1.0, 0.0, 0.0]
        assert labelled.label_source == "monte_carlo"
        assert engine.asked == {(1, 0): 4, (2, 0): 4, (3, 1): 4}
        assert counts["num_label_tokens"] == 5 * 12
        rows, _, _ = run([response("q", 0, error=2)], "hard.jsonl", labels="hard")
        assert rows["q", 0].step_labels == [1.0, 1.0, -1.0, -1.0]

    def test_the_outcome_labels_the_last_step_without_sampling(self, run):
        rows, _, engine = run([response("q", 0, error=None, num_steps=1), response("q", 1, error=0, num_steps=1)])
        assert [r.completions for r in rows.values()] == [[[1, 1]], [[0, 1]]]
        assert engine.calls == []

    def test_an_unknown_outcome_is_graded(self, run):
        ungraded = [response("q", i, error, correct=None) for i, error in enumerate([None, 2])]
        rows, _, _ = run(ungraded)
        assert [(r.correct, r.extracted, r.step_labels[-1]) for r in rows.values()] == [(True, "7", 1.0), (False, "6", 0.0)]

    def test_a_threshold_above_zero(self, run, tiny_backbone):
        engine = FakeEngine(tiny_backbone, success=0.4)
        rows, _, _ = run([response("q", 0, None, 8)], engine=engine, labels="hard", threshold=0.5, num_completions=16)
        row = rows["q", 0]
        assert row.step_labels == [1.0 if k / n > 0.5 else -1.0 for k, n in row.completions]
        assert any(0 < k / n <= 0.5 for k, n in row.completions)

    def test_completions_without_an_answer_are_not_right_and_counted(self, run, tiny_backbone):
        class Silent(FakeEngine):
            def generate(self, requests, sampling):
                yield from (SampleResult(request.key, "hm", "length", 3) for request in requests)

        rows, counts, _ = run([response("q", 0, None)], engine=Silent(tiny_backbone))
        assert rows["q", 0].completions == [[0, 4]] * 3 + [[1, 1]]
        assert counts["num_unanswered_completions"] == counts["num_truncated_completions"] == 12

    def test_the_answer_is_the_last_box_of_steps_and_completion_together(self, run, tiny_backbone):
        class Opened(FakeEngine):
            def generate(self, requests, sampling):
                yield from (SampleResult(request.key, "7}.", "stop", 3) for request in requests)

        steps = ["It is \\boxed{1}.", "No, \\boxed{", "7}."]
        rows, _, _ = run([response("q", 0, None, steps=steps)], engine=Opened(tiny_backbone))
        assert rows["q", 0].completions == [[0, 4], [4, 4], [1, 1]]


class TestSharing:
    def test_equal_beginnings_of_one_question_are_completed_once(self, run):
        responses = [response("q", 0, None), response("q", 1, 2), response("q", 2, 2), response("other", 0, None)]
        rows, counts, engine = run(responses)
        assert engine.asked == {(1, 0): 8, (2, 0): 8, (3, 0): 8, (3, 1): 4}
        assert rows["q", 1].completions == rows["q", 2].completions == [[4, 4], [4, 4], [0, 4], [0, 1]]
        assert counts["num_completed_prefixes"] == 7
        assert counts["num_completions"] == 28

    def test_prefixes_of_a_response_follow_each_other(self, run):
        _, _, engine = run([response("q", 0, None), response("other", 0, None)])
        (call,) = engine.calls
        assert [text.count("Step") for text in call] == [1] * 4 + [2] * 4 + [3] * 4 + [1] * 4 + [2] * 4 + [3] * 4

    def test_chunks_end_with_a_question(self):
        responses = [response(question, i, None) for question in "aabbbc" for i in (0,)]
        traces = [monte_carlo.Trace(r, []) for r in responses]
        assert [[t.response.question_id for t in chunk] for chunk in in_chunks(iter(traces), 3)] == [[*"aabbb"], ["c"]]

    @pytest.mark.parametrize("settings", [{}, {"adaptive": True, "num_completions": 32}])
    def test_a_label_depends_on_nothing_around_it(self, run, tiny_backbone, settings):
        responses = [response(question, i, error) for question in "abc" for i, error in enumerate([None, 1, 3])]
        first, _, engine = run(responses, engine=FakeEngine(tiny_backbone, 0.6), **settings)
        assert len(set(engine.seeds)) == len(engine.seeds)
        others = run(responses[::-1], "b", engine=FakeEngine(tiny_backbone, 0.6), chunk_size=1, **settings)[0]
        assert first == others
        assert len({tuple(map(tuple, r.completions)) for r in first.values()}) > 3
        other_seed, _, _ = run(responses, "c", engine=FakeEngine(tiny_backbone, 0.6), seed=1, **settings)
        assert other_seed != first


class TestScheduling:
    def test_bisection_asks_the_logarithm(self, run):
        rows, counts, engine = run([response("q", 0, 5, num_steps=16)], labels="hard", search="binary")
        row = rows["q", 0]
        assert row.step_labels == [1.0] * 5 + [-1.0] * 11
        assert [text.count("Step") - 1 for call in engine.calls for text in call[:1]] == [7, 3, 5, 4]
        assert counts["num_completed_prefixes"] == 4
        assert [i for i, pair in enumerate(row.completions) if pair != [0, 0]] == [3, 4, 5, 7, 15]

    def test_bisection_believes_a_right_outcome(self, run):
        rows, _, engine = run([response("q", 0, None, num_steps=16)], labels="hard", search="binary")
        assert rows["q", 0].step_labels == [1.0] * 16
        assert engine.calls == []

    def test_adaptive_hard_labels_stop_at_the_first_success(self, run):
        _, _, engine = run([response("q", 0, 2)], labels="hard", adaptive=True, min_completions=2, num_completions=16)
        assert engine.asked == {(1, 0): 2, (2, 0): 2, (3, 1): 16}

    def test_adaptive_soft_labels_stop_at_the_width(self, run):
        # 16 in 16 and 0 in 16 have intervals 0.194 wide; 8 in 8 0.324.
        settings = {"adaptive": True, "min_completions": 2, "num_completions": 64, "half_width": 0.1}
        _, counts, engine = run([response("q", 0, 2)], **settings)
        assert engine.asked == {(1, 0): 16, (2, 0): 16, (3, 1): 16}
        assert len(engine.calls) == 4
        assert counts["num_completions"] == 48

    def test_adaptive_never_exceeds_the_most(self, run, tiny_backbone):
        settings = {"adaptive": True, "min_completions": 4, "num_completions": 10, "half_width": 0.01}
        rows, _, _ = run([response("q", 0, None)], engine=FakeEngine(tiny_backbone, 0.5), **settings)
        assert [n for _, n in rows["q", 0].completions] == [10, 10, 10, 1]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen2.5's way: a sign takes the line breaks behind it, so that `.\\n\\n` is one token."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
    split = pre_tokenizers.Split(pieces, "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["fine.\n\nfine.\n\n\nfine.\n\n"] * 9
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return fast


class TestPrefixes:
    @pytest.mark.parametrize("text", ["A fine.\n\nB fine.\n\nC", "A fine.\n\n\nB: 7\n\n 8.\n\nC", "é.\n\n\n\n语.\n\nC"])
    def test_a_prefix_is_cut_out_of_the_tokens_of_the_whole(self, text):
        tokenizer = merging_tokenizer()
        encoder = StepEncoder(tokenizer=tokenizer, layout="plain")
        steps = [part for part in text.split("\n\n") if part.strip()]
        whole = encoder.encode("?", steps, "r")
        prefixes = list(cut_prefixes(Response("r", 0, "?", steps), "7", whole))
        assert len(prefixes) == len(steps) - 1
        for index, prefix in enumerate(prefixes):
            assert prefix.token_ids == whole.input_ids[: len(prefix.token_ids)]
            written = tokenizer.decode(prefix.token_ids[whole.response_start :])
            assert written.rstrip("\n") == "\n\n".join(steps[: index + 1])
            assert written.endswith("\n\n")

    def test_the_blank_line_is_the_policys_own_token(self):
        tokenizer = merging_tokenizer()
        encoder = StepEncoder(tokenizer=tokenizer, layout="plain")
        steps = ["A fine.", "B fine."]
        (prefix,) = cut_prefixes(Response("r", 0, "?", steps), "7", encoder.encode("?", steps, "r"))
        assert tokenizer.convert_ids_to_tokens(prefix.token_ids)[-1] == ".ĊĊ"

    def test_a_tokenizer_of_another_model(self, tiny_tokenizer):
        with GradingPool(1) as pool:
            tracer = Tracer(StepEncoder(tokenizer=tiny_tokenizer, layout="plain"), pool, vocab_size=5)
            with pytest.raises(ValueError, match=r"q #0: it holds token \d+, the model knows 5; give the folder"):
                tracer.trace(response("q", 0, None))


def test_drops_are_counted_by_reason_and_kept(run, tmp_path):
    dropped = {
        "no_steps": response("a", 0, None, steps=[]),
        "no_reference_answer": response("b", 0, None, answer=None),
        "unreadable_reference_answer": response("c", 0, None, answer="\\text{}"),
        "no_outcome": response("d", 0, None, correct=None, steps=["No box.", "At all."]),
        "too_long": response("e", 0, None, steps=["long " * 2000, "\\boxed{7}"]),
        "unencodable_text": response("f", 0, None, steps=["a <|im_end|> b", "\\boxed{7}"]),
    }
    rows, counts, _ = run([*dropped.values(), response("q", 0, None)])
    assert list(rows) == [("q", 0)]
    assert {name: value for name, value in counts.items() if name.startswith("dropped_")} == {
        f"dropped_{name}": 1 for name in dropped
    }
    assert counts["dropped"] == 6
    kept = {row["question_id"]: row["reason"] for row, _ in read_rows(tmp_path / "out.dropped.jsonl")}
    assert kept == {r.question_id: reason for reason, r in dropped.items()}
    assert json.loads((tmp_path / "out.manifest.json").read_text())["counts"] == counts


class TestResume:
    RESPONSES = tuple(response(f"q{i}", j, error) for i in range(6) for j, error in enumerate([None, 1, 2]))

    @pytest.mark.parametrize("name", ["out", "out.jsonl"])
    def test_interrupted_and_resumed_equals_uninterrupted(self, run, tiny_backbone, tmp_path, name):
        settings = {"chunk_size": 4, "adaptive": True, "num_completions": 16}
        for dies_after in (60, 200):
            engine = FakeEngine(tiny_backbone, 0.7, dies_after)
            with pytest.raises(EngineError, match="power cut"):
                run(list(self.RESPONSES), name, engine=engine, **settings)
        _, counts, engine = run(list(self.RESPONSES), name, engine=FakeEngine(tiny_backbone, 0.7), **settings)
        _, whole, every = run(list(self.RESPONSES), f"whole-{name}", engine=FakeEngine(tiny_backbone, 0.7), **settings)
        assert 0 < len(engine.seeds) < len(every.seeds)
        assert counts == whole
        assert contents(tmp_path / name) == contents(tmp_path / f"whole-{name}")
        if name == "out":
            # A chunk, two questions here, is on the disk whole or not at all.
            assert [text.count("\n") for _, text in sorted(contents(tmp_path / name).items())] == [6, 6, 6]

    def test_a_finished_run_starts_no_engine(self, run, monkeypatch):
        first, counts, _ = run(list(self.RESPONSES))
        again, same, engine = run(list(self.RESPONSES))
        assert (again, same, engine.calls) == (first, counts, [])

    def test_another_run_in_the_output(self, run):
        run(list(self.RESPONSES))
        with pytest.raises(ValueError, match="is of a run with labels 'soft', this one has 'hard'"):
            run(list(self.RESPONSES), labels="hard")
        with pytest.raises(ValueError, match="is of a run with rule"):
            run(list(self.RESPONSES), num_completions=8)


def contents(output: Path) -> dict[str, str]:
    files = [output] if output.is_file() else output.rglob("*.jsonl")
    return {file.name.replace("whole-", ""): file.read_text() for file in files}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_completions": 0}, "--num_completions is 0"),
        ({"chunk_size": 0}, "--chunk_size is 0"),
        ({"num_workers": 0}, "--num_workers is 0"),
        ({"temperature": 0.0}, "--temperature 0 would give 4 equal completions"),
        ({"search": "binary"}, "--search binary finds one place and no value of every step; add --labels hard"),
        ({"threshold": 1.0}, "--threshold is 1.0"),
        ({"threshold": 0.1}, "--threshold 0.1 changes no soft label"),
        ({"adaptive": True, "min_completions": 5}, "--min_completions 5 exceeds --num_completions 4"),
        ({"adaptive": True, "half_width": 0.0}, "--half_width is 0.0"),
        ({"adaptive": True, "confidence": 1.0}, "--confidence is 1.0"),
        ({"max_model_len": 9999}, "has 2048 positions"),
        ({"max_tokens": 0}, "--max_tokens is 0"),
    ],
)
def test_settings_that_cannot_work(run, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run([response("q", 0, None)], **settings)
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_a_server_needs_room_for_the_completion():
    config = MonteCarloConfig(max_tokens=100)
    assert longest_response(config, 150) == 150
    config.engine = "server"
    assert longest_response(config, 150) == 50
    with pytest.raises(ValueError, match="--max_tokens 100 leaves a server no room for a prompt within 100 tokens; lower it"):
        longest_response(config, 100)


def test_a_server_goes_on_behind_token_ids(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_jsonl(tmp_path / "in.jsonl", [response("q", 0, 2)])
    tokenizer = load_tokenizer(tiny_backbone)

    def answer(body: dict) -> str:
        return "\\boxed{6}" if "slip" in tokenizer.decode(body["prompt"]) else "\\boxed{7}"

    with FakeServer(answer) as server:
        paths = {"input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl"), "model": str(tiny_backbone)}
        where = {"engine": "server", "base_url": server.base_url, "max_tokens": 64}
        label_by_completions(MonteCarloConfig(**paths, **where, num_completions=3))
    (row,) = read_records(tmp_path / "out.jsonl", Response)
    assert row.completions == [[3, 3], [3, 3], [0, 3], [0, 1]]
    assert set(server.paths) == {"/v1/completions"}
    assert len({body["seed"] for body in server.bodies}) == 9


def test_a_model_without_chat_template(tiny_backbone, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_backbone.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    write_jsonl(tmp_path / "in.jsonl", [response("q", 0, None)])
    config = MonteCarloConfig(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out"), model=str(bare))
    with pytest.raises(ValueError, match="has no chat template"):
        label_by_completions(config)
