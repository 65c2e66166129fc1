"""The collator: labels beside their steps, and a micro-batch whose logits are those of each response alone."""

import math

import pytest
import torch
from transformers import AutoTokenizer

from prm.aggregation import pad_steps
from prm.data.collate import MicroBatches, PackedCollator, prefixes_of
from prm.data.examples import Example, units
from prm.losses import num_items, response_losses
from prm.models import ImplicitPRM, RewardModel
from prm.records import Response
from prm.steps import EncodedResponse, StepEncoder

RESPONSES = [
    Response("a", 0, "What is 3 + 4?", ["Add them.", "3 + 4 = 7.", "So \\boxed{7}."], correct=True, step_labels=[1.0, 0.0, -1.0]),
    Response("a", 1, "What is 3 + 4?", ["\\boxed{8}"], correct=False),
    Response("b", 0, "What is 2 * 5, and why?", ["Two fives make ten.", "\\boxed{10}"]),
]


def encoder_for(loss: str, backbone) -> StepEncoder:
    return StepEncoder.for_loss(loss, AutoTokenizer.from_pretrained(backbone))


def examples_of(encoder: StepEncoder) -> list[Example]:
    return [Example.from_response(r, e) for r, e in zip(RESPONSES, encoder.encode_batch(RESPONSES), strict=True)]


def test_labels_by_hand(tiny_backbone):
    encoder = encoder_for("asym", tiny_backbone)
    examples = examples_of(encoder)
    batch = PackedCollator(encoder)(examples)
    assert batch["keys"] == [("a", 0), ("a", 1), ("b", 0)]
    assert batch["step_counts"].tolist() == [3, 1, 2]
    assert batch["correct"][:2].tolist() == [1.0, 0.0]
    assert math.isnan(batch["correct"][2])
    assert batch["step_labels"][:3].tolist() == [1.0, 0.0, -1.0]
    assert batch["step_labels"][3:].isnan().all()
    assert batch["input_ids"].shape == (1, sum(example.num_tokens for example in examples))
    assert set(batch["input_ids"][0, batch["step_ends"]].tolist()) == {encoder.separator_id}
    assert "target_positions" not in batch


@pytest.mark.parametrize("loss", ["step_ce", "mc_regression", "pqm", "margin_ranking"])
def test_steps_with_null_labels_take_no_part_in_the_loss(loss, tiny_backbone):
    """Two responses that part at their second step; of each, one step is unlabelled."""
    encoder = encoder_for(loss, tiny_backbone)
    labels = [[1.0, 0.0, None], [None, 1.0, 1.0]] if loss == "mc_regression" else [[1.0, -1.0, None], [None, 1.0, 1.0]]
    responses = [Response("a", i, "?", ["So", f"{i}", "."], step_labels=row) for i, row in enumerate(labels)]
    examples = [Example.from_response(r, e) for r, e in zip(responses, encoder.encode_batch(responses), strict=True)]
    batch = PackedCollator(encoder, with_prefixes=True)(examples)
    assert batch["step_labels"].isnan().tolist() == [False, False, True, True, False, False]

    known, mask = pad_steps(batch["step_labels"], batch["step_counts"])
    prefixes, _ = pad_steps(batch["prefixes"], batch["step_counts"])
    shape = (2, 3, 3) if loss == "step_ce" else (2, 3)
    logits = torch.linspace(-0.5, 0.5, math.prod(shape)).reshape(shape).requires_grad_()
    losses = response_losses(loss, logits, mask, None, known, prefixes)
    losses.sum().backward()
    assert losses.isfinite().all()
    gradient = logits.grad.reshape(6, -1).abs().sum(1)
    assert gradient[[2, 3]].tolist() == [0, 0]
    assert (gradient[[1, 4]] > 0).all()
    counts = {"step_ce": 4, "mc_regression": 4, "pqm": 2, "margin_ranking": 1}
    assert num_items(loss, None, known, mask, prefixes, num_labels=3) == counts[loss]


def test_packed_logits_equal_each_response_alone(tiny_backbone):
    encoder = encoder_for("step_ce", tiny_backbone)
    model = RewardModel.from_backbone(tiny_backbone, encoder.num_labels, vocab_size=len(encoder.tokenizer)).eval()
    collate, examples = PackedCollator(encoder), examples_of(encoder)
    packed = model(**model.inputs(collate(examples)))
    alone = torch.cat([model(**model.inputs(collate([example]))) for example in examples])
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-6)


def test_packed_log_probs_equal_each_response_alone(tiny_backbone):
    encoder = encoder_for("implicit_prm", tiny_backbone)
    model = ImplicitPRM.from_backbone(tiny_backbone).eval()
    collate, examples = PackedCollator(encoder), examples_of(encoder)
    batch = collate(examples)
    alone = torch.cat([model(**model.inputs(collate([example]))) for example in examples])
    torch.testing.assert_close(model(**model.inputs(batch)), alone, atol=1e-5, rtol=1e-5)
    assert batch["target_steps"].bincount().sum() == sum(e.num_tokens - e.encoded.response_start for e in examples)
    assert batch["target_steps"].unique().tolist() == list(range(6))


def test_reference_log_probs_travel_with_their_example(tiny_backbone):
    encoder = encoder_for("implicit_prm", tiny_backbone)
    encoded = [EncodedResponse([1, 2, 3], [2], 1), EncodedResponse([4, 5], [1], 1)]
    values = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])]
    examples = [Example(("q", i), e, ref_logps=v) for i, (e, v) in enumerate(zip(encoded, values, strict=True))]
    assert PackedCollator(encoder)(examples)["ref_logps"].tolist() == [-1.0, -2.0, -3.0]
    assert "ref_logps" not in PackedCollator(encoder)([*examples, Example(("q", 2), encoded[0])])


def test_labels_that_do_not_match_the_steps():
    response = Response("q", 3, "?", ["one", "two"], step_labels=[1.0])
    with pytest.raises(ValueError, match="q #3: 1 step labels for 2 steps"):
        Example.from_response(response, EncodedResponse([1, 2, 3], [1, 2], 1))


def test_blank_micro_batch_costs_nothing_and_counts_for_nothing(tiny_tokenizer):
    """What a rank computes while others have one micro-batch more."""
    for loss in ("asym", "implicit_prm"):
        batch = PackedCollator(StepEncoder.for_loss(loss, tiny_tokenizer))([])
        assert batch["keys"] == []
        assert batch["correct"].isnan().all()
        assert batch["step_labels"].isnan().all()
        assert num_items(loss, batch["correct"], batch["step_labels"]) == 0
        assert batch["step_counts"].tolist() == [1]


def test_units_keep_the_responses_to_one_question_together(tiny_tokenizer):
    encoder = StepEncoder.for_loss("margin_ranking", tiny_tokenizer)
    responses = [Response(question, index, question, ["a", "b"]) for index, question in enumerate("xyx")]
    examples = [Example.from_response(r, e) for r, e in zip(responses, encoder.encode_batch(responses), strict=True)]
    assert [[e.key for e in unit] for unit in units(examples, "question")] == [[("x", 0), ("x", 2)], [("y", 1)]]
    assert [len(unit) for unit in units(examples, "response")] == [1, 1, 1]
    micro_batches = MicroBatches(units(examples, "question"), PackedCollator(encoder, with_prefixes=True))
    assert len(micro_batches) == 2
    assert micro_batches[[1, 0]]["keys"] == [("y", 1), ("x", 0), ("x", 2)]
    assert units(examples, "question")[0].num_tokens == examples[0].num_tokens + examples[2].num_tokens


def test_prefixes_are_equal_where_question_and_earlier_steps_are(tiny_tokenizer):
    encoder = StepEncoder.for_loss("margin_ranking", tiny_tokenizer)
    rows = [("q", ["a", "b"]), ("q", ["a", "c", "d"]), ("q", ["e", "b"]), ("p", ["a", "b"])]
    responses = [Response(question, index, question, steps) for index, (question, steps) in enumerate(rows)]
    first, second, third, fourth = prefixes_of(encoder.encode_batch(responses)).split([2, 3, 2, 2])
    assert first.tolist() == second[:2].tolist()
    assert third[0] == first[0]
    assert len({*first.tolist(), *second.tolist(), *third.tolist(), *fourth.tolist()}) == 6
