"""What `deepspeed` starts in the tests: scripts/train.py once per objective and ZeRO stage, so that the start-up is paid once."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from tiny_training import for_loss  # noqa: E402
from train import main  # noqa: E402
from transformers.utils import is_peft_available  # noqa: E402

from prm.losses import LOSSES  # noqa: E402

if __name__ == "__main__":
    *flags, output_dir = sys.argv[1:]
    for loss in LOSSES:
        assert main([*for_loss(loss, flags), "--output_dir", f"{output_dir}/{loss}"]) == 0
    assert main([*flags, "--token_budget", "120", "--output_dir", f"{output_dir}/budget"]) == 0
    for name in ("zero3", "zero2_offload"):
        config = str(ROOT / "ds_configs" / f"{name}.json")
        for budget in ("16384", "120"):
            options = ["--deepspeed", config, "--token_budget", budget, "--output_dir", f"{output_dir}/{name}-{budget}"]
            assert main([*flags, *options]) == 0
    zero3 = ["--deepspeed", str(ROOT / "ds_configs" / "zero3.json")]
    assert main([*flags, *zero3, "--loss", "implicit_prm", "--output_dir", f"{output_dir}/zero3-implicit_prm"]) == 0
    if is_peft_available():
        assert main([*flags, "--lora_rank", "4", "--output_dir", f"{output_dir}/lora"]) == 0
        assert main([*flags, *zero3, "--lora_rank", "4", "--output_dir", f"{output_dir}/zero3-lora"]) == 0
