"""Curvature of a risk by Hessian-vector products: eigenpairs, their drift, traces, densities.

Every function takes an `EmpiricalRisk` or an operator. Where one has a ``tol``, it is that of
`top_eigenpairs`; a ``generator`` draws on the CPU, and is by default a new one seeded with 0. The
parts, one concept each: ``risk`` (a model, a loss and data), ``losses``, ``operator`` (products),
``eigensolver`` (Lanczos), ``tracker`` (eigenpairs along a trajectory), ``derivatives`` (of the
sharpness and of v_1), ``preconditioned`` (Adam and RMSprop), ``spectrum`` (trace and density),
``measures`` (flatness that knows of scale). They are loaded when they are first used.
"""

from flatminima._lazy import attach

_NAMES = {
    "derivatives": "RotationField directional_derivatives rotation_field sharpness_gradient",
    "eigensolver": "ConvergenceError EigenResult sharpness top_eigenpairs",
    "losses": "LOSSES cross_entropy mse",
    "measures": "HOMOGENEOUS adaptive_sharpness average_sharpness relative_flatness rescale",
    "operator": "HessianOperator MatrixOperator SymmetricOperator Terms",
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
