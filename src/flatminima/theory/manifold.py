r"""Small networks at their manifolds of minima: Theorems M1 and M2.

The loss is L = 1/(2n) sum_i |f(theta; x_i) - y_i|^2. Where the Jacobian J of all outputs has full
row rank and the residual is zero, the minima near theta form a manifold M with the tangent space
ker J, and the Hessian J^T J / n is zero along M and positive across it. The networks below reach
that state with any parameters: :meth:`SmoothNetwork.with_minimum_at` makes targets of the outputs.
Their derivatives are exact. Everything is batched over leading axes of theta, and so may the
targets be, so that each member of a batch has a problem of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    a_list,
    checked_rates,
    common_shape,
    finite_array,
    instance_of,
    one_of,
    positive_int,
)
from flatminima.theory._jets import Jet, contract, softmax, tanh, variables

__all__ = [
    "MinimumFrame",
    "SmoothNetwork",
    "attention_network",
    "convolution_network",
    "layered_network",
    "minimum_frame",
    "reflected_end",
    "turns_toward_flat",
]

_NEWTON_STEPS = 50


@dataclass(frozen=True, eq=False)
class SmoothNetwork:
    """A network with smooth outputs and the squared loss; made by the functions of this module.

    Example:
        >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
        >>> network.gradient([2.0, 1.0]).tolist(), network.hessian([2.0, 1.0]).tolist()
        ([0.0, 0.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    forward: Callable[[list[Jet]], Jet]
    """From the parameters to the outputs (n, k), as jets."""
    shapes: tuple[tuple[int, ...], ...]
    """The shapes of the parameter arrays, which stand one after the other in theta."""
    examples: int
    """The number n."""
    targets: np.ndarray | None = None
    """Shape (n, k), with batch axes in front if each member has its own; None: not yet given."""

    @property
    def size(self) -> int:
        """The number p of parameters."""
        return sum(prod(shape) for shape in self.shapes)

    def _parameters(self, theta: object, name: str = "theta") -> np.ndarray:
        theta = finite_array(name, theta)
        if theta.shape[-1:] != (self.size,) or theta.size == 0:
            raise ValueError(f"{name} must have shape (..., {self.size}), got {theta.shape}")
        return theta

    def _outputs(self, theta: object, order: int) -> Jet:
        """The jets of all outputs, flattened to shape (..., nk)."""
        return self._jet(self._parameters(theta), order)

    def _jet(self, theta: np.ndarray, order: int) -> Jet:
        jet = self.forward(variables(theta, self.shapes, order))
        batch, p = theta.shape[:-1], self.size
        first = np.broadcast_to(jet.first, (*jet.value.shape, p)).reshape(*batch, -1, p)
        second = None
        if order == 2:
            second = np.broadcast_to(jet.second, (*jet.value.shape, p, p))
            second = second.reshape(*batch, -1, p, p)
        return Jet(jet.value.reshape(*batch, -1), first, second)

    def outputs(self, theta: object) -> np.ndarray:
        """The outputs at theta (..., p), flattened to shape (..., nk)."""
        return self._outputs(theta, 1).value

    def with_minimum_at(self, theta: object) -> SmoothNetwork:
        """The same network with its outputs at theta (..., p) as targets: theta is a minimum."""
        return replace(self, targets=self.outputs(theta))

    def _residual(self, jet: Jet) -> np.ndarray:
        if self.targets is None:
            raise ValueError("the network has no targets: give it some by with_minimum_at")
        return jet.value - self.targets

    def loss(self, theta: object) -> np.ndarray:
        """The loss at theta (..., p), shape (...).

        Example:
            >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
            >>> network.loss([[2.0, 1.0], [2.0, 2.0]]).tolist()
            [0.0, 2.0]
        """
        return np.sum(self._residual(self._outputs(theta, 1)) ** 2, axis=-1) / (2 * self.examples)

    def gradient(self, theta: object) -> np.ndarray:
        """Gradient of the loss at theta (..., p), shape (..., p)."""
        return self._gradient(self._parameters(theta))

    def _gradient(self, theta: np.ndarray) -> np.ndarray:
        jet = self._jet(theta, 1)
        return np.einsum("...i,...ip->...p", self._residual(jet), jet.first) / self.examples

    def hessian(self, theta: object) -> np.ndarray:
        """Hessian of the loss at theta (..., p), shape (..., p, p)."""
        jet = self._outputs(theta, 2)
        outer = np.einsum("...ip,...iq->...pq", jet.first, jet.first)
        bent = np.einsum("...i,...ipq->...pq", self._residual(jet), jet.second)
        return (outer + bent) / self.examples

    def third_at_minimum(self, theta: object, vectors: object) -> np.ndarray:
        """T[a, b, .] for all pairs of ``vectors`` (..., r, p) at minima, shape (..., r, r, p).

        At zero residual the third derivative holds first and second derivatives of the outputs
        alone; elsewhere this leaves out the residual times their third derivative.
        """
        vectors = finite_array("vectors", vectors)
        if vectors.ndim < 2 or vectors.shape[-1] != self.size:
            raise ValueError(f"vectors must have shape (..., r, {self.size}), got {vectors.shape}")
        jet = self._outputs(theta, 2)
        common_shape(theta=jet.value.shape[:-1], vectors=vectors.shape[:-2])
        along = np.einsum("...ip,...ap->...ia", jet.first, vectors)
        bent = np.einsum("...ipq,...ap->...iaq", jet.second, vectors)
        twice = np.einsum("...iaq,...bq->...iab", bent, vectors)
        mixed = np.einsum("...ia,...ibq->...abq", along, bent)
        total = mixed + np.swapaxes(mixed, -2, -3)
        total = total + np.einsum("...iab,...iq->...abq", twice, jet.first)
        return total / self.examples

    def minimum_near(self, theta: object) -> np.ndarray:
        """The minimum of zero loss that Gauss-Newton steps lead to from theta (..., p).

        Each step is the shortest one to where the outputs, made linear, meet the targets. So the
        minimum differs from the nearest one by the order of the squared distance. ValueError if
        the steps do not settle: theta is too far from the minima, or the Jacobian loses rank.

        Example:
            >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
            >>> network.minimum_near([2.0, 1.01]).round(4).tolist()
            [1.996, 1.002]
        """
        return self._minimum_near(self._parameters(theta), "theta")

    def _minimum_near(self, theta: np.ndarray, name: str) -> np.ndarray:
        for _ in range(_NEWTON_STEPS):
            jet = self._jet(theta, 1)
            residual = self._residual(jet)
            gram = np.einsum("...ip,...jp->...ij", jet.first, jet.first)
            try:
                weights = np.linalg.solve(gram, residual[..., None])[..., 0]
            except np.linalg.LinAlgError as error:
                raise ValueError(
                    f"the Jacobian of the outputs lost rank on the way from {name}"
                ) from error
            step = np.einsum("...i,...ip->...p", weights, jet.first)
            theta = theta - step
            # Quadratic convergence: what the next step would be is below rounding.
            if np.all(np.abs(step).max(axis=-1) <= 1e-9 * (1 + np.abs(theta).max(axis=-1))):
                return theta
            if not np.all(np.isfinite(theta)):
                break
        raise ValueError(f"no minimum of zero loss was found: {name} is too far from the minima")

    def descend(
        self, start: object, learning_rate: object, steps: int, record_every: int | None = 1
    ) -> np.ndarray:
        """Iterates of gradient descent from ``start`` (..., p), shape (times, ..., p).

        Recorded are the start, every so many steps after it, and the last; with None the start and
        the last alone. ``learning_rate`` broadcasts against the batch axes. FloatingPointError once
        a member of the batch leaves the finite numbers.
        """
        theta, rates = self._parameters(start, "start"), checked_rates(learning_rate)
        batch = common_shape(start=theta.shape[:-1], learning_rate=rates.shape)
        if 0 in batch:
            raise ValueError("learning_rate must not be empty")
        theta, rates = np.broadcast_to(theta, (*batch, self.size)), rates[..., None]
        steps = positive_int("steps", steps)
        every = steps if record_every is None else positive_int("record_every", record_every)
        path = [theta]
        for t in range(1, steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                theta = theta - rates * self._gradient(theta)
            if not np.all(np.isfinite(theta)):
                raise FloatingPointError(f"gradient descent diverged at step {t}")
            if t % every == 0 or t == steps:
                path.append(theta)
        return np.array(path)


def layered_network(
    widths: Sequence[int], inputs: object, activation: str = "tanh"
) -> SmoothNetwork:
    """A network of matrices W_1, ..., W_l without biases, f(x) = W_l s(... s(W_1 x)).

    ``widths`` are those of the input, the hidden layers and the output, ``inputs`` (n, widths[0]),
    and ``activation`` s is "tanh" or "linear". theta holds the matrices one after the other, each
    (after, before), row by row. ValueError for fewer than two widths or inputs of another width.

    Example:
        >>> layered_network((2, 3, 1), np.ones((5, 2))).outputs(np.zeros(9)).shape
        (5,)
    """
    widths = [positive_int("widths", width) for width in a_list("widths", widths)]
    inputs = _inputs(inputs, 2)
    if len(widths) < 2 or inputs.shape[1] != widths[0]:
        raise ValueError(
            f"widths must begin with that of the inputs, {inputs.shape[1]}, and have two entries "
            f"or more, got {tuple(widths)}"
        )
    smooth = one_of("activation", activation, ("tanh", "linear")) == "tanh"

    def forward(weights: list[Jet]) -> Jet:
        hidden = contract("ni,ai->na", inputs, weights[0])
        for weight in weights[1:]:
            hidden = contract("ni,ai->na", tanh(hidden) if smooth else hidden, weight)
        return hidden

    return SmoothNetwork(forward, tuple(zip(widths[1:], widths[:-1], strict=True)), len(inputs))


def attention_network(inputs: object, width: int) -> SmoothNetwork:
    """One head of softmax attention, read by the last token: f(X) = sum_t s_t w . x_t.

    The shares are s = softmax_t(Q x_T . K x_t) for the tokens x_1, ..., x_T of ``inputs`` (n, T, d)
    with the matrices Q and K (width, d); theta holds Q, K and w (d,).

    Example:
        >>> attention_network(np.ones((4, 3, 2)), 1).outputs(np.ones(6)).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    inputs = _inputs(inputs, 3)
    width, d = positive_int("width", width), inputs.shape[2]

    def forward(weights: list[Jet]) -> Jet:
        query, key, value = weights
        asked = contract("ni,ai->na", inputs[:, -1], query)
        keys = contract("nti,ai->nta", inputs, key)
        shares = softmax(contract("na,nta->nt", asked, keys))
        return contract("nt,nt->n", shares, contract("nti,i->nt", inputs, value))

    return SmoothNetwork(forward, ((width, d), (width, d), (d,)), len(inputs))


def convolution_network(inputs: object, channels: int, kernel: int) -> SmoothNetwork:
    """A convolution, tanh, the mean over positions, and a linear layer, for ``inputs`` (n, length).

    theta holds the kernels (channels, kernel) and the last layer (channels,). ValueError for a
    kernel longer than the inputs.

    Example:
        >>> convolution_network(np.eye(4), 2, 3).outputs(np.zeros(8)).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    inputs = _inputs(inputs, 2)
    channels, kernel = positive_int("channels", channels), positive_int("kernel", kernel)
    if kernel > inputs.shape[1]:
        raise ValueError(
            f"kernel must be at most the inputs' length {inputs.shape[1]}, got {kernel}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(inputs, kernel, axis=1).copy()
    mean = np.full(windows.shape[1], 1 / windows.shape[1])

    def forward(weights: list[Jet]) -> Jet:
        hidden = tanh(contract("nti,ci->ntc", windows, weights[0]))
        return contract("nc,c->n", contract("t,ntc->nc", mean, hidden), weights[1])

    return SmoothNetwork(forward, ((channels, kernel), (channels,)), len(inputs))


def _inputs(inputs: object, axes: int) -> np.ndarray:
    inputs = finite_array("inputs", inputs)
    if inputs.ndim != axes or inputs.size == 0:
        shape = ", ".join(("n", "length", "d")[:axes]) if axes == 3 else "n, d"
        raise ValueError(f"inputs must have shape ({shape}), none of them 0, got {inputs.shape}")
    return inputs


class MinimumFrame(NamedTuple):
    """Directions and rates at a minimum of a manifold M of minima, by :func:`minimum_frame`.

    Example:
        On the hyperbola a b = 2 the point (2, 1) has the sharpness 5, and M a slope there:

        >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
        >>> frame = minimum_frame(network, [2.0, 1.0])
        >>> frame.eigenvalues.round(9).tolist(), float(frame.slope_squared.round(9))
        ([5.0, 0.0], 7.2)
    """

    eigenvalues: np.ndarray
    """Of the Hessian, descending, shape (..., p); zero along M."""
    leading: np.ndarray
    """The eigenvectors of the r leading eigenvalues, one a row, shape (..., r, p)."""
    tangent: np.ndarray
    """An orthonormal basis of the tangent space of M, one vector a row, shape (..., dim M, p)."""
    couplings: np.ndarray
    """T[v_a, v_b, e_k] for basis vectors e_k, shape (..., dim M, r, r): the A_k of Theorem M3."""

    @property
    def slope_squared(self) -> np.ndarray:
        """beta_M = |grad_M lambda_1|^2 of Theorem M1, for r = 1; shape (...)."""
        return np.sum(self.couplings[..., 0, 0] ** 2, axis=-1)


def minimum_frame(network: SmoothNetwork, theta: object, multiplicity: int = 1) -> MinimumFrame:
    """Eigenvectors, tangent space and slopes of the curvature at minima theta (..., p).

    ``multiplicity`` is the number r of leading eigenvalues that are looked at together. ValueError
    if the Jacobian of the outputs does not have full row rank (relative to rounding), if it leaves
    no direction along M, or if r exceeds that rank.

    Example:
        >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([1.0, 1.0])
        >>> minimum_frame(network, [1.0, 1.0]).slope_squared < 1e-20  # the flattest minimum
        np.True_
    """
    r = positive_int("multiplicity", multiplicity)
    jacobian = instance_of("network", network, SmoothNetwork)._outputs(theta, 1).first
    rank, p = jacobian.shape[-2:]
    if not r <= rank < p:
        raise ValueError(
            f"multiplicity: {rank} outputs and {p} parameters leave no frame for {r} directions"
        )
    values, rows = np.linalg.svd(jacobian, full_matrices=True)[1:]
    if np.any(values[..., -1] <= p * np.finfo(float).eps * values[..., 0]):
        raise ValueError("the Jacobian of the outputs must have full row rank at theta")
    squares = values**2 / network.examples
    flat = np.zeros((*squares.shape[:-1], p - rank))
    leading, tangent = rows[..., :r, :], rows[..., rank:, :]
    third = network.third_at_minimum(theta, leading)
    couplings = np.einsum("...abp,...kp->...kab", third, tangent)
    return MinimumFrame(np.concatenate([squares, flat], axis=-1), leading, tangent, couplings)


def reflected_end(network: SmoothNetwork, start: object, learning_rate: object) -> np.ndarray:
    """Sharpness in which a run from ``start`` (..., p) ends by Theorem M1, up to O(h^2).

    It is 2/eta - h with h^2 = eps^2 + beta_M x^2 / 2, of which all is taken at the minimum ahead,
    here :meth:`SmoothNetwork.minimum_near`. ``learning_rate`` broadcasts against the batch axes.

    Example:
        On the hyperbola a b = 2, 1 % above the threshold, against gradient descent:

        >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
        >>> start, eta = np.array([2.0, 1.0 + 1e-4]), 2.02 / 5
        >>> end = network.descend(start, eta, 2000, record_every=None)[-1]
        >>> [float(s.round(3)) for s in (reflected_end(network, start, eta), end @ end)]
        [4.901, 4.904]
    """
    rates = checked_rates(learning_rate)
    start = instance_of("network", network, SmoothNetwork)._parameters(start, "start")
    common_shape(start=start.shape[:-1], learning_rate=rates.shape)
    minimum = network._minimum_near(start, "start")
    frame = minimum_frame(network, minimum)
    x = np.sum(frame.leading[..., 0, :] * (start - minimum), axis=-1)
    excess = frame.eigenvalues[..., 0] - 2 / rates
    return 2 / rates - np.sqrt(excess**2 + frame.slope_squared * x**2 / 2)


def turns_toward_flat(network: SmoothNetwork, path: object) -> np.ndarray:
    """The angles phi_t of Theorem M2 at the points of a ``path`` (..., p), in radians, shape (...).

    phi_t is the angle by which v_1(theta_t) leans out of the space orthogonal to M, at the minimum
    ahead :meth:`SmoothNetwork.minimum_near`, that is toward the flat directions.

    Example:
        >>> network = layered_network((1, 1, 1), [[1.0]], "linear").with_minimum_at([2.0, 1.0])
        >>> turns_toward_flat(network, [[2.0, 1.0], [2.0, 1.01]]).round(4).tolist()
        [0.0, 0.0047]
    """
    path = instance_of("network", network, SmoothNetwork)._parameters(path, "path")
    frame = minimum_frame(network, network._minimum_near(path, "path"))
    leading = np.linalg.eigh(network.hessian(path))[1][..., -1]
    parts = np.einsum("...kp,...p->...k", frame.tangent, leading)
    return np.arcsin(np.minimum(np.linalg.norm(parts, axis=-1), 1.0))
