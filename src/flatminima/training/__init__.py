"""Training that watches itself: descent, any optimizer, minibatches, and cooling.

A run goes down an `EmpiricalRisk`. A *probe* is a function of the `State` of a run that is called
every few steps; its values are kept with their steps in the `History`. A run that diverges is
reported as diverged, and keeps no number from there on. A run may write checkpoints: started again
as it was started before, it goes on from the last one, and ends with the same bits as the run that
was not interrupted (on the same machine).

The parts, one concept each: ``loop`` (the three ways to train), ``history`` (what a run did),
``probes`` (what is measured on its way), ``checkpoint``, ``episodes`` (instabilities in a trace;
needs NumPy alone), ``polarity`` (two tests of rotation), ``optimizers`` (Adam with a clipped second
moment), ``sam`` (sharpness-aware minimization), ``flows`` (gradient flow and central flow: descent
in continuous time). They are loaded when they are first used.
"""

from flatminima._lazy import attach

_HOMES = {
    "DIVERGENCE_FACTOR": "loop",
    "ClippedAdam": "optimizers",
    "Cooling": "history",
    "CorruptCheckpointError": "checkpoint",
    "Episode": "episodes",
    "History": "history",
    "SharpnessAware": "sam",
    "State": "probes",
    "central_flow": "flows",
    "episodes": "episodes",
    "exploration": "exploration",
    "find_episodes": "episodes",
    "flows": "flows",
    "gradient_descent": "loop",
    "gradient_flow": "flows",
    "optimizers": "optimizers",
    "polarity": "polarity",
    "probes": "probes",
    "sam": "sam",
    "train": "loop",
    "train_to_loss": "loop",
}

__getattr__, __dir__, __all__ = attach(
    globals(), {name: f"{__name__}.{home}" for name, home in _HOMES.items()}
)
