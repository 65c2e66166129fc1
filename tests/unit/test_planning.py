"""The plan: decoding, training and storage by hand; what a measured folder replaces; every refusal."""

import json

import plan as script
import pytest

from prm.planning import MODELS, PlanConfig, checkpoint_bytes, decode_rate, make_plan, num_weights, plan_report, read_architecture


def test_weights_of_the_known_models():
    """1.544 and 7.616 billion, as their model cards say, without biases and norms."""
    weights = [num_weights(read_architecture(model)) for model in MODELS]
    assert weights == [pytest.approx(1.544e9, rel=1e-3), pytest.approx(7.616e9, rel=1e-3)]


def test_decoding_by_hand():
    """28 layers x 2 x 2 heads x 128 x 2 bytes = 28,672 bytes of cache a token, 256 responses at 450 tokens, 3.09 GB of weights."""
    config = PlanConfig(num_gpus=1, decode_efficiency=1.0)
    model = read_architecture(config.model)
    seconds = (256 * 28672 * 450 + 2 * num_weights(model)) / 3.35e12
    assert decode_rate(config, model) == pytest.approx(256 / seconds)
    many = PlanConfig(num_gpus=1, decode_efficiency=1.0, concurrent_responses=100_000, response_tokens=1.0, prompt_tokens=1.0)
    assert decode_rate(many, model) == pytest.approx(989e12 / (2 * num_weights(model)))


def test_stages_by_hand():
    config = PlanConfig(num_questions=100, num_samples=10, labelled_share=1.0, kept_share=0.5, num_cpus=2, grades_per_second=50.0)
    stages = {stage.name: stage for stage in make_plan(config)}
    assert stages["rollouts"].work == 100 * 10 * 600
    assert stages["rollouts"].storage_bytes == 1000 * (3.5 * 750 + 250)
    assert stages["grading"].hours == 1000 / (50 * 2) / 3600
    assert stages["training"].work == 500
    assert stages["training"].storage_bytes == pytest.approx(500 * (3.5 * 750 + 250) + num_weights_of_default() * (2 * 14 + 2))
    flops_per_token = 3 * (2.6204e9 + 86_016 * 758)
    assert stages["training"].hours == pytest.approx(500 * 758 * flops_per_token / (4 * 0.4 * 989e12) / 3600, rel=0.01)


def num_weights_of_default() -> int:
    config = PlanConfig()
    assert checkpoint_bytes(config, read_architecture(config.model)) == num_weights(read_architecture(config.model)) * 30
    return num_weights(read_architecture(config.model))


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ({"num_questions": 24000}, "rollouts"),
        ({"num_epochs": 2.0}, "training"),
        ({"loss": "implicit_prm"}, "training"),
        ({"loss": "implicit_prm"}, "evaluation scoring"),
        ({"kept_share": 0.7}, "training"),
        ({"mfu": 0.2}, "training"),
        ({"gpu": "A100"}, "rollouts"),
        ({"num_cpus": 1}, "grading"),
        ({"monte_carlo_completions": 8}, "Monte-Carlo completions"),
        ({"eval_samples": 128}, "evaluation rollouts"),
        ({"model": "Qwen/Qwen2.5-Math-7B-Instruct"}, "rollouts"),
    ],
)
def test_more_of_it_takes_longer(change, stage):
    before, after = ({s.name: s.hours for s in make_plan(PlanConfig(**options))} for options in ({}, change))
    assert after[stage] > before.get(stage, 0.0)


def test_a_finished_folder_replaces_the_assumptions(tmp_path):
    for index, rate in enumerate((100.0, 50.0)):
        counts = {"generated": 10, "tokens": 2000, "tokens_per_second": rate}
        (tmp_path / f"manifest-{index}.json").write_text(json.dumps({"counts": counts}))
    rollouts = make_plan(PlanConfig(rollouts=str(tmp_path), num_questions=1, num_samples=3))[0]
    assert (rollouts.work, rollouts.rate) == (3 * 200, 150.0)


def test_totals_count_gpus_and_cores_apart():
    config = PlanConfig(num_gpus=8)
    stages = make_plan(config)
    report = plan_report(config, stages)
    on_gpus = [stage.hours for stage in stages if stage.device == "GPU"]
    assert len(on_gpus) == len(stages) - 2
    assert report["gpu_hours"] == pytest.approx(8 * sum(on_gpus))
    assert report["hours"] == pytest.approx(sum(stage.hours for stage in stages))


def test_the_command_prints_its_assumptions_and_writes_the_plan(tmp_path, capsys):
    script.main(["--num_questions", "77", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "num_questions 77" in printed
    assert "Nothing of this is measured" in printed
    assert json.loads((tmp_path / "plan.json").read_text())["stages"][0]["work"] == 77 * 32 * 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mfu": 1.5}, r"--mfu 1.5: must lie in \(0, 1\]"),
        ({"num_gpus": 0}, "--num_gpus 0: must be at least 1"),
        ({"response_tokens": 0.0}, "--response_tokens 0.0: must be positive"),
        ({"gpu": "TPU"}, "--gpu TPU: unknown; choose from B200"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**options)


def test_inputs_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: neither one of"):
        make_plan(PlanConfig(model="nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json there"):
        make_plan(PlanConfig(rollouts=str(tmp_path)))
    (tmp_path / "manifest.json").write_text(json.dumps({"counts": {"generated": 0}}))
    with pytest.raises(ValueError, match="generated nothing"):
        make_plan(PlanConfig(rollouts=str(tmp_path)))
