"""Which PRM scores, and how: the options of every script that loads one in, a loaded `Scorer` out."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from prm.models import read_contract
from prm.scoring.scorer import Scorer


@dataclass(kw_only=True)
class ModelConfig:
    """A PRM and how it is loaded."""

    model: str | None = None
    """Checkpoint folder written by scripts/train.py, or a published PRM: a folder, or owner/name[@revision] on the hub."""
    recipe: str | None = None
    """How to read a published PRM, where neither its files nor its name tell: a key of RECIPES in prm/models/published, or a YAML
    file that names one (`like`) and the fields of the contract in which the model differs."""
    reference: str | None = None
    """Reference model of an implicit PRM. Default: the one named in the checkpoint."""
    token_budget: int | None = None
    """Tokens per packed row. Default: 16384 on CUDA, 4096 on a CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto is bfloat16 on CUDA and the checkpoint's own elsewhere."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes CUDA where there is one."""

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"--token_budget {self.token_budget}: a row holds at least 1 token, and a longer response whole")
        # What an evaluation's config inherits beside this one has checks of its own.
        getattr(super(), "__post_init__", lambda: None)()

    def check_unused(self, instead: str) -> None:
        """Raises ValueError for an option of the model where `instead` is given and nothing is loaded."""
        changed = [f.name for f in fields(ModelConfig) if getattr(self, f.name) != f.default]
        if self.model is None and changed:
            raise ValueError(f"--{changed[0]} says how --model is loaded, but {instead} is given: leave one of the two out")

    @property
    def models(self) -> list[str | None]:
        """The model and its reference, as given."""
        return [self.model, self.reference]

    @property
    def model_name(self) -> str:
        """What results call the model: the last part of its path or name."""
        return Path(self.model).resolve().name

    @property
    def contract(self) -> dict[str, Any]:
        """How the model reads a response, before any weight is loaded. Raises as `read_contract` does."""
        return read_contract(self.model, self.recipe)

    def load_scorer(self, engine: str = "torch", torch_compile: bool = False) -> Scorer:
        """Raises FileNotFoundError or ValueError as `Scorer.load` does."""
        options = (self.token_budget, self.reference, self.dtype, self.device, engine, torch_compile)
        return Scorer.load(self.model, *options, recipe=self.recipe)
