"""PRMs that others published, read natively: a hub name or folder in, a model and its step contract out."""

from prm.models.published.load import find_recipe, load_published, published_contract
from prm.models.published.recipes import RECIPES

__all__ = ["RECIPES", "find_recipe", "load_published", "published_contract"]
