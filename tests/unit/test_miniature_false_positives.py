import pytest

from prm.files import read_records, write_jsonl
from prm.miniature.false_positives import findings, flip_outcomes, label_quality, prm_name, table, with_false_positives
from prm.records import Response


def response(index: int, labels: list[float], correct: bool) -> Response:
    return Response("q", index, "?", [f"step {i}" for i in range(len(labels))], correct, labels)


RESPONSES = [response(i, [1.0] if i < 18 else [1.0, -1.0], correct=i < 18) for i in range(60)]


def test_wrong_responses_are_called_right_until_the_rate_is_reached():
    noisy = with_false_positives(RESPONSES, 0.25, seed=0)
    flipped = [r for before, r in zip(RESPONSES, noisy, strict=True) if r.correct != before.correct]
    assert len(flipped) == 6  # 6 of 18 + 6 right answers have a wrong step: a quarter
    assert all(r.correct and r.step_labels == [1.0, -1.0] for r in flipped)
    assert noisy == with_false_positives(RESPONSES, 0.25, seed=0) != with_false_positives(RESPONSES, 0.25, seed=1)
    assert with_false_positives(RESPONSES, 0.0, seed=0) == RESPONSES


def test_false_positives_that_are_there_count():
    lucky = [*RESPONSES, *(response(60 + i, [-1.0], correct=True) for i in range(6))]
    assert with_false_positives(lucky, 0.25, seed=0) == lucky
    assert sum(r.correct for r in with_false_positives(lucky, 0.4, seed=0)) == 30  # 12 of 30


def test_too_few_wrong_responses():
    with pytest.raises(ValueError, match=r"false positive rate 0.9 needs 162 wrong responses to flip, there are 42"):
        with_false_positives(RESPONSES, 0.9, seed=0)


def test_a_dataset_beside_the_clean_one(tmp_path):
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "dataset" / f"{split}.jsonl", RESPONSES)
    flip_outcomes(tmp_path, 0.25, seed=0)
    assert list(read_records(tmp_path / "dataset-0.25" / "validation.jsonl", Response)) == with_false_positives(RESPONSES, 0.25, 0)
    quality = {"num_responses": 60, "num_right": 24, "right_with_wrong_step": 0.25, "flip_rate": 6 / 42}
    assert label_quality(tmp_path / "dataset-0.25") == quality
    assert label_quality(tmp_path / "dataset")["flip_rate"] == 0


def study() -> dict:
    def test(difference):
        return {name: {"8": difference + gap} for name, gap in (("difference", 0), ("low", -0.1), ("high", 0.1), ("p_value", 0))}

    curve = {name: {"8": value} for name, value in (("accuracy", 0.9), ("low", 0.85), ("high", 0.95))}
    names = [prm_name(loss, rate) for rate in (0.0, 0.3) for loss in ("asym", "orm")]
    f1 = {"first_error": {"oracle": {"f1": 0.5, "low": 0.4, "high": 0.6}}, "auc": 0.75}
    values = {name: value for value, name in enumerate(names)}
    return {
        "best_of_n": {
            "n": [8],
            "num_questions": 12,
            "prms": {name: {"own": {"best_of_n": curve}} for name in names},
            "baselines": {"random": curve, "majority_vote": None},
            "differences": {"own": {a: {b: test((values[a] - values[b]) / 10) for b in names if a != b} for a in names}},
        },
        "steps": dict.fromkeys(names, f1),
        "labels": {
            rate: {"num_responses": 60, "num_right": 24, "right_with_wrong_step": share, "flip_rate": share}
            for rate, share in (("0", 0.02), ("0.3", 0.3))
        },
    }


def test_findings_compare_objectives_at_a_rate_and_rates_of_an_objective():
    lines = findings(study(), ["asym", "orm"], [0.0, 0.3])
    assert [line.split(":")[0] for line in lines] == [
        "At N = 8, orm cannot be told apart from asym",
        "At N = 8, orm-0.3 cannot be told apart from asym-0.3",
        "At N = 8, asym-0.3 beats asym",
        "At N = 8, orm-0.3 beats orm",
    ]


def test_table_has_a_row_for_every_rate_and_objective():
    lines = table(study(), ["asym", "orm"], [0.0, 0.3]).splitlines()
    assert lines[0].startswith("60 training responses; 12 held-out questions, 8 responses each")
    assert [line.split()[:3] for line in lines[3:7]] == [
        ["2.0%", "0.02", "asym"],
        ["2.0%", "0.02", "orm"],
        ["30.0%", "0.30", "asym"],
        ["30.0%", "0.30", "orm"],
    ]
    assert lines[3].split()[3:] == ["90.0", "[85.0,", "95.0]", "0.750", "50.0", "[40.0,", "60.0]"]
