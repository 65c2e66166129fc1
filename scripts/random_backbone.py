"""Make a tiny random Qwen2 backbone, with a tokenizer trained on your rollouts: for trying the pipeline without weights."""

from dataclasses import dataclass
from pathlib import Path

from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.data.sources import load_rollouts
from prm.miniature.policy import BaseConfig, new_model
from prm.miniature.tokenizer import build_tokenizer
from prm.tracking import setup_logging, write_manifest


@dataclass
class RandomBackboneConfig:
    """What the tokenizer learns from and where the model goes."""

    rollouts: str = "data/rollouts"
    """Rollouts (or a shape that converts to them) whose questions and responses train the tokenizer."""
    output: str = "outputs/random_backbone"
    """Folder of the checkpoint."""
    vocab_size: int = 2048
    """Tokens of the vocabulary, at the most."""
    num_layers: int = 2
    """Transformer layers."""
    hidden_size: int = 128
    """Width, a multiple of 64."""
    seed: int = 0
    """Seed of the weights."""


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(RandomBackboneConfig, argv, __doc__)
    rollouts = load_rollouts(config.rollouts)
    tokenizer = build_tokenizer((text for r in rollouts for text in (r.question, r.response)), config.vocab_size)
    model = new_model(BaseConfig(num_layers=config.num_layers, hidden_size=config.hidden_size, seed=config.seed), tokenizer)
    model.save_pretrained(config.output)
    tokenizer.save_pretrained(config.output)
    write_manifest(config.output, config, inputs=hash_sources([config.rollouts]), counts={"parameters": model.num_parameters()})
    print(f"{Path(config.output)}: {model.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    run(main)
