"""Curvature of a loss by Hessian-vector products: eigenpairs, their drift, traces, densities.

Every function takes an operator, or a loss with its parameters. The parts, one concept each:
``operator`` (products), ``eigensolver`` (Lanczos), ``tracker`` (eigenpairs along a trajectory),
``derivatives`` (of the sharpness and of v_1), ``preconditioned`` (Adam and RMSprop), ``spectrum``
(trace and density).
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
    top_eigenpairs,
)
from flatminima.curvature.operator import HessianOperator, MatrixOperator, SymmetricOperator
from flatminima.curvature.preconditioned import (
    PreconditionedOperator,
    preconditioned_sharpness,
    preconditioner,
)
from flatminima.curvature.spectrum import (
    Estimate,
    SpectralDensity,
    lambda_min,
    spectral_density,
    trace,
)
from flatminima.curvature.tracker import EigenTracker, TrackedPairs

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "EigenResult",
    "EigenTracker",
    "Estimate",
    "HessianOperator",
    "MatrixOperator",
    "PreconditionedOperator",
    "RotationField",
    "SpectralDensity",
    "SymmetricOperator",
    "TrackedPairs",
    "directional_derivatives",
    "lambda_min",
    "preconditioned_sharpness",
    "preconditioner",
    "rotation_field",
    "sharpness_gradient",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]
