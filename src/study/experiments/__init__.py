"""The sweeps behind the heavier figures, one module each; ``make results`` runs them.

Each has a `Config`, a function `run` of it, a `grid` of them for each preset, and, of the stored
table, its `effects` and `predictions`; its `EXPERIMENT` names them.
"""

__all__ = ["NAMES"]

NAMES = (
    "adam",
    "adam_again",
    "adam_tuned",
    "adam_tuned_rates",
    "arrival",
    "average",
    "cifar",
    "comparison",
    "decay",
    "edge",
    "exploration",
    "flatness",
    "gain",
    "gap",
    "interventions",
    "labels",
    "larger",
    "mirror",
    "natural",
    "noise",
    "onset",
    "restoring",
    "restoring_rates",
    "rotation",
    "sam",
    "scale",
    "sgd",
    "starts",
    "throughput",
    "timing",
)
"""The experiments: of the modules, and of the tables that they give."""
