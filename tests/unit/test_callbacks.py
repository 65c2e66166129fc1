"""metrics.jsonl after a kill: what was logged beyond the checkpoint is cut."""

from prm.training.callbacks import truncate_metrics


def test_lines_after_the_checkpoint_and_half_lines_are_cut(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 10, "loss": 1.0}\n{"step": 10, "eval_loss": 2.0}\n{"step": 11, "loss": 0.5}\n{"step": 12, "lo')
    truncate_metrics(tmp_path, 10)
    assert file.read_text() == '{"step": 10, "loss": 1.0}\n{"step": 10, "eval_loss": 2.0}\n'
    truncate_metrics(tmp_path, 0)
    assert file.read_text() == ""


def test_nothing_to_cut(tmp_path):
    truncate_metrics(tmp_path, 10)
    assert list(tmp_path.iterdir()) == []
