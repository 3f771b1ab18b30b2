"""Symmetric linear operators on flat parameter vectors; the Hessian of a loss among them.

An operator is known by its products alone. Vectors are flat, of dimension n, the parameters one
after another in the order given; a set of m vectors is stored row by row, with shape (m, n).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.curvature.losses import checked_value

__all__ = ["HessianOperator", "MatrixOperator", "SymmetricOperator", "Terms"]

Closure = Callable[[], Tensor]
"""A function of no arguments that returns a loss, a scalar tensor, from the current parameters."""


@dataclass(frozen=True)
class Terms:
    """A loss in parts, for data whose graph does not fit into memory: their weighted sum.

    ``each`` begins a pass over the parts: for each a weight and a function of no arguments.
    """

    each: Callable[[], Iterable[tuple[float, Closure]]]


class SymmetricOperator:
    """A symmetric n x n matrix that is given by its products with vectors.

    Subclasses implement ``_products(rows)``.

    Attributes:
        shape: (n, n).
        dtype, device: those of the vectors.
        products: number of matrix-vector products made so far.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = (n, n), dtype, device
        self.products = 0

    def _products(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def matvec(self, vector: Tensor) -> Tensor:
        """Product with one vector (n,) -> (n,)."""
        return self.matmat(vector[None])[0]

    def matmat(self, rows: Tensor) -> Tensor:
        """Products with m vectors, one a row: (m, n) -> (m, n), row i being H times row i."""
        if rows.ndim != 2 or rows.shape[1] != self.shape[0]:
            raise ValueError(
                f"vectors must be of dimension {self.shape[0]}, one a row, got {tuple(rows.shape)}"
            )
        if rows.dtype != self.dtype or rows.device != self.device:
            raise ValueError(
                f"rows must be {self.dtype} on {self.device}, got {rows.dtype} on {rows.device}"
            )
        self.products += len(rows)
        return self._products(rows)


class MatrixOperator(SymmetricOperator):
    """The operator of a symmetric matrix that is stored in full, (n, n)."""

    def __init__(self, matrix: Tensor) -> None:
        square = matrix.ndim == 2 and len(matrix) == matrix.shape[1] > 0
        if not square or not torch.allclose(matrix, matrix.T):
            given = f"got one of shape {tuple(matrix.shape)}"
            raise ValueError(f"matrix must be (n, n), symmetric and finite, {given}")
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix

    def _products(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix


class HessianOperator(SymmetricOperator):
    r"""Hessian :math:`H = \nabla^2 L(\theta)` of a loss at the current parameters, matrix-free.

    A product is a double backward, :math:`Hv = \nabla_\theta \langle \nabla L(\theta), v\rangle`
    (Pearlmutter 1994), through a graph of the gradient that is built once; it costs 1.3 to 2
    gradients. (Several are made one by one: batching them was no faster.) After a change of the
    parameters, make a new operator: a product through the old one is an error.

    The loss must be deterministic (`EmpiricalRisk.hessian` checks it) and twice differentiable
    where it is evaluated. Of ReLU PyTorch's second derivative is zero everywhere: the products
    leave its kinks out. Parameters that the loss does not depend on give rows and columns of zeros.
    A tensor that is used in several places of a model is one parameter, and given once.

    Args:
        loss: function of no arguments that returns the loss, a scalar tensor, from the current
            parameters. Or `Terms`: the graph of each part is then built anew in each call of
            matmat, at the cost of one further gradient: ask for several products in a call.
        parameters: tensors that require a gradient, all of one floating dtype and on one device.

    Attributes:
        loss: value of the loss, a float.
        gradient: (n,) gradient, detached.

    Raises:
        ValueError: parameters empty, repeated, of several dtypes or devices, or not requiring a
            gradient; a loss that is not a scalar, not finite or that depends on no parameter.

    Example:
        >>> import torch
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian = HessianOperator(lambda: theta[0] ** 2 * theta[1], [theta])
        >>> hessian.matvec(torch.tensor([1.0, 0.0]))
        tensor([4., 2.])
    """

    def __init__(self, loss: Closure | Terms, parameters: Iterable[Tensor]) -> None:
        self.parameters = _checked_parameters(parameters)
        self._sizes = [p.numel() for p in self.parameters]
        first = self.parameters[0]
        super().__init__(sum(self._sizes), first.dtype, first.device)
        self._versions = [p._version for p in self.parameters]
        if not callable(loss) and not isinstance(loss, Terms):
            raise ValueError(
                f"loss must be a function of no arguments or Terms, got {type(loss).__name__}"
            )
        self.terms = loss.each if isinstance(loss, Terms) else lambda: [(1.0, loss)]
        self.loss = 0.0
        self.gradient = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        depends = False
        for weight, part in self.terms():
            graph = _GradientGraph(part, self.parameters)
            depends = depends or graph.depends
            self.loss += weight * graph.loss
            self.gradient += weight * flattened(graph.gradients).detach()
        if not depends:
            raise ValueError("loss must depend on the parameters, got one without a gradient graph")
        # Of a loss in one piece the graph serves all products. Of several parts none is kept.
        self._graph = None if isinstance(loss, Terms) else graph

    def check_current(self) -> None:
        """RuntimeError if the parameters have changed since the operator was made."""
        if [p._version for p in self.parameters] != self._versions:
            raise RuntimeError(
                "the parameters have changed since this operator was made: make a new one"
            )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (n,) in the shapes of the parameters."""
        parts = vector.split(self._sizes)
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _products(self, rows: Tensor) -> Tensor:
        self.check_current()
        result = torch.zeros_like(rows)
        for weight, part in self.terms():
            graph = self._graph or _GradientGraph(part, self.parameters)
            for target, row in zip(result, rows, strict=True):
                target.add_(flattened(graph.product(self.split(row))), alpha=weight)
        return result


class _GradientGraph:
    """The loss of one part and its gradients, with the graph that differentiates them again."""

    def __init__(self, loss: Closure, parameters: list[Tensor]) -> None:
        with torch.enable_grad():
            value = checked_value(loss())
            self.loss = value.item()
            self.depends = value.requires_grad
            self.parameters = parameters
            if self.depends:
                self.gradients = gradients(value, parameters, create_graph=True)
            else:
                self.gradients = [torch.zeros_like(p) for p in parameters]

    def product(self, parts: list[Tensor]) -> Sequence[Tensor]:
        # A part of the gradient that does not depend on the parameters (the loss is linear in
        # that part, or free of it) has no graph and contributes nothing.
        live = [i for i, g in enumerate(self.gradients) if g.requires_grad]
        if not live:
            return [torch.zeros_like(p) for p in self.parameters]
        return torch.autograd.grad(
            [self.gradients[i] for i in live],
            self.parameters,
            [parts[i] for i in live],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )


def gradients(
    value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False
) -> Sequence[Tensor]:
    """The derivatives of a scalar in each of the parameters; zeros where there is no dependence."""
    return torch.autograd.grad(
        value, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def flattened(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector, a copy: tensor after tensor, each in row-major order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _checked_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    single = isinstance(parameters, Tensor)
    parameters = [] if single else list(parameters)
    if not parameters:
        given = "a single tensor" if single else "none"
        raise ValueError(f"parameters must be a list of tensors, at least one, got {given}")
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError("parameters must name each tensor once; a shared one is one parameter")
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            raise ValueError(f"parameters must be floating-point tensors, number {i} is not")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameters must all require a gradient, number {i} does not: leave it out to "
                "keep it fixed"
            )
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        kinds = sorted({f"{p.dtype} on {p.device}" for p in parameters})
        raise ValueError(f"parameters must share one dtype and device, got {', '.join(kinds)}")
    return parameters
