"""Where a run goes on: the newest checkpoint, of the same configuration unless told otherwise, on any number of ranks."""

import json

import pytest
from test_checkpoints import RUN, save

from prm.training import checkpoints
from prm.training.resume import changes, check_same_run, divide_anew, is_finished, mark_finished, resume_point


def test_changed_configuration_is_refused_by_name(tmp_path):
    save(tmp_path, 10)
    assert resume_point(tmp_path, None, RUN) == tmp_path / "checkpoint-10"
    with pytest.raises(ValueError, match=r"seed: 0 -> 1.*--resume_changed_run True"):
        resume_point(tmp_path, None, RUN | {"seed": 1})
    with pytest.raises(ValueError, match=r"batch: None -> 4.*dataset_hash: 'abc' -> 'xyz'"):
        check_same_run(RUN, RUN | {"dataset_hash": "xyz", "batch": 4}, tmp_path)


def test_changed_configuration_goes_on_when_told_to(tmp_path, caplog):
    save(tmp_path, 10)
    assert resume_point(tmp_path, None, RUN | {"seed": 1}, may_differ=True) == tmp_path / "checkpoint-10"
    assert "seed: 0 -> 1" in caplog.text


def test_number_of_ranks_may_change(tmp_path, caplog):
    save(tmp_path, 10)
    assert changes(RUN, RUN | {"world_size": 8}) == ""
    assert resume_point(tmp_path, None, RUN | {"world_size": 8}) == tmp_path / "checkpoint-10"
    assert "was written by 2 ranks, this run has 8" in caplog.text


def test_shards_that_deepspeed_cannot_divide(tmp_path):
    checkpoint = save(tmp_path, 10)
    with pytest.raises(RuntimeError, match="resume on the former number"):
        divide_anew(checkpoint, tmp_path / checkpoints.PARTIAL / "universal")


def test_requested_checkpoint(tmp_path):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    assert resume_point(tmp_path, str(older), RUN) == older
    assert resume_point(tmp_path, "True", RUN) == newer
    with pytest.raises(FileNotFoundError, match="checkpoint-30: no such folder"):
        resume_point(tmp_path, str(tmp_path / "checkpoint-30"), RUN)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        resume_point(tmp_path / "empty", "True", RUN)
    (newer / "model.safetensors").write_text("else")
    with pytest.raises(ValueError, match=r"checkpoint-20: model\.safetensors is not the file that was saved"):
        resume_point(tmp_path, str(newer), RUN)


def test_finished_run_is_known(tmp_path):
    assert not is_finished(tmp_path, RUN)
    mark_finished(tmp_path, RUN, {"steps": 10})
    assert json.loads((tmp_path / checkpoints.FINISHED).read_text())["steps"] == 10
    assert is_finished(tmp_path, RUN)
    assert is_finished(tmp_path, RUN | {"world_size": 1})
    with pytest.raises(ValueError, match="loss: 'asym' -> 'orm'"):
        is_finished(tmp_path, RUN | {"loss": "orm"})
    assert not is_finished(tmp_path, RUN | {"loss": "orm"}, may_differ=True)
