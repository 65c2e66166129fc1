"""What happens beside the optimizer: the order of the data on resume, metrics.jsonl, and stopping when asked to."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from prm.files import write_text
from prm.tracking import append_metrics
from prm.training.arguments import TrainingConfig
from prm.training.preemption import EXIT_CODE
from prm.training.sampler import GlobalBatchSampler

logger = logging.getLogger(__name__)


class RunCallback(TrainerCallback):
    """One per run; the trainer sets `sampler` and `stop_requested`, the same on all ranks."""

    def __init__(self) -> None:
        self.sampler: GlobalBatchSampler | None = None
        self.stop_requested = False

    def on_train_begin(self, args: TrainingConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.sampler is not None
        self.sampler.set_epoch(state.global_step // len(self.sampler))
        if state.is_world_process_zero:
            truncate_metrics(args.output_dir, state.global_step)

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append to metrics.jsonl. Raises FloatingPointError for a gradient that is not finite: ZeRO skips its step silently."""
        logs = logs or {}
        if state.is_world_process_zero:
            append_metrics(args.output_dir, {"step": state.global_step, **logs})
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise FloatingPointError(f"gradient norm {logs['grad_norm']} at step {state.global_step}; lower --learning_rate")

    def on_step_end(self, args: TrainingConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stop_requested:
            logger.warning("asked to stop: saving step %d, exit code %d", state.global_step, EXIT_CODE)
            control.should_save = control.should_training_stop = True


def truncate_metrics(output_dir: str | Path, step: int) -> None:
    """Cut the lines that a killed run wrote after `step`: the run that continues there writes them again."""
    file = Path(output_dir) / "metrics.jsonl"
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        write_text(file, "".join(f"{line}\n" for line in lines if json.loads(line).get("step", 0) <= step))
