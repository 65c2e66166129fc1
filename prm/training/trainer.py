"""The training loop: transformers.Trainer with packed micro-batches, our objectives, and checkpoints that are complete or absent.

The loss is a sum divided by the global number of its items (responses; labelled steps for step_ce), over ranks and accumulation, so
that one batch of 4, two accumulated batches of 2 and two ranks with 2 each take the same step.
"""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from prm.aggregation import pad_steps
from prm.data.collate import Example, PackedCollator
from prm.losses import compute_loss, num_items
from prm.models import ImplicitPRM, save_model
from prm.models.backbone import PackedModel
from prm.models.checkpoint import self_test
from prm.models.implicit import sum_by_step
from prm.models.packing import Batch, to_device
from prm.models.step_scores import ACTIVATIONS
from prm.steps import StepEncoder
from prm.training.arguments import TrainingConfig
from prm.training.callbacks import RunCallback
from prm.training.checkpoints import PARTIAL, PREFIX, publish
from prm.training.dataset import key_name
from prm.training.preemption import StopRequest
from prm.training.sampler import GlobalBatchSampler
from prm.training.validation import score_examples, validation_metrics

logger = logging.getLogger(__name__)


class PRMTrainer(Trainer):
    """Trains a PackedModel on encoded examples; `run` is the fingerprint that every checkpoint carries."""

    def __init__(
        self,
        config: TrainingConfig,
        model: PackedModel,
        encoder: StepEncoder,
        train_examples: list[Example],
        validation_examples: list[Example],
        run: dict[str, Any],
    ):
        self.encoder, self.run, self.stop = encoder, run, StopRequest(config.output_dir)
        self.run_callback = RunCallback()
        super().__init__(
            model=model,
            args=config,
            data_collator=PackedCollator(encoder),
            train_dataset=train_examples,
            eval_dataset=validation_examples or None,
            callbacks=[self.run_callback],
        )
        # compute_loss divides by the global count; this keeps Trainer from dividing by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        if config.deepspeed and not self.is_deepspeed_enabled:
            raise ValueError(
                f"--deepspeed {config.deepspeed} was given but DeepSpeed is not active; start with `deepspeed scripts/train.py`"
            )

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Micro-batches of this rank; not prepared by accelerate, which would divide them between ranks once more."""
        sampler = GlobalBatchSampler(
            [item.num_tokens for item in self.train_dataset],
            self.args.per_device_train_batch_size,
            self.args.gradient_accumulation_steps,
            self.args.world_size,
            self.args.process_index,
            self.args.seed,
        )
        self.run_callback.sampler = sampler
        return DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device) -> tuple[list[Batch], int]:
        """The micro-batches of one optimizer step, and the number of loss items in those of all ranks.

        One reduction per step carries that number and the ranks' wishes to stop.
        """
        is_done = self.state.global_step >= self.state.max_steps  # resumed from the last checkpoint of all
        batches = [] if is_done else list(itertools.islice(epoch_iterator, num_batches))
        totals = torch.tensor([sum(map(self.count_items, batches)), int(bool(self.stop))], device=device)
        count, wishes = self.accelerator.reduce(totals, "sum").tolist()
        self.run_callback.stop_requested = wishes > 0
        return batches, count

    def count_items(self, batch: Batch) -> int:
        config = self.args
        labels = (batch["correct"], batch["step_labels"])
        return num_items(config.loss, *labels, num_labels=config.num_labels, neutral=config.neutral)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return to_device(inputs, self.args.device)  # Trainer's own would cast labels and reference log-probs to bf16

    # Loss

    def compute_loss(
        self, model: torch.nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Float[Tensor, ""]:
        """This micro-batch's share of the global mean. Raises FloatingPointError, naming the responses, if it is not finite."""
        assert num_items_in_batch is not None
        loss = self.objective(self.step_outputs(model, inputs), inputs, num_items_in_batch)
        if not loss.isfinite():
            names = ", ".join(map(key_name, inputs["keys"]))
            raise FloatingPointError(f"loss {loss.item()} at step {self.state.global_step + 1} in {names}; lower --learning_rate")
        return loss * self.args.world_size  # DDP and ZeRO average gradients over ranks

    def step_outputs(self, model: torch.nn.Module, batch: Batch) -> Float[Tensor, "steps labels"]:
        """Logits at the step ends, for the implicit PRM each step's sum of token log-ratios."""
        outputs = model(**self.model.inputs(batch))
        if isinstance(self.model, ImplicitPRM):
            return sum_by_step(outputs - batch["ref_logps"], batch["target_steps"], len(batch["step_ends"]))[:, None]
        return outputs

    def objective(self, outputs: Float[Tensor, "steps labels"], batch: Batch, count: int) -> Float[Tensor, ""]:
        config = self.args
        padded, mask = pad_steps(outputs, batch["step_counts"])
        labels, _ = pad_steps(batch["step_labels"], batch["step_counts"])
        options = {"reading": config.reading, "tau": config.tau, "beta": config.beta, "neutral": config.neutral}
        return compute_loss(config.loss, padded, mask, batch["correct"], labels, num_items=count, **options)

    # Validation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss, outcome and step metrics on the validation responses; the same on all ranks."""
        self.model.eval()
        scored = score_examples(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            self.data_collator,
            self.args.per_device_eval_batch_size,
            self.args.device,
            self.score,
            self.args.process_index,
            self.args.world_size,
        )
        self.model.train()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in validation_metrics(scored, self.encoder).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, batch: Batch) -> tuple[Float[Tensor, " steps"], float, int]:
        outputs = self.step_outputs(self.model, batch).float()
        scores = ACTIVATIONS[self.encoder.activation](outputs, self.encoder.good_class)
        return scores, self.objective(outputs, batch, 1).item(), self.count_items(batch)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.self_test = self_test(self.model, self.encoder)  # here, where all ranks are: under ZeRO-3 they must all take part
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, self.encoder, folder, state_dict, self.self_test)

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes checkpoints: aside, until they are whole."""
        return str(Path(self.args.output_dir) / PARTIAL)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write aside on all ranks, then hash and rename on rank 0: `checkpoint-N` is complete or absent."""
        name = f"{PREFIX}{self.state.global_step}"
        partial, output_dir = Path(self._get_output_dir(trial)) / name, Path(self.args.output_dir)
        super()._save_checkpoint(model, trial)
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(output_dir / f"{PREFIX}{self.state.best_global_step}")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(partial / "trainer_state.json"))
            publish(partial, output_dir / name, self.run)
            rotate_checkpoints(str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
