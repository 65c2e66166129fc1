"""scripts/score.py on rollouts, responses and candidate pools."""

import pytest
import score

from prm.files import read_records, write_json, write_jsonl
from prm.records import Response, Rollout, StepScores


@pytest.fixture(scope="module")
def checkpoint(make_prm):
    return make_prm(max_length=2048)


def run(checkpoint, source, output) -> list[StepScores]:
    score.main(["--model", checkpoint, "--input", str(source), "--output", str(output), "--device", "cpu"])
    return list(read_records(output, StepScores))


def test_rollouts_are_split_at_blank_lines(checkpoint, tmp_path):
    rollouts = [
        Rollout("q", 0, "1 + 1?", "2", "One.\n\nTwo.\n\n\\boxed{2}", "stop", 9, correct=True, extracted="2"),
        Rollout("q", 1, "1 + 1?", "2", "\n\n", "stop", 1),
    ]
    write_jsonl(tmp_path / "rollouts.jsonl", rollouts)
    (scores,) = run(checkpoint, tmp_path / "rollouts.jsonl", tmp_path / "scores.jsonl")
    assert scores.key == ("q", 0)
    assert len(scores.step_scores) == 3
    assert (scores.correct, scores.answer, scores.extracted) == (True, "2", "2")
    assert not list(tmp_path.glob("*.partial"))


def test_a_pool_keeps_its_own_steps_and_a_folder_holds_shards(checkpoint, tmp_path):
    candidates = [{"text": "A.\n\nB.", "steps": ["A.", "B."]}, {"text": "C.", "steps": ["C.", "D.", "E."]}]
    write_jsonl(tmp_path / "pool.jsonl", [{"problem_id": "p1", "question": "?", "answer": "3", "candidates": candidates}])
    scores = run(checkpoint, tmp_path / "pool.jsonl", tmp_path / "scores")
    assert [(s.key, len(s.step_scores)) for s in scores] == [(("p1", 0), 2), (("p1", 1), 3)]
    assert (tmp_path / "scores" / "manifest.json").exists()


def test_a_folder_of_arrays_beside_a_manifest(checkpoint, tmp_path):
    for name, steps in (("gsm8k", ["a", "b"]), ("math", ["c"])):
        item = {"id": f"{name}-0", "problem": "1?", "steps": steps, "label": -1, "final_answer_correct": True}
        write_json(tmp_path / "processbench" / f"{name}.json", [item])
    write_json(tmp_path / "processbench" / "manifest.json", {"counts": {}})
    scores = run(checkpoint, tmp_path / "processbench", tmp_path / "scores.jsonl")
    assert [(s.key, len(s.step_scores)) for s in scores] == [(("gsm8k-0", 0), 2), (("math-0", 0), 1)]


def test_real_candidates(checkpoint, real_data, tmp_path):
    source = tmp_path / "pool.jsonl"
    lines = (real_data / "bon" / "bon16_gsm8k_50.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    scores = run(checkpoint, source, tmp_path / "scores.jsonl")
    assert len(scores) == 32
    assert all(0 < value < 1 for row in scores for value in row.step_scores)


def test_two_processes_score_what_one_does(checkpoint, tmp_path):
    responses = [Response(f"q{index % 5}", index, f"{index % 5} + 1?", [f"It is {index}.", "Done."]) for index in range(20)]
    write_jsonl(tmp_path / "in.jsonl", responses)
    flags = ["--model", checkpoint, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    score.main([*flags, "--num_processes", "2"])
    together = {scores.key: scores.step_scores for scores in read_records(tmp_path / "out", StepScores)}
    alone = {scores.key: scores.step_scores for scores in run(checkpoint, tmp_path / "in.jsonl", tmp_path / "alone")}
    assert together.keys() == alone.keys()
    assert all(scores == pytest.approx(alone[key], abs=1e-5) for key, scores in together.items())
    manifests = {path.name for path in (tmp_path / "out").glob("manifest*.json")}
    assert manifests == {"manifest-00000-of-00002.json", "manifest-00001-of-00002.json"}
