"""Process reward models: packed rows in, step logits or token log-probs out."""

from prm.models.checkpoint import load_model, read_contract, save_model
from prm.models.implicit import ImplicitPRM
from prm.models.reward_model import RewardModel

__all__ = ["ImplicitPRM", "RewardModel", "load_model", "read_contract", "save_model"]
