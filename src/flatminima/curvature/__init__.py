"""Curvature of a loss by Hessian-vector products: eigenpairs, their drift, traces, densities.

Every function takes an operator, or a loss with its parameters. The parts, one concept each:
``operator`` (products), ``eigensolver`` (Lanczos).
"""

from flatminima.curvature.eigensolver import (
    ConvergenceError,
    ConvergenceWarning,
    EigenResult,
    top_eigenpairs,
)
from flatminima.curvature.operator import HessianOperator, MatrixOperator, SymmetricOperator

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "EigenResult",
    "HessianOperator",
    "MatrixOperator",
    "SymmetricOperator",
    "top_eigenpairs",
]
