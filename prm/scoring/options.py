"""Which PRM scores, and how: the options of every script that loads one in; its contract and its reference model out."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from prm.models import read_contract
from prm.models.files import is_path


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
    allow_constant: bool = False
    """Keep scores that hardly depend on the step, such as those of a training that failed. Otherwise they are an error, as such a
    model is probably not read as it was trained."""

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"--token_budget {self.token_budget}: a row holds at least 1 token, and a longer response whole")
        # The config of an evaluation inherits from other classes beside this one, whose checks follow.
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

    @property
    def reference_model(self) -> str | None:
        """Reference of an implicit PRM; None of a model with a head.

        Raises FileNotFoundError for one that is not where it was, ValueError for one that is missing or not needed.
        """
        contract = self.contract
        if contract["num_labels"] != 0:
            if self.reference is not None:
                raise ValueError(
                    f"--reference {self.reference}: {self.model} is no implicit PRM ({contract['loss']}) and has no reference"
                )
            return None
        name = self.reference or contract["reference_model"]
        if name is None:
            raise ValueError(f"{self.model}: names no reference model; give --reference")
        if is_path(name) and not Path(name).is_dir():
            raise FileNotFoundError(
                f"{name}: the reference model of {self.model} is not there; give its new place with --reference"
            )
        return name

    def check_engine(self, engine: str) -> None:
        """Raises ValueError for an option that the engine does not have."""
        ignored = [name for name in ("token_budget", "recipe") if getattr(self, name) is not None]
        ignored += ["device"] * (self.device != "auto")
        if engine == "server" and self.dtype != "auto":
            raise ValueError(f"--dtype {self.dtype}: the server decides that; give it to scripts/export_vllm.py")
        if engine != "torch" and ignored:
            raise ValueError(
                f"--{ignored[0]} is of --engine torch: vLLM packs what was exported by itself and runs on what its build is for; "
                "leave it out"
            )
