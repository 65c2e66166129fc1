"""Models that TRL's own PRMTrainer trained, scored by us as by its `predict`.

pip install --no-deps --target outputs/trl trl==1.13.0
PRM_TEST_TRL=outputs/trl python -m pytest tests/integration/test_trl_models.py
"""

import json
import os

import pytest
import torch
from datasets import Dataset
from tiny_published import llama_tokenizer, mistral_tokenizer, qwen_tokenizer, random_lm
from transformers import AutoModelForTokenClassification

from prm.benchmarks.speed.padded import check_trl, trainer_classes
from prm.models import load_model, read_contract
from prm.models.step_scores import score_batch
from prm.records import Response

TRL_PATH = os.environ.get("PRM_TEST_TRL")
STEPS = ["Mia has 3 apples.", "3 + 4 = 7.\nSo there are 7", "The answer is \\boxed{7}."]
ROWS = [
    {"prompt": f"What is {i} + {j}?", "completions": STEPS[: 1 + j], "labels": [j != 1] * j + [True]}
    for i in range(8)
    for j in range(3)
]


@pytest.mark.skipif(TRL_PATH is None, reason="PRM_TEST_TRL names no folder of TRL 1.13")
@pytest.mark.parametrize("separator", ["\n", "\n\n", "\n##\n"])
@pytest.mark.parametrize(
    ("family", "tokenizer"), [("qwen2", qwen_tokenizer), ("llama", llama_tokenizer), ("mistral", mistral_tokenizer)]
)
def test_scored_as_by_the_trainer_s_predict(family, tokenizer, separator, tmp_path):
    check_trl(TRL_PATH)
    trainer_class, config_class = trainer_classes(TRL_PATH)
    tokenizer = tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    random_lm(family, tokenizer).save_pretrained(tmp_path / "backbone")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "backbone", num_labels=2)
    torch.nn.init.normal_(model.score.weight, std=0.2)
    arguments = {"use_cpu": True, "bf16": False, "report_to": "none", "step_separator": separator, "max_length": None}
    arguments |= {"output_dir": str(tmp_path / "prm"), "max_steps": 4, "save_steps": 4, "learning_rate": 1e-3}
    data = Dataset.from_list(ROWS)
    trainer = trainer_class(
        model=model, args=config_class(**arguments), train_dataset=data, eval_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    prediction = trainer.predict(trainer.eval_dataset)
    good = torch.tensor(prediction.predictions).softmax(-1)[..., 1]
    theirs = [row[labels != -100].tolist() for row, labels in zip(good, torch.tensor(prediction.label_ids), strict=True)]

    responses = [Response(str(i), 0, row["prompt"], row["completions"]) for i, row in enumerate(ROWS)]
    for folder in (tmp_path / "prm", tmp_path / "prm" / "checkpoint-4"):  # a checkpoint has no card
        name = read_contract(folder)["recipe"]
        assert name == ("trl" if separator == "\n" else f'trl {{"separator": {json.dumps(separator)}}}')
        ours, encoder = load_model(folder)
        scores = score_batch(ours, encoder, encoder.encode_batch(responses))
        assert max(max(row) for row in theirs) - min(min(row) for row in theirs) > 0.01
        for row, wanted in zip(scores, theirs, strict=True):
            assert row == pytest.approx(wanted, abs=1e-5)
