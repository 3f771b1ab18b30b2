"""flatminima: curvature, training at the edge of stability, and the theory of flat minima.

The names below are the front; the rooms behind it are ``theory`` (NumPy and SciPy alone),
``curvature`` and ``training`` (PyTorch), and ``sweep``. A name is loaded when it is first used, so
that ``import flatminima`` costs next to nothing and needs no PyTorch.

Example:
    How sharp is a network, and at which learning rate does gradient descent lose its footing?

    >>> import torch
    >>> import flatminima as fm
    >>> model = fm.models.mlp([2, 8, 1], "tanh", seed=0)
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    >>> risk = fm.EmpiricalRisk(model, "mse", (x, y))
    >>> round(2 / fm.sharpness(risk), 2)
    0.7
"""

from flatminima._lazy import attach

__version__ = "0.1.0"

_CURVATURE = (
    "EigenTracker",
    "EmpiricalRisk",
    "HessianOperator",
    "adaptive_sharpness",
    "directional_derivatives",
    "edge_of_stability",
    "lambda_min",
    "preconditioned_sharpness",
    "relative_flatness",
    "rotation_field",
    "sharpness",
    "sharpness_gradient",
    "spectral_density",
    "top_eigenpairs",
    "trace",
)
_TRAINING = (
    "ClippedAdam",
    "History",
    "find_episodes",
    "gradient_descent",
    "train",
    "train_to_loss",
)

__getattr__, __dir__, __all__ = attach(
    globals(),
    {
        **dict.fromkeys(_CURVATURE, "flatminima.curvature"),
        **dict.fromkeys(_TRAINING, "flatminima.training"),
        "probes": "flatminima.training.probes",
        "models": "flatminima.models",
        "datasets": "flatminima.datasets",
        "sweep": "flatminima.sweep",
        "plot_run": "flatminima.plotting",
        "Interval": "flatminima.statistics",
        "bootstrap_interval": "flatminima.statistics",
        "ScalarNetwork": "flatminima.theory.scalar_network",
        "DiagonalNetwork": "flatminima.theory.diagonal_network",
        "coupled_dynamics": "flatminima.theory.instability",
        "stability_threshold": "flatminima.theory.quadratic",
    },
)
