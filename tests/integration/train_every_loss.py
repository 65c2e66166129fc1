"""What `deepspeed` starts in the tests: scripts/train.py once per objective, so that the start-up is paid once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from train import main

from prm.losses import LOSSES

if __name__ == "__main__":
    *flags, output_dir = sys.argv[1:]
    for loss in LOSSES:
        assert main([*flags, "--loss", loss, "--output_dir", f"{output_dir}/{loss}"]) == 0
