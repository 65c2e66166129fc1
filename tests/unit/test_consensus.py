"""Consensus: relations of first errors, matrix and kappa by hand, what is kept and dropped, shards, every refusal."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from prm.annotation import consensus
from prm.annotation.consensus import (
    BAD,
    GOOD,
    NEUTRAL,
    UNLABELLED,
    ConsensusConfig,
    find_consensus,
    first_error,
    is_bad_matrix,
    relation_of,
    step_classes,
)
from prm.files import read_records, write_jsonl
from prm.records import Response

JUDGE = {
    "both_none": [1.0, 0.0, 1.0],
    "same": [1.0, -1.0, 1.0],
    "earlier": [-1.0, 1.0, -1.0],
    "later": [1.0, 1.0, -1.0],
    "only_input": [1.0, -1.0, -1.0],
    "only_other": [1.0, 1.0, 0.0],
    "unknown": [None, -1.0, 1.0],
    "mine_alone": [1.0, 1.0, 1.0],
}
MONTE_CARLO = {
    "both_none": [1.0, 0.25, 1.0],
    "same": [0.5, 0.0, 0.0],
    "earlier": [0.5, 0.0, 0.0],
    "later": [0.5, 0.0, 0.0],
    "only_input": [1.0, 1.0, 0.75],
    "only_other": [0.5, 0.5, 0.0],
    "unknown": [1.0, 0.0, 0.0],
    "theirs_alone": [1.0, 1.0, 1.0],
}


def label_set(labels: dict, source: str) -> list[Response]:
    completions = [[1, 4]] * 3 if source == "monte_carlo" else None
    texts = ["one", "two", "three"]
    return [
        Response(name, 0, "?", texts, step_labels=steps, label_source=source, completions=completions)
        for name, steps in labels.items()
    ]


@pytest.fixture
def config(tmp_path) -> ConsensusConfig:
    write_jsonl(tmp_path / "judge.jsonl", label_set(JUDGE, "judge"))
    write_jsonl(tmp_path / "mc.jsonl", label_set(MONTE_CARLO, "monte_carlo")[::-1])
    return ConsensusConfig(str(tmp_path / "judge.jsonl"), str(tmp_path / "out.jsonl"), other=str(tmp_path / "mc.jsonl"))


class TestParts:
    def test_first_error_by_hand(self):
        assert first_error(bytes([GOOD, BAD, BAD])) == 1
        assert first_error(bytes([GOOD, NEUTRAL])) == -1
        assert first_error(bytes([GOOD, BAD, UNLABELLED])) == 1
        assert first_error(bytes([GOOD, UNLABELLED, BAD])) is None
        assert first_error(bytes([GOOD, UNLABELLED])) is None
        assert first_error(b"") == -1

    def test_relations(self):
        pairs = [(-1, -1), (2, 2), (0, 2), (2, 0), (1, -1), (-1, 0), (None, 1), (1, None)]
        expected = ["both_none", "same", "earlier", "later", "only_input", "only_other", "unknown", "unknown"]
        assert [relation_of(*pair) for pair in pairs] == expected

    def test_zero_is_neutral_for_a_judge_and_bad_for_completions(self):
        response = Response("q", 0, "?", ["a"] * 4, step_labels=[1.0, 0.0, -1.0, None])
        assert list(step_classes(response, 0.0)) == [GOOD, NEUTRAL, BAD, UNLABELLED]
        soft = Response("q", 0, "?", ["a"] * 4, step_labels=[1.0, 0.0, 0.125, -1.0], completions=[[0, 0]] * 4)
        assert list(step_classes(soft, 0.0)) == [GOOD, BAD, GOOD, BAD]
        assert list(step_classes(soft, 0.125)) == [GOOD, BAD, BAD, BAD]
        assert list(step_classes(dataclasses.replace(response, step_labels=None), 0.0)) == [UNLABELLED] * 4

    def test_bad_against_the_rest(self):
        steps = np.array([[1, 2, 4, 100], [8, 16, 32, 100], [64, 128, 256, 100], [100, 100, 100, 100]])
        assert is_bad_matrix(steps).tolist() == [[1, 6], [72, 432]]


class TestConsensus:
    def test_matrix_and_counts_by_hand(self, config, caplog):
        with caplog.at_level("INFO"):
            counts = find_consensus(config)
        assert counts == {
            "kept": 2,
            **{f"dropped_{name}": 1 for name in ("earlier", "later", "only_input", "only_other", "unknown")},
            "missing_in_other": 1,
            "missing_in_input": 1,
        }
        metrics = json.loads(Path(config.output).with_suffix(".metrics.json").read_text())
        assert metrics["first_errors"] == dict.fromkeys(metrics["first_errors"], 1)
        assert metrics["first_error_agreement"] == pytest.approx(2 / 6)
        # Of the judge's 21 common steps: 7 bad, 2 neutral, 11 good, 1 unlabelled.
        assert metrics["steps"] == {
            "bad": {"bad": 4, "neutral": 0, "good": 3, "unlabelled": 0},
            "neutral": {"bad": 1, "neutral": 0, "good": 1, "unlabelled": 0},
            "good": {"bad": 4, "neutral": 0, "good": 7, "unlabelled": 0},
            "unlabelled": {"bad": 0, "neutral": 0, "good": 1, "unlabelled": 0},
        }
        # Bad or not, [[4, 3], [5, 8]]: 12 of 20 agree, (7 * 9 + 13 * 11) / 400 by chance.
        assert metrics["cohen_kappa"] == pytest.approx((0.6 - 0.515) / (1 - 0.515))
        assert "cohen_kappa             0.1753" in caplog.text
        assert "first_error_agreement   0.3333" in caplog.text

    def test_kept_responses_hold_the_labels_of_the_input(self, config):
        find_consensus(config)
        kept = list(read_records(config.output, Response))
        assert [(r.question_id, r.step_labels) for r in kept] == [(name, JUDGE[name]) for name in ("both_none", "same")]
        assert {r.label_source for r in kept} == {"consensus"}
        swapped = dataclasses.replace(config, input=config.other, other=config.input, output=config.output + ".2.jsonl")
        counts = find_consensus(swapped)
        assert (counts["dropped_earlier"], counts["dropped_only_input"], counts["kept"]) == (1, 1, 2)
        assert {r.question_id: r.step_labels for r in read_records(swapped.output, Response)} == {
            name: MONTE_CARLO[name] for name in ("same", "both_none")
        }

    def test_the_threshold_of_soft_labels(self, config):
        find_consensus(config)
        counts = find_consensus(dataclasses.replace(config, soft_threshold=0.25, output=config.output + ".2.jsonl"))
        assert (counts["kept"], counts["dropped_only_other"]) == (1, 2)

    def test_again_gives_the_same_bytes_and_shards_give_the_same_responses(self, config, tmp_path):
        counts = find_consensus(config)
        before = Path(config.output).read_bytes()
        assert find_consensus(config) == counts
        assert Path(config.output).read_bytes() == before
        shards = dataclasses.replace(config, output=str(tmp_path / "shards"), num_shards=2)
        parts = [find_consensus(dataclasses.replace(shards, shard_index=i)) for i in (1, 0)]
        assert {name: parts[0][name] + parts[1][name] for name in counts} == counts
        assert sorted(r.key for r in read_records(shards.output, Response)) == [("both_none", 0), ("same", 0)]
        assert len(list((tmp_path / "shards").glob("m*-0000?-of-00002.json"))) == 4

    def test_interrupted_before_the_rows_are_written(self, config, monkeypatch):
        def power_cut(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(consensus, "write_jsonl", power_cut)
            with pytest.raises(KeyboardInterrupt):
                find_consensus(config)
        assert not Path(config.output).exists()
        assert find_consensus(config)["kept"] == 2

    def test_many_responses(self, tmp_path):
        rng = np.random.default_rng(0)
        sets = {}
        for name in ("a", "b"):
            sets[name] = [Response(f"q{i // 4}", i % 4, "?", ["x"] * (i % 7)) for i in rng.permutation(500).tolist()]
            labelled = [
                dataclasses.replace(r, step_labels=[float(label) for label in rng.integers(-1, 2, len(r.steps))])
                for r in sets[name]
            ]
            sets[name] = {r.key: r for r in labelled}
            write_jsonl(tmp_path / f"{name}.jsonl", labelled)
        output = str(tmp_path / "out.jsonl")
        find_consensus(ConsensusConfig(str(tmp_path / "a.jsonl"), output, other=str(tmp_path / "b.jsonl")))

        def error(response: Response) -> int:
            return response.step_labels.index(-1.0) if -1.0 in response.step_labels else -1

        expected = {key for key, response in sets["a"].items() if error(response) == error(sets["b"][key])}
        assert {r.key for r in read_records(output, Response)} == expected


class TestRefusals:
    def test_other_steps_under_a_key(self, config):
        others = [dataclasses.replace(r, steps=["one", "2", "three"]) for r in label_set(MONTE_CARLO, "monte_carlo")]
        write_jsonl(config.other, others)
        with pytest.raises(ValueError, match=r"hold another question or other steps under \('both_none', 0\)"):
            find_consensus(config)
        assert not list(Path(config.output).parent.glob("out*"))

    def test_labels_that_are_not_one_a_step(self, config):
        write_jsonl(config.other, [Response("same", 0, "?", ["one"], step_labels=[1.0, 1.0])])
        with pytest.raises(ValueError, match=r"mc\.jsonl:1: 2 step labels for 1 steps"):
            find_consensus(config)

    def test_nothing_in_common(self, config):
        write_jsonl(config.other, label_set({"else": [1.0, 1.0, 1.0]}, "judge"))
        with pytest.raises(ValueError, match="have no response in common"):
            find_consensus(config)
        assert not list(Path(config.output).parent.glob("out*"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"soft_threshold": 1.0}, r"--soft_threshold is 1\.0"),
            ({"num_shards": 2}, "2 jobs share a folder"),
            ({"shard_index": 1}, "--shard_index 1 of --num_shards 1"),
        ],
    )
    def test_settings(self, config, change, message):
        with pytest.raises(ValueError, match=message):
            find_consensus(dataclasses.replace(config, **change))

    def test_paths(self, config):
        with pytest.raises(ValueError, match="is the input itself"):
            find_consensus(dataclasses.replace(config, other=config.input))
        with pytest.raises(ValueError, match=r"--output .* is the input itself"):
            find_consensus(dataclasses.replace(config, output=config.other))
        with pytest.raises(FileNotFoundError, match="nowhere"):
            find_consensus(dataclasses.replace(config, other="nowhere.jsonl"))

    def test_another_run_in_the_output(self, config):
        find_consensus(config)
        with pytest.raises(ValueError, match=r"is of a run with soft_threshold 0\.0, this one has 0\.5"):
            find_consensus(dataclasses.replace(config, soft_threshold=0.5))
        write_jsonl(config.other, label_set(MONTE_CARLO, "monte_carlo"))
        with pytest.raises(ValueError, match="is of a run with other"):
            find_consensus(config)
