r"""The spectrum as a whole: its trace, its density, and its lower end.

Standard errors are over the random vectors: they are of this very matrix, not of other seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flatminima._validation import instance_of, positive_float, positive_int, shown
from flatminima.curvature._arguments import torch_generator
from flatminima.curvature._subspace import Subspace, random_rows
from flatminima.curvature.eigensolver import top_eigenpairs
from flatminima.curvature.operator import SymmetricOperator
from flatminima.curvature.risk import EmpiricalRisk, as_operator
from flatminima.statistics import Estimate

__all__ = ["SpectralDensity", "lambda_min", "spectral_density", "trace"]


@dataclass(frozen=True)
class SpectralDensity:
    r"""The distribution of the eigenvalues, smoothed: (1/n) sum_k N(lambda; lambda_k, width^2).

    Attributes:
        grid: (G,) eigenvalues from 6 widths below the smallest Ritz value to 6 above the largest.
        density, error: (G,) estimate, which integrates to 1, and its standard error.
        width: standard deviation of the smoothing kernel.
        nodes, weights: (vectors, steps) Ritz values, and their weights: 1 in all for each vector.
        dimension, products: n, and the number of Hessian-vector products spent.
    """

    grid: np.ndarray
    density: np.ndarray
    error: np.ndarray
    width: float
    nodes: np.ndarray
    weights: np.ndarray
    dimension: int
    products: int

    def share(self, low: float = -np.inf, high: float = np.inf) -> Estimate:
        """Share of all eigenvalues in [low, high], without the smoothing.

        Put the ends into gaps, or far out: in the bulk a Ritz value stands for many eigenvalues.
        """
        for name, end in (("low", low), ("high", high)):
            instance_of(name, end, float, int, np.floating, np.integer)
        if not low <= high:
            raise ValueError(f"low must be at most high, got {shown(low)} and {shown(high)}")
        # A whole number may be larger than all floats.
        low, high = (
            float(np.clip(end, -np.finfo(float).max, np.finfo(float).max)) for end in (low, high)
        )
        inside = (self.nodes >= low) & (self.nodes <= high)
        return averaged(np.sum(self.weights * inside, axis=1))

    def moment(self, power: int) -> Estimate:
        """tr H^power; no error but the statistical one while power < 2 steps.

        Example:
            >>> from flatminima.curvature import MatrixOperator
            >>> density = spectral_density(MatrixOperator(torch.diag(torch.tensor([1.0, 2.0]))))
            >>> round(density.moment(2).value, 4)
            5.0
        """
        power = positive_int("power", power, minimum=0, maximum=1000)
        return averaged(self.dimension * np.sum(self.weights * self.nodes**power, axis=1))


def trace(
    operator: SymmetricOperator | EmpiricalRisk,
    *,
    products: int = 60,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Trace by Hutch++ (Meyer et al. 2021): exact on a sketch of the range, sampled outside of it.

    A third of the products finds an orthonormal Q that spans :math:`H S`, S random signs; another
    third gives :math:`\mathrm{tr}\, Q^\top H Q`; the rest averages :math:`z^\top H z` over random
    signs z with their part in Q projected out.

    Args:
        products: Hessian-vector products to spend, at least 6.
        generator: of the random signs.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> round(trace(MatrixOperator(torch.diag(torch.tensor([1.0, 2.0, 3.0])))).value, 4)
        6.0
    """
    operator = as_operator(operator)
    products = positive_int("products", products, minimum=6)
    generator = torch_generator("generator", generator)
    n = operator.shape[0]
    sketch = min(products // 3, n)
    image = operator.matmat(random_rows(operator, sketch, generator, kind="signs"))
    rows = torch.linalg.qr(image.T)[0].T.contiguous()
    exact = float((rows * operator.matmat(rows)).sum(dtype=torch.float64))
    if sketch == n:
        return Estimate(exact, 0.0)
    samples = products - 2 * sketch
    signs = random_rows(operator, samples, generator, kind="signs")
    outside = signs - (signs @ rows.T) @ rows
    values = (outside * operator.matmat(outside)).sum(1, dtype=torch.float64).cpu().numpy()
    return averaged(exact + values)


def spectral_density(
    operator: SymmetricOperator | EmpiricalRisk,
    *,
    steps: int = 100,
    vectors: int = 8,
    width: float | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    r"""Density of the eigenvalues by stochastic Lanczos quadrature (Lin et al. 2016, Ubaru 2017).

    Lanczos from a random sign vector gives the nodes and weights of a Gauss rule for the
    distribution of the eigenvalues as that vector sees it; here each node carries a normal kernel
    of standard deviation ``width``. The rule is exact to degree 2 steps - 1, which resolves the
    kernel to about :math:`\exp(-8\,(\text{steps} \cdot \text{width} / \text{range})^2)` of it.

    Args:
        steps: products for each random vector (n at most).
        vectors: number of random vectors, at least 2.
        width: of the kernel, in units of eigenvalues; by default 1% of the range of Ritz values.
        generator: of the random vectors.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> values = torch.cat([torch.zeros(90), torch.full((10,), 5.0)])
        >>> density = spectral_density(MatrixOperator(torch.diag(values)), vectors=50)
        >>> round(density.share(low=4.0).value, 3)
        0.1
    """
    operator = as_operator(operator)
    steps = min(positive_int("steps", steps), operator.shape[0])
    vectors = positive_int("vectors", vectors, minimum=2)
    generator = torch_generator("generator", generator)
    rules = [_gauss_rule(operator, steps, generator) for _ in range(vectors)]
    nodes, weights = map(np.array, zip(*rules, strict=True))
    low, high = nodes.min(), nodes.max()
    if width is None:
        # A multiple of the identity has no range but that of rounding; any kernel will do.
        size = max(abs(low), abs(high)) or 1.0
        rounding = operator.shape[0] * torch.finfo(operator.dtype).eps * size
        width = 0.01 * (high - low if high - low > rounding else size)
    width = positive_float("width", width)
    count = int(np.ceil((high - low) / width + 12) * 2) + 1
    grid = np.linspace(low - 6 * width, high + 6 * width, count)
    peaks = 1 / (width * np.sqrt(2 * np.pi))
    kernels = (np.exp(-0.5 * ((grid[:, None] - row) / width) ** 2) for row in nodes)
    samples = peaks * np.array([k @ row for k, row in zip(kernels, weights, strict=True)])
    return SpectralDensity(
        grid, samples.mean(0), _standard_error(samples), width, nodes, weights, operator.shape[0],
        vectors * steps,
    )  # fmt: skip


def lambda_min(operator: SymmetricOperator | EmpiricalRisk, *, tol: float = 1e-4) -> float:
    """Smallest (most negative) eigenvalue; ``tol`` is relative to the largest in absolute value.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> round(lambda_min(MatrixOperator(torch.diag(torch.tensor([4.0, -1.0, 2.0])))), 4)
        -1.0
    """
    return float(top_eigenpairs(operator, 1, "smallest", tol).eigenvalues[0])


def _gauss_rule(
    operator: SymmetricOperator, steps: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, (steps,) each, of the spectral distribution of a random sign vector."""
    space = Subspace(operator, steps)
    space.expand(random_rows(operator, 1, generator, kind="signs"))
    # Where the Krylov space is exhausted early, the rule is exact already.
    while space.room() and space.expand(space.images[space.used - 1][None]):
        pass
    nodes, weights = np.zeros(steps), np.zeros(steps)
    nodes[: space.used] = space.unit * space.values
    weights[: space.used] = space.weights[0] ** 2
    return nodes, weights


def _standard_error(samples: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis."""
    return samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def averaged(samples: Sequence[float]) -> Estimate:
    """The mean of at least two numbers, with its standard error."""
    return Estimate(float(np.mean(samples)), float(_standard_error(np.asarray(samples))))
