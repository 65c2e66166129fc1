"""The training loop: transformers.Trainer with packed micro-batches, our objectives, and checkpoints that are complete or absent.

What Trainer takes for one batch is a whole optimizer step: the micro-batches of this rank, as many on every rank. The loss is a sum
divided by the global number of its items (responses; labelled steps for step_ce), so that one batch of 4, two accumulated batches
of 2 and two ranks with 2 each take the same step.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from prm.aggregation import pad_steps
from prm.data.collate import MicroBatches, PackedCollator
from prm.data.examples import Example, units
from prm.losses import LOSSES, OPTIONS, global_mean, num_items, response_losses
from prm.models import ImplicitPRM, save_model
from prm.models.adapt import adapted_layers, load_adapter_state, save_adapter_state
from prm.models.backbone import PackedModel
from prm.models.checkpoint import self_test
from prm.models.implicit import sum_by_step
from prm.models.packing import Batch, to_device
from prm.models.step_scores import ACTIVATIONS
from prm.steps import StepEncoder
from prm.training.arguments import TrainingConfig
from prm.training.callbacks import RunCallback
from prm.training.checkpoints import PARTIAL, PREFIX, as_saved, publish
from prm.training.dataset import key_name
from prm.training.flops import TRAINING_FACTOR, forward_flops, peak_flops
from prm.training.preemption import StopRequest
from prm.training.sampler import GlobalBatchSampler
from prm.training.validation import score_examples, validation_metrics
from prm.training.watch import Means, Throughput

logger = logging.getLogger(__name__)


class PRMTrainer(Trainer):
    """Trains a PackedModel on encoded examples; `run` is the fingerprint that every checkpoint carries."""

    def __init__(
        self,
        config: TrainingConfig,
        model: PackedModel,
        encoder: StepEncoder,
        train_examples: Sequence[Example],
        validation_examples: Sequence[Example],
        run: dict[str, Any],
    ):
        self.encoder, self.run, self.stop = encoder, run, StopRequest(config.output_dir)
        self.run_callback = RunCallback()
        unit = LOSSES[config.loss].unit
        super().__init__(
            model=model,
            args=config,
            data_collator=PackedCollator(encoder, with_prefixes=unit == "question"),
            train_dataset=units(train_examples, unit),
            eval_dataset=units(validation_examples, unit) or None,
            callbacks=[self.run_callback],
        )
        # compute_loss divides by the global count; this keeps Trainer from dividing by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self.means = Means(config.device)
        self.has_shown_pace = False
        self.throughput = Throughput(peak_flops(torch.cuda.get_device_name()) if config.device.type == "cuda" else None)
        if config.deepspeed and not self.is_deepspeed_enabled:
            raise ValueError(
                f"--deepspeed {config.deepspeed} was given but DeepSpeed is not active; start with `deepspeed scripts/train.py`"
            )

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """The micro-batches of one optimizer step at a time, this rank's; accelerate would divide them between ranks once more."""
        lengths = self.train_dataset.lengths
        costs = [forward_flops(self.model.config, [length]) for length in lengths]
        sampler = GlobalBatchSampler(lengths, costs, self.args.division, self.args.process_index, self.args.seed)
        self.run_callback.sampler = sampler
        return DataLoader(
            MicroBatches(self.train_dataset, self.data_collator),
            batch_sampler=sampler,
            collate_fn=list,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Batch]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], int]:
        """The micro-batches of one optimizer step, and the number of loss items in those of all ranks.

        One reduction per step carries that number and the ranks' wishes to stop.
        """
        is_done = self.state.global_step >= self.state.max_steps  # resumed from the last checkpoint of all
        if not is_done:
            self.throughput.start()
        micro_batches = [] if is_done else next(epoch_iterator)
        totals = torch.tensor([sum(map(self.count_items, micro_batches)), int(bool(self.stop))], device=device)
        count, wishes = self.accelerator.reduce(totals, "sum").tolist()
        self.run_callback.stop_requested = wishes > 0
        return [micro_batches] if micro_batches else [], count

    def count_items(self, batch: Batch) -> int:
        config = self.args
        labels = (batch["correct"], batch["step_labels"], None, batch.get("prefixes"))
        options = {"step_counts": batch["step_counts"], "num_labels": config.num_labels, "neutral": config.neutral}
        return num_items(config.loss, *labels, **options)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """Tensors on the device, as they are: Trainer's own would cast labels and reference log-probs to bf16."""
        return to_device(inputs, self.args.device) | {"step_counts": inputs["step_counts"]}  # on the CPU no count has to wait

    def floating_point_ops(self, inputs: list[Batch]) -> int:
        """Of the step that `training_step` has just taken; Trainer adds it to `total_flos`."""
        return self.flops_of_step

    def forward_flops(self, batch: Batch) -> int:
        lengths = batch["cu_seqlens"].diff().tolist()
        return forward_flops(
            self.model.config,
            lengths,
            num_steps=len(batch["step_ends"]),
            num_labels=self.encoder.num_labels,
            num_targets=len(batch.get("target_positions", ())),
        )

    # Loss

    def training_step(
        self, model: torch.nn.Module, inputs: list[Batch], num_items_in_batch: int | None = None
    ) -> Float[Tensor, ""]:
        """Forward and backward over the micro-batches of one optimizer step; gradients are synchronized after the last."""
        losses, self.flops_of_step = [], 0
        for number, batch in enumerate(inputs, start=1):
            is_last = number == len(inputs)
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            # DeepSpeed reads the line above; only DDP has to be told not to reduce.
            waits = is_last or self.is_deepspeed_enabled
            with contextlib.nullcontext() if waits else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
            num_tokens, flops = batch["input_ids"].numel(), TRAINING_FACTOR * self.forward_flops(batch)
            self.throughput.add(num_tokens if batch["keys"] else 0, num_tokens, flops)
            self.flops_of_step += flops
        return torch.stack(losses).sum()

    def compute_loss(
        self, model: torch.nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Float[Tensor, ""]:
        """This micro-batch's share of the global mean. Raises FloatingPointError, naming the responses, if it is not finite."""
        assert num_items_in_batch is not None
        outputs = self.step_outputs(model, inputs)
        losses = self.losses(outputs, inputs)
        if LOSSES[self.args.loss].needs == "outcome":
            self.watch(outputs, losses.detach(), inputs)
        loss = global_mean(losses, num_items_in_batch)
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

    def losses(self, outputs: Float[Tensor, "steps labels"], batch: Batch) -> Float[Tensor, "batch"]:
        """Each response's part of the sum that the global number of items divides."""
        padded, mask = pad_steps(outputs, batch["step_counts"])
        labels, _ = pad_steps(batch["step_labels"], batch["step_counts"])
        prefixes = pad_steps(batch["prefixes"], batch["step_counts"])[0] if "prefixes" in batch else None
        options = {name: getattr(self.args, name) for name in OPTIONS}
        return response_losses(self.args.loss, padded, mask, batch["correct"], labels, prefixes, **options)

    # What the log shows

    def watch(self, outputs: Float[Tensor, "steps labels"], losses: Float[Tensor, "batch"], batch: Batch) -> None:
        """Note the loss by number of steps, and in the backward pass which steps it blames (implicit_prm blames all alike)."""
        correct, step_counts = batch["correct"], batch["step_counts"]
        self.means.add_losses(losses.masked_fill(correct.isnan(), torch.nan), step_counts)
        if isinstance(self.model, ImplicitPRM):
            return
        scores, mask = pad_steps(outputs.detach()[:, 0].float(), step_counts)
        outputs.register_hook(lambda g: self.means.add_gradient(pad_steps(g[:, 0].float(), step_counts)[0], scores, mask, correct))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's figures, and of all ranks since the last line: throughput, padding and what `means` holds."""
        if "loss" in logs:
            reduce = partial(self.accelerator.reduce, reduction="sum")
            rates = self.throughput.take(reduce, self.args.world_size, self.args.device)
            rates["hours_left"] = (self.state.max_steps - self.state.global_step) * rates.pop("seconds_per_step") / 3600
            if not self.has_shown_pace:
                logger.info("%(tokens_per_second).0f tokens/s, %(hours_left).2f hours to go without validation", rates)
                self.has_shown_pace = True
            logs |= rates | self.means.take(reduce)
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether this validation is the best so far; if so its checkpoint is saved. Metrics that are undefined never are."""
        is_best = self.args.metric_for_best_model in metrics and super()._determine_best_metric(metrics, trial)
        self.control.should_save |= is_best
        return is_best

    def _load_best_model(self) -> None:
        """Nothing: a finished run copies the best checkpoint's files."""

    # Validation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss, outcome and step metrics on the validation responses; the same on all ranks."""
        self.throughput.pause()
        self.model.eval()
        scored = score_examples(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            self.data_collator,
            self.args.token_budget,
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
        return scores, self.losses(outputs, batch).sum().item(), self.count_items(batch)

    # Saving and loading

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_deepspeed_enabled:
            # ZeRO-3 gives all parameters one step counter when ranks have changed, which then counts once for each of them.
            for state in self.model_wrapped.optimizer.optimizer.state.values():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].clone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with as_saved(self.model):
            self.self_test = self_test(self.model, self.encoder)  # here, where all ranks are: under ZeRO-3 all must take part
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, self.encoder, folder, state_dict, self.self_test)
        if folder.name.startswith(PREFIX):
            save_adapter_state(self.model, folder, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Without DeepSpeed: the saved weights are merged, a run goes on from its adapters as they were."""
        if adapted_layers(self.model):
            load_adapter_state(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes checkpoints: aside, until they are whole."""
        return str(Path(self.args.output_dir) / PARTIAL)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write aside on all ranks, then hash and rename on rank 0: `checkpoint-N` is complete or absent."""
        self.throughput.pause()
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
