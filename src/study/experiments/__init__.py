"""The sweeps behind the heavier figures, one module each; ``make results`` runs them."""

__all__ = ["NAMES"]

NAMES = ("adam", "cifar", "comparison", "edge", "flatness", "sgd")
"""The experiments: of the modules, and of the tables that they give."""
