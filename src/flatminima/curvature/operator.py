"""Symmetric linear operators on flat parameter vectors; the Hessian of a loss among them.

An operator is known by its products alone. Vectors are flat, of dimension n, the parameters one
after another in the order given; a set of m vectors is stored row by row, with shape (m, n).
"""

import functools
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from flatminima._validation import one_of

METHODS = ("double_backward", "forward_over_reverse", "fastest")
Loss = Callable[[], Tensor]


class SymmetricOperator:
    """A symmetric n x n matrix that is given by its products with vectors.

    Subclasses implement ``_products(rows)``.

    Attributes:
        shape: (n, n).
        dtype, device: those of the vectors.
        products: number of matrix-vector products made so far.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (n, n)
        self.dtype = dtype
        self.device = device
        self.products = 0

    def _products(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def matvec(self, vector: Tensor) -> Tensor:
        """Product with one vector (n,) -> (n,)."""
        if vector.shape != (self.shape[0],):
            raise ValueError(
                f"vector must have shape ({self.shape[0]},), got {tuple(vector.shape)}"
            )
        return self.matmat(vector[None])[0]

    def matmat(self, rows: Tensor) -> Tensor:
        """Products with m vectors, one a row: (m, n) -> (m, n), row i being H times row i.

        Raises:
            ValueError: for a wrong shape, dtype or device.
        """
        if rows.ndim != 2 or rows.shape[1] != self.shape[0]:
            raise ValueError(f"rows must have shape (m, {self.shape[0]}), got {tuple(rows.shape)}")
        if rows.dtype != self.dtype or rows.device != self.device:
            raise ValueError(
                f"rows must be {self.dtype} on {self.device}, got {rows.dtype} on {rows.device}"
            )
        self.products += len(rows)
        return self._products(rows)

    def as_linear_operator(self) -> LinearOperator:
        """SciPy's view of the operator: NumPy vectors in the same precision, columns in matmat."""

        def matmat(columns: np.ndarray) -> np.ndarray:
            rows = torch.as_tensor(np.ascontiguousarray(np.reshape(columns, (self.shape[0], -1)).T))
            return self.matmat(rows.to(self.device, self.dtype)).T.cpu().numpy()

        def matvec(column: np.ndarray) -> np.ndarray:
            return matmat(column)[:, 0]

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            self.shape, matvec=matvec, rmatvec=matvec, matmat=matmat, rmatmat=matmat, dtype=dtype
        )


class MatrixOperator(SymmetricOperator):
    """The operator of a symmetric matrix that is stored in full, (n, n)."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
            raise ValueError(f"matrix must have shape (n, n), got {tuple(matrix.shape)}")
        if not torch.allclose(matrix, matrix.T):
            raise ValueError("matrix must be symmetric and finite")
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix

    def _products(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix


class HessianOperator(SymmetricOperator):
    r"""Hessian :math:`H = \nabla^2 L(\theta)` of a loss at the current parameters, matrix-free.

    A product is a double backward, :math:`Hv = \nabla_\theta \langle \nabla L(\theta), v\rangle`
    (Pearlmutter 1994), through a graph of the gradient that is built once and used for every
    product. The graph belongs to the parameters as they are when the operator is made: after
    a change of the parameters, make a new operator (a product through the old one is an error).

    Measured on a CPU (MLP 784-200-200-10 and a small CNN, 1,000 images, float32): a product by
    double backward costs 1.3 and 2 gradients, by forward over reverse 3.2 and 2.7, so the former
    is the default. Several vectors are multiplied one by one: batching them (``is_grads_batched``,
    ``torch.func.vmap``) was no faster on the MLP and about twice as slow on the CNN.

    What the loss must be: deterministic (dropout off, the same data at each call) and twice
    differentiable where it is evaluated. Of a network with ReLU the products are those of the
    piecewise smooth loss with its kinks left out: PyTorch's second derivative of ReLU is zero
    everywhere. Batch normalization belongs in evaluation mode, where its running averages are
    constants; in training mode each call would move them. Parameters that the loss does not depend
    on give rows and columns of zeros. A tensor that is used in several places of a model is one
    parameter, and given once.

    Args:
        loss: function of no arguments that returns the loss, a scalar tensor, from the current
            parameters. Or a sequence of such functions, one a chunk of the data, for data whose
            graph does not fit into memory: the loss is their sum with ``weights``, and only one
            chunk's graph exists at a time. It is built anew for each call of matmat, which costs
            one further gradient: ask for several products in a call.
        parameters: tensors that require a gradient, all of one floating dtype and on one device.
        weights: one number a chunk; required with a sequence of more than one function. Chunks
            that return the mean over n_c of n examples have the weights n_c / n.
        method: ``"double_backward"``; ``"forward_over_reverse"``, the forward derivative of the
            gradient by torch.func; or ``"fastest"``, which times both once on this loss and keeps
            the faster.

    Attributes:
        loss: value of the loss, a float.
        gradient: (n,) gradient, detached.
        method: the method in use.

    Raises:
        ValueError: parameters empty, repeated, of several dtypes or devices, or not requiring a
            gradient; a loss that is not a scalar, not finite or that depends on no parameter.
    """

    def __init__(
        self,
        loss: Loss | Sequence[Loss],
        parameters: Iterable[Tensor],
        *,
        weights: Sequence[float] | None = None,
        method: str = "double_backward",
    ) -> None:
        self.parameters = _checked_parameters(parameters)
        self._sizes = [p.numel() for p in self.parameters]
        first = self.parameters[0]
        super().__init__(sum(self._sizes), first.dtype, first.device)
        self._versions = [p._version for p in self.parameters]
        one_of("method", method, METHODS)
        self._chunks, self._weights = _checked_chunks(loss, weights)
        self.loss = 0.0
        self.gradient = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        depends = False
        for chunk, weight in zip(self._chunks, self._weights, strict=True):
            graph = _GradientGraph(chunk, self.parameters)
            depends = depends or graph.depends
            self.loss += weight * graph.loss
            self.gradient += weight * self._flatten(graph.gradients).detach()
        if not depends:
            raise ValueError("loss must depend on the parameters, got one without a gradient graph")
        # One chunk: its graph serves all products. Several: none is kept, so that they fit.
        self._graph = graph if len(self._chunks) == 1 else None
        self.method = self._fastest() if method == "fastest" else method

    def _flatten(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (n,) in the shapes of the parameters."""
        parts = vector.split(self._sizes)
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _products(self, rows: Tensor) -> Tensor:
        if [p._version for p in self.parameters] != self._versions:
            raise RuntimeError(
                "the parameters have changed since this operator was made: make a new one"
            )
        result = torch.zeros_like(rows)
        for chunk, weight in zip(self._chunks, self._weights, strict=True):
            if self.method == "forward_over_reverse":
                products = self._forward_over_reverse(chunk, rows)
            else:
                graph = self._graph or _GradientGraph(chunk, self.parameters)
                products = [self._flatten(graph.product(self.split(row))) for row in rows]
            for target, product in zip(result, products, strict=True):
                target.add_(product, alpha=weight)
        return result

    def _forward_over_reverse(self, chunk: Loss, rows: Tensor) -> list[Tensor]:
        point = tuple(p.detach() for p in self.parameters)
        gradient = torch.func.grad(functools.partial(_evaluate, chunk, self.parameters))

        def product(row: Tensor) -> Tensor:
            tangents = tuple(self.split(row))
            return self._flatten(torch.func.jvp(gradient, (point,), (tangents,))[1])

        return [product(row) for row in rows]

    def _fastest(self, repeats: int = 3) -> str:
        """Time both methods in turn; the smallest of the times is the least disturbed one."""
        rows = torch.ones(1, self.shape[0], dtype=self.dtype, device=self.device)
        seconds = dict.fromkeys(METHODS[:2], float("inf"))
        for _ in range(repeats):
            for self.method in seconds:
                start = time.perf_counter()
                self._products(rows)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds[self.method] = min(seconds[self.method], time.perf_counter() - start)
        return min(seconds, key=seconds.get)


class _GradientGraph:
    """The loss of one chunk and its gradients, with the graph that differentiates them again."""

    def __init__(self, loss: Loss, parameters: list[Tensor]) -> None:
        with torch.enable_grad():
            value = loss()
            _check_loss(value)
            self.loss = value.item()
            self.depends = value.requires_grad
            self.parameters = parameters
            if self.depends:
                self.gradients = torch.autograd.grad(
                    value, parameters, create_graph=True, allow_unused=True, materialize_grads=True
                )
            else:
                self.gradients = tuple(torch.zeros_like(p) for p in parameters)

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


class _Substitute(TorchFunctionMode):
    """Makes a loss that reads its parameters where they are read other tensors in their place."""

    def __init__(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.table = {id(p): value for p, value in zip(parameters, values, strict=True)}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def swap(tensor: Tensor) -> Tensor:
            return self.table.get(id(tensor), tensor)

        args, kwargs = tree_map_only(Tensor, swap, (args, kwargs or {}))
        return function(*args, **kwargs)


def _evaluate(loss: Loss, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    with _Substitute(parameters, values):
        return loss()


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor, got {given}")
    if not torch.isfinite(value):
        raise ValueError(f"loss must be finite, got {value.item()}")


def _checked_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        raise ValueError("parameters must be a list of tensors, got a single tensor")
    parameters = list(parameters)
    if not parameters:
        raise ValueError("parameters must hold at least one tensor, got none")
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


def _checked_chunks(
    loss: Loss | Sequence[Loss], weights: Sequence[float] | None
) -> tuple[list[Loss], list[float]]:
    chunks = [loss] if callable(loss) else list(loss)
    if not chunks or not all(callable(chunk) for chunk in chunks):
        raise ValueError("loss must be a function, or a sequence of functions, of no arguments")
    if weights is None and len(chunks) > 1:
        raise ValueError(f"weights must be given with a loss in {len(chunks)} chunks")
    weights = [1.0] if weights is None else [float(w) for w in weights]
    if len(weights) != len(chunks) or not np.all(np.isfinite(weights)):
        raise ValueError(f"weights must be {len(chunks)} finite numbers, got {weights}")
    return chunks, weights


def as_operator(
    operator: SymmetricOperator | Loss | Sequence[Loss], parameters: Iterable[Tensor] | None
) -> SymmetricOperator:
    """An operator as it is, or the Hessian of a loss at the parameters given with it."""
    if isinstance(operator, SymmetricOperator):
        if parameters is not None:
            raise ValueError("parameters belong to a loss; an operator has its own")
        return operator
    if parameters is None:
        raise ValueError("parameters must be given together with a loss")
    return HessianOperator(operator, parameters)
