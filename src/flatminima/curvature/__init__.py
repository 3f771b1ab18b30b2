"""Curvature of a risk by Hessian-vector products: eigenpairs, their drift, traces, densities.

Every function takes an `EmpiricalRisk` or an operator. The parts, one concept each: ``risk`` (a
model, a loss and data), ``losses``, ``operator`` (products), ``eigensolver`` (Lanczos), ``tracker``
(eigenpairs along a trajectory), ``derivatives`` (of the sharpness and of v_1), ``preconditioned``
(Adam and RMSprop), ``spectrum`` (trace and density), ``measures`` (flatness that knows of scale).
"""

from flatminima.curvature.derivatives import (
    RotationField,
    directional_derivatives,
    rotation_field,
    sharpness_gradient,
)
from flatminima.curvature.eigensolver import (
    ConvergenceError,
    ConvergenceWarning,
    EigenResult,
    sharpness,
    top_eigenpairs,
)
from flatminima.curvature.losses import LOSSES, cross_entropy, mse
from flatminima.curvature.measures import (
    HOMOGENEOUS,
    adaptive_sharpness,
    average_sharpness,
    relative_flatness,
    rescale,
)
from flatminima.curvature.operator import (
    HessianOperator,
    MatrixOperator,
    SymmetricOperator,
    Terms,
)
from flatminima.curvature.preconditioned import (
    PreconditionedOperator,
    edge_of_stability,
    preconditioned_sharpness,
    preconditioner,
)
from flatminima.curvature.risk import EmpiricalRisk, NondeterministicRiskError
from flatminima.curvature.spectrum import (
    SpectralDensity,
    lambda_min,
    spectral_density,
    trace,
)
from flatminima.curvature.tracker import EigenTracker, TrackedPairs

__all__ = [
    "HOMOGENEOUS",
    "LOSSES",
    "ConvergenceError",
    "ConvergenceWarning",
    "EigenResult",
    "EigenTracker",
    "EmpiricalRisk",
    "HessianOperator",
    "MatrixOperator",
    "NondeterministicRiskError",
    "PreconditionedOperator",
    "RotationField",
    "SpectralDensity",
    "SymmetricOperator",
    "Terms",
    "TrackedPairs",
    "adaptive_sharpness",
    "average_sharpness",
    "cross_entropy",
    "directional_derivatives",
    "edge_of_stability",
    "lambda_min",
    "mse",
    "preconditioned_sharpness",
    "preconditioner",
    "relative_flatness",
    "rescale",
    "rotation_field",
    "sharpness",
    "sharpness_gradient",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]
