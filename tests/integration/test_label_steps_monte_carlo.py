"""label_steps.py --method monte_carlo on real engines: killed and resumed, and vLLM against transformers."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import label_steps
import pytest

from prm.files import read_records, write_jsonl
from prm.records import Response, Rollout

pytestmark = pytest.mark.slow
# A random model boxes nothing, so what a prefix has boxed already is its completions' answer.
TEXTS = [
    "Say \\boxed{7}.\n\nWhy {i}?\n\nSo \\boxed{7}.",
    "Say \\boxed{6}.\n\nWhy {i}?\n\nNo.\n\nSo \\boxed{6}.",
    "Say.\n\n\\boxed{7}",
]
COMPLETIONS = [[[2, 2], [2, 2], [1, 1]], [[0, 2], [0, 2], [0, 2], [0, 1]], [[0, 2], [1, 1]]]


def write_rollouts(path: Path, num_questions: int) -> None:
    keys = [(f"q{q}", i) for q in range(num_questions) for i in range(len(TEXTS))]
    texts = [TEXTS[i].replace("{i}", str(i)) for _, i in keys]
    write_jsonl(path, [Rollout(*key, f"Take {key[0]}.", "7", text, "stop", 9) for key, text in zip(keys, texts, strict=True)])


def flags(model: Path, rollouts: Path, output: Path, **more: object) -> list[str]:
    values = {
        "model": model,
        "input": rollouts,
        "output": output,
        "num_completions": 2,
        "max_tokens": 8,
        "max_model_len": 256,
        **more,
    }
    return ["--method", "monte_carlo", "--max_model_len", "256", *(f"--{name}={value}" for name, value in values.items())]


def test_killed_three_times_and_resumed_equals_uninterrupted(tiny_backbone, tmp_path):
    write_rollouts(tmp_path / "in.jsonl", 60)
    more = {"engine": "transformers", "chunk_size": 6, "max_num_seqs": 16}
    command = [sys.executable, label_steps.__file__, *flags(tiny_backbone, tmp_path / "in.jsonl", tmp_path / "killed", **more)]
    for num_shards in (1, 4, 9):
        job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(list((tmp_path / "killed").glob("part-*.jsonl"))) < num_shards:
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.005)
        job.send_signal(signal.SIGKILL)
        job.communicate()
    assert len(list((tmp_path / "killed").glob("part-*.jsonl"))) < 30
    subprocess.run(command, check=True, capture_output=True)
    label_steps.main(flags(tiny_backbone, tmp_path / "in.jsonl", tmp_path / "whole", **more))
    killed, whole = ({f.name: f.read_bytes() for f in (tmp_path / name).glob("*.jsonl")} for name in ("killed", "whole"))
    assert killed == whole
    counts = [json.loads((tmp_path / name / "manifest.json").read_text())["counts"] for name in ("killed", "whole")]
    assert counts[0] == counts[1]
    assert counts[0]["labelled"] == 180


def test_through_vllm(tiny_backbone, tmp_path):
    write_rollouts(tmp_path / "in.jsonl", 2)
    label_steps.main(flags(tiny_backbone, tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine="vllm", data_parallel_size=1))
    rows = list(read_records(tmp_path / "out.jsonl", Response))
    assert [row.completions for row in rows] == COMPLETIONS * 2
    assert rows[1].step_labels == [0.0] * 4
    counts = json.loads((tmp_path / "out.manifest.json").read_text())["counts"]
    assert counts["num_completions"] == 2 * 2 * 6
    assert counts["num_truncated_completions"] * 8 <= counts["num_label_tokens"] <= 2 * 2 * 6 * 8
