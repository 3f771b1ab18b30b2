"""Symmetric linear operators on flat parameter vectors; the Hessian of a loss among them.

An operator is known by its products alone. Vectors are flat, of dimension n, the parameters one
after another in the order given; a set of m vectors is stored row by row, with shape (m, n).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima._validation import a_bool, a_list, instance_of, positive_int, shown
from flatminima.curvature._arguments import a_tensor
from flatminima.curvature._autograd import (
    DerivativeError,
    contradiction,
    derivatives,
    differentiable,
    moved,
    pulled,
    relative_direction,
    split,
)
from flatminima.curvature.losses import checked_value

__all__ = ["DerivativeError", "HessianOperator", "MatrixOperator", "SymmetricOperator", "Terms"]

Closure = Callable[[], Tensor]
"""A function of no arguments that returns a loss, a scalar tensor, from the current parameters."""

HIDDEN = (
    "a part of the loss is hidden from autograd. It may be reentrant checkpointing (give "
    "use_reentrant=False), `detach`, `.data` or `no_grad` in the forward pass, a custom "
    "autograd.Function whose backward cannot be differentiated, a hook that changes gradients, or "
    "a parameter given as a view of the one used. Or all is rounding, as of a saturated softmax "
    "in single precision (give model.double()). With check=False nothing is checked"
)
"""What a derivative may be wrong for."""


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

    Example:
        >>> import torch
        >>> class Twice(SymmetricOperator):
        ...     def _products(self, rows):
        ...         return 2 * rows
        >>> Twice(2, torch.float32, torch.device("cpu")).matvec(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"curvature is computed in the dtype float32 or float64, got {shown(dtype)}: "
                "convert the model and its inputs, as model.float() does"
            )
        n = positive_int("n", n)
        instance_of("device", device, torch.device)
        self.shape, self.dtype, self.device = (n, n), dtype, device
        self.products = 0

    def _products(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def matvec(self, vector: Tensor) -> Tensor:
        """Product with one vector (n,) -> (n,)."""
        if not isinstance(vector, Tensor) or vector.shape != self.shape[:1]:
            raise ValueError(
                f"vector must be a tensor of dimension {self.shape[0]}, got {_kind(vector)}"
            )
        self._check_like("vector", vector)
        return self.matmat(vector[None])[0]

    def matmat(self, rows: Tensor) -> Tensor:
        """Products with m vectors, one a row: (m, n) -> (m, n), row i being H times row i."""
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != self.shape[0]:
            raise ValueError(
                f"rows must be vectors of dimension {self.shape[0]}, one a row of a tensor, got "
                f"{_kind(rows)}"
            )
        self._check_like("rows", rows)
        self.products += len(rows)
        return self._products(rows)

    def _check_like(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != self.dtype or tensor.device != self.device:
            raise ValueError(
                f"{name} must be {self.dtype} on {self.device}, got {tensor.dtype} on "
                f"{tensor.device}"
            )


def _kind(value: object) -> str:
    """What was given in the place of a tensor of another shape."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


class MatrixOperator(SymmetricOperator):
    r"""The operator of a symmetric matrix that is stored in full, (n, n).

    One assembled from products is symmetric up to rounding only: what is stored is its symmetric
    part, and ValueError is raised where the other part is more than :math:`\sqrt\epsilon` of it, in
    the Frobenius norm. That is halfway from rounding to a matrix that is wrong, in powers of ten.

    Example:
        >>> import torch
        >>> MatrixOperator(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).matvec(torch.ones(2))
        tensor([3., 3.])
    """

    def __init__(self, matrix: Tensor) -> None:
        matrix = a_tensor("matrix", matrix)
        square = matrix.ndim == 2 and len(matrix) == matrix.shape[1] > 0
        if not square or matrix.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                "matrix must be (n, n), symmetric and finite, in the dtype float32 or float64, got "
                f"shape {tuple(matrix.shape)} in {matrix.dtype}"
            )
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        unit = matrix.double() / (matrix.abs().max().double() or 1.0)  # whose squares are numbers
        skew = float((unit - unit.T).norm() / 2)
        if skew > torch.finfo(matrix.dtype).eps ** 0.5 * float(unit.norm()):
            raise ValueError(
                "matrix must be symmetric up to rounding, got one whose antisymmetric part is "
                f"{skew / float(unit.norm()):.2g} of it"
            )
        self.matrix = matrix / 2 + matrix.T / 2

    def _products(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix


class HessianOperator(SymmetricOperator):
    r"""Hessian :math:`H = \nabla^2 L(\theta)` of a loss at the current parameters, matrix-free.

    A product is a double backward, :math:`Hv = \nabla_\theta \langle \nabla L(\theta), v\rangle`
    (Pearlmutter 1994), through a graph of the gradient that is built once; it costs 1.3 to 2
    gradients. After a change of the parameters a product is an error: make a new operator.

    The loss must be deterministic (`EmpiricalRisk.hessian` checks it). Of ReLU PyTorch's second
    derivative is zero everywhere: the products leave its kinks out. Parameters that the loss does
    not depend on give rows and columns of zeros. A tensor that is used in several places of a model
    is one parameter. Attention and normalization are evaluated in parts.

    Args:
        loss: function of no arguments that returns the loss, a scalar tensor, from the current
            parameters. Or `Terms`: the graph of each part is then built anew in each call of
            matmat, at the cost of one further gradient: ask for several products in a call.
        parameters: tensors that require a gradient, all float32 or all float64, on one device.
        check: whether the first product and the first third derivative are held against
            differences, at the cost of about four gradients. So what is hidden from autograd (in
            ``detach``, a custom function, a hook) is found. State that the loss keeps moves on.

    Attributes:
        loss: value of the loss, a float.
        gradient: (n,) gradient, detached.

    Raises:
        ValueError: parameters empty, repeated, of several dtypes or devices, or not requiring a
            gradient; a loss that is not a scalar, not finite or that depends on no parameter.
        DerivativeError: the loss has no second derivative, or not the one that PyTorch computes;
            or it writes to the parameters, which are then put back.

    Example:
        >>> import torch
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian = HessianOperator(lambda: theta[0] ** 2 * theta[1], [theta])
        >>> hessian.matvec(torch.tensor([1.0, 0.0]))
        tensor([4., 2.])
    """

    def __init__(
        self, loss: Closure | Terms, parameters: Iterable[Tensor], *, check: bool = True
    ) -> None:
        self.parameters = _checked_parameters(parameters)
        first = self.parameters[0]
        super().__init__(sum(p.numel() for p in self.parameters), first.dtype, first.device)
        if not callable(loss) and not isinstance(loss, Terms):
            raise ValueError(
                f"loss must be a function of no arguments or Terms, got {type(loss).__name__}"
            )
        self.terms = loss.each if isinstance(loss, Terms) else lambda: [(1.0, loss)]
        self.unchecked = {2, 3} if a_bool("check", check) else set()
        """Orders of derivatives that are yet to be checked; operators of one risk share them."""
        self._versions = [p._version for p in self.parameters]
        self._kept = flattened(self.parameters).detach()
        self.loss, self.gradient = 0.0, torch.zeros_like(self._kept)
        used = set()
        for weight, graph in self._graphs():
            used |= graph.used
            self.loss += weight * graph.loss
            self.gradient += weight * flattened(graph.gradients).detach()
        if [p._version for p in self.parameters] != self._versions:
            for p, part in zip(self.parameters, self.split(self._kept), strict=True):
                p.data.copy_(part)
            raise DerivativeError(
                "the loss writes to the parameters while it is evaluated, as "
                "Embedding(max_norm=...) does: give it without"
            )
        if not used:
            raise ValueError(
                "loss must depend on the parameters, got one without a gradient graph from them: "
                "give the tensors that the model holds, not views of them"
            )
        self._idle = [i for i in range(len(self.parameters)) if i not in used]
        # Of a loss in one piece the graph serves all products. Of several parts none is kept.
        self._graph = None if isinstance(loss, Terms) else graph

    def check_current(self) -> None:
        """RuntimeError if the parameters have changed since the operator was made."""
        # A write through `.data` moves no version: the entries are compared, to the bit.
        now = flattened(self.parameters).detach()
        if [p._version for p in self.parameters] != self._versions or not torch.equal(
            now.view(torch.int32), self._kept.view(torch.int32)
        ):
            raise RuntimeError(
                "the parameters have changed since this operator was made: make a new one"
            )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (n,) in the shapes of the parameters."""
        if not isinstance(vector, Tensor) or vector.shape != self.shape[:1] or vector.is_complex():
            raise ValueError(
                f"vector must be a real tensor of dimension {self.shape[0]}, got {_kind(vector)}"
            )
        return split(vector, self.parameters)

    def _products(self, rows: Tensor) -> Tensor:
        self.check_current()
        if 2 in self.unchecked:
            self._check_idle()
            self._check_order(
                2,
                lambda _: self._gradient_now(),
                lambda d: self._products_now(d[None], self._graph)[0],
                here=self.gradient,
            )
        return self._products_now(rows, self._graph)

    def _graphs(self, again: bool = True) -> Iterator[tuple[float, "_GradientGraph"]]:
        """The weight and the graph of each part, at the parameters as they are now."""
        for weight, part in self.terms():
            yield weight, _GradientGraph(part, self.parameters, again)

    def _gradient_now(self) -> Tensor:
        return sum(weight * flattened(graph.gradients) for weight, graph in self._graphs(False))

    def _products_now(self, rows: Tensor, graph: "_GradientGraph | None" = None) -> Tensor:
        """Products at the parameters as they are now, uncounted, through new graphs or one."""
        result = torch.zeros_like(rows)
        for weight, current in self._graphs() if graph is None else [(1.0, graph)]:
            for target, row in zip(result, rows, strict=True):
                target.add_(flattened(current.product(self.split(row))), alpha=weight)
        return result

    def _check_order(
        self,
        order: int,
        vector: Callable[[Tensor], Tensor],
        derivative: Callable[[Tensor], Tensor],
        here: Tensor | None = None,
    ) -> None:
        """Hold differences of a vector, of a random direction d, against its derivative along d.

        ``here`` is the vector at the parameters if it is known. DerivativeError if they certainly
        disagree; else that order counts as checked. Nothing is left changed.
        """
        d, scale = relative_direction(self.parameters)
        if self.gradient.any():
            # An entry without a gradient may be held fixed, as Embedding(padding_idx=...) does.
            d *= self.gradient != 0
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            here, slope = vector(d) if here is None else here, derivative(d)
            miss = contradiction(self.parameters, lambda: vector(d), here, slope, d, scale)
        if miss:
            raise DerivativeError(
                f"differences contradict PyTorch's derivatives of order {order}, which miss them "
                f"by {miss:.0%}: {HIDDEN}"
            )
        self.unchecked.discard(order)

    def _check_idle(self) -> None:
        """Parameters without a gradient must not change the loss: DerivativeError if they do."""
        if not self._idle:
            return
        parameters = [self.parameters[i] for i in self._idle]
        with moved(parameters, relative_direction(parameters)[0], 0.1):
            value = sum(weight * graph.loss for weight, graph in self._graphs(False))
        # Not by rounding, which on a GPU differs from call to call.
        if abs(value - self.loss) > torch.finfo(self.dtype).eps ** 0.5 * abs(self.loss):
            raise DerivativeError(
                f"parameters number {', '.join(map(str, self._idle))} have no gradient, yet a "
                f"change of them changes the loss: {HIDDEN}"
            )


class _GradientGraph:
    """The loss of one part and its gradients, with the graph that differentiates them again."""

    def __init__(self, loss: Closure, parameters: list[Tensor], again: bool) -> None:
        self.parameters = parameters
        with differentiable():
            value = checked_value(loss())
            self.loss, found = value.item(), [None] * len(parameters)
            if value.requires_grad:
                found = derivatives([value], parameters, [torch.ones_like(value)], again, again)
        self.used = {i for i, g in enumerate(found) if g is not None}
        self.gradients = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]

    def product(self, parts: list[Tensor]) -> list[Tensor]:
        with differentiable():
            return pulled(self.gradients, self.parameters, parts)


def gradients(
    value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False
) -> Sequence[Tensor]:
    """The derivatives of a scalar in each of the parameters; zeros where there is no dependence."""
    return pulled([value], parameters, [torch.ones_like(value)], create_graph, create_graph)


def flattened(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector, a copy: tensor after tensor, each in row-major order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _checked_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    single = isinstance(parameters, Tensor)
    parameters = [] if single else a_list("parameters", parameters)
    if not parameters:
        given = "a single tensor" if single else "none"
        raise ValueError(f"parameters must be a list of tensors, at least one, got {given}")
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError("parameters must name each tensor once; a shared one is one parameter")
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            given = getattr(parameter, "dtype", type(parameter).__name__)
            raise ValueError(f"parameters must be floating-point tensors, number {i} is {given}")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameters must all require a gradient, number {i} does not: leave it out to "
                "keep it fixed"
            )
    kinds = sorted({f"{p.dtype} on {p.device}" for p in parameters})
    if len(kinds) > 1:
        raise ValueError(f"parameters must share one dtype and device, got {', '.join(kinds)}")
    return parameters
