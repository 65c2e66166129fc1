"""The training benchmark in miniature: every variant trains on the same tokens, and the outputs hold what the table says."""

import json

import pytest
from benchmark_training import BenchmarkConfig, main

from prm.benchmarks.speed.training_variants import VARIANTS, TrainingSpeedConfig

SMALL = ["--shape", "tiny", "--use_cpu", "True", "--repetitions", "1", "--num_optimizer_steps", "1", "--global_batch_size", "8"]
SMALL += ["--padded_batch_size", "4", "--mean_length", "40", "--max_length", "90", "--num_batches", "4", "--num_targets", "64"]
SMALL += ["--vocab_sizes", "500", "2000"]
VARIANTS_RUN = [name for name in VARIANTS if not name.endswith("_compiled")]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """metrics.json, manifest.json and the printed tables of one small run."""
    output_dir = tmp_path_factory.mktemp("benchmark")
    patch = pytest.MonkeyPatch()
    patch.setattr("benchmark_training.setup_logging", lambda: None)  # it would take pytest's log handler away
    printed: list[str] = []
    patch.setattr("builtins.print", lambda *args, **kwargs: printed.append(" ".join(map(str, args))))
    main([*SMALL, "--output_dir", str(output_dir)])
    patch.undo()
    files = {name: json.loads((output_dir / f"{name}.json").read_text()) for name in ("metrics", "manifest")}
    return files["metrics"], files["manifest"], printed[-1]


def workload_lengths() -> list[int]:
    sizes = {"num_optimizer_steps": 1, "global_batch_size": 8, "padded_batch_size": 4, "mean_length": 40, "max_length": 90}
    return TrainingSpeedConfig(shape="tiny", **sizes).workload().lengths


def test_every_variant_trains_on_the_same_tokens(outcome):
    speed = outcome[0]["speed"]
    lengths = workload_lengths()
    assert speed["useful_tokens"] == sum(lengths)
    assert list(speed["variants"]) == VARIANTS_RUN
    for name, variant in speed["variants"].items():
        assert len(variant["repetitions"]) == 1
        for run in variant["repetitions"]:
            assert run["useful_tokens"] == sum(lengths)
            if "packed" in name:
                assert run["computed_tokens"] == sum(lengths), name
            else:
                assert run["computed_tokens"] > sum(lengths), name
            assert run["seconds"] > 0
        assert (variant["estimated_memory_bytes"] is None) == ("packed" not in name)


def test_sorted_batches_pad_to_the_longest_of_each(outcome):
    """Eight responses sorted by length in two micro-batches of four."""
    speed = outcome[0]["speed"]
    lengths = sorted(workload_lengths())
    for name in ("padded_sorted", "implicit_padded_sorted"):
        runs = speed["variants"][name]["repetitions"]
        assert [run["computed_tokens"] for run in runs] == [4 * lengths[3] + 4 * lengths[7]]


def test_ratios_are_those_of_the_repetitions(outcome):
    speed = outcome[0]["speed"]
    runs = {name: variant["repetitions"] for name, variant in speed["variants"].items()}
    for name, by_reference in speed["ratios"].items():
        assert list(by_reference) == ["trl_defaults", "padded_rebalanced", "packed"]
        for reference, ratio in by_reference.items():
            pairs = zip(runs[reference], runs[name], strict=True)
            assert ratio["repetitions"] == pytest.approx([slow["seconds"] / fast["seconds"] for slow, fast in pairs])


def test_other_parts_manifest_and_table(outcome):
    metrics, manifest, table = outcome
    assert metrics["ranks"]["num_batches"] == 4
    assert [row["vocab_size"] for row in metrics["vocabulary"]["sizes"]] == [500, 2000]
    assert metrics["hardware"]["threads"] == 1
    assert manifest["config"]["shape"] == "tiny"
    for word in [*VARIANTS_RUN, "/ trl_defaults", "packed_balanced", "vocabulary 2000"]:
        assert word in table


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--parts", "sped"], "sped: unknown; choose from"), (["--world_size", "5"], "is no multiple of --world_size 5")],
)
def test_mistakes_end_before_anything_runs(flags, message):
    with pytest.raises(ValueError, match=message):
        main(flags)


def test_parts_that_do_not_run_refuse_nothing():
    assert BenchmarkConfig(parts=["speed"], world_size=5).world_size == 5
