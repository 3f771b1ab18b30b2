"""Curvature of a risk by Hessian-vector products: eigenpairs, their drift, traces, densities.

Every function takes an `EmpiricalRisk` or an operator. Where one has a ``tol``, it is that of
`top_eigenpairs`; a ``generator`` draws on the CPU, and is by default a new one seeded with 0. The
parts, one concept each: ``risk`` (a model, a loss and data), ``losses``, ``operator`` (products),
``eigensolver`` (Lanczos), ``tracker`` (eigenpairs along a trajectory), ``derivatives`` (of the
sharpness and of v_1), ``preconditioned`` (Adam and RMSprop), ``spectrum`` (trace and density),
``measures`` (flatness that knows of scale), ``gauss_newton`` (the part of the loss), ``layers``
(block by block), ``directional`` (along a step: for large models), ``distributed`` (over
processes). They are loaded when they are first used.
"""

from flatminima._lazy import attach

_NAMES = {
    "derivatives": "RotationField directional_derivatives rotation_field sharpness_gradient",
    "directional": "CriticalSharpness batch_sharpness critical_sharpness directional_sharpness",
    "distributed": "DistributedOperator",
    "eigensolver": "ConvergenceError EigenResult sharpness top_eigenpairs",
    "gauss_newton": "GaussNewtonOperator GaussNewtonShare gauss_newton_share",
    "layers": "LayerCurvature layer_curvature",
    "losses": "LOSSES cross_entropy mse",
    "measures": "HOMOGENEOUS adaptive_sharpness average_sharpness relative_flatness rescale",
    "operator": "DerivativeError HessianOperator MatrixOperator SymmetricOperator Terms",
    "preconditioned": "PreconditionedOperator edge_of_stability preconditioned_sharpness "
    "preconditioner",
    "risk": "EmpiricalRisk NondeterministicRiskError",
    "spectrum": "SpectralDensity lambda_min spectral_density trace",
    "tracker": "EigenTracker TrackedPairs",
}

__getattr__, __dir__, __all__ = attach(
    globals(),
    {name: f"{__name__}.{part}" for part, names in _NAMES.items() for name in names.split()},
)
