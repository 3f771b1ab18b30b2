r"""Gradient methods on a quadratic loss: trajectories, companion matrices, stability thresholds.

The loss is L(theta) = theta^T A theta / 2 with a symmetric matrix A, its Hessian. Along an
eigenvector of A with eigenvalue lambda every method here is a linear recurrence in one unknown, so
that its stability is that of a small matrix. Theorem Q1 is on gradient descent, Proposition Q3 on
momentum and Adam, Proposition Q4 on SGD.
"""

from __future__ import annotations

import numpy as np

from flatminima._validation import (
    a_bool,
    broadcast,
    checked_rates,
    common_shape,
    finite_array,
    finite_float,
    nonnegative_array,
    one_of,
    positive_float,
    positive_int,
)

__all__ = [
    "METHODS",
    "best_learning_rate",
    "companion_matrix",
    "descend",
    "iterate",
    "loss",
    "sgd_covariance_step",
    "sgd_second_moment",
    "spectral_radius",
    "stability_threshold",
]

METHODS = {
    "gd": (),
    "heavy_ball": ("momentum",),
    "nesterov": ("momentum",),
    "rmsprop": ("momentum",),
    "adam": ("beta1",),
}
"""Name of a method -> the names of its coefficients, each in [0, 1). That of ``rmsprop`` may be
left out, and is 0 then."""


def loss(hessian: object, theta: object) -> np.ndarray:
    """Return theta^T A theta / 2, shape (...), for theta of shape (..., n); A as elsewhere here.

    Example:
        >>> float(loss([3.0, 1.0], [1.0, 2.0]))
        3.5
    """
    matrix = _matrix(hessian)
    theta = _vectors("theta", theta, len(matrix))
    return np.sum(theta * (theta @ matrix), axis=-1) / 2


def descend(hessian: object, start: object, learning_rate: object, steps: int) -> np.ndarray:
    """Return the iterates of gradient descent, theta' = theta - eta A theta.

    Args:
        hessian: symmetric A, shape (n, n), or its diagonal (n,) if it is diagonal.
        start: theta_0, shape (..., n).
        learning_rate: eta > 0; an array broadcasts against the batch axes (...) of start.
        steps: number of steps.

    The result is (steps + 1, ..., n), the start first; infinite or NaN past the range of floats.
    ValueError for a matrix that is not symmetric, wrong shapes, or values out of range.

    Example:
        Where eta lambda is 1, one step ends it; at 2 it jumps back and forth; above, it grows:

        >>> descend([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], 1.0, 3)[-1].tolist()
        [0.0, -1.0, -8.0]
    """
    return iterate("gd", hessian, start, learning_rate, steps)


def iterate(
    method: str,
    hessian: object,
    start: object,
    learning_rate: object,
    steps: int,
    **coefficients: float,
) -> np.ndarray:
    r"""Return the iterates of a gradient method on a quadratic, from rest.

    With g_t = A theta_t, and u_{-1} = 0:

    - ``gd``: theta' = theta - eta g.
    - ``heavy_ball`` (Polyak 1964): u_t = momentum u_{t-1} - eta g_t, theta' = theta + u_t.
    - ``nesterov`` (Nesterov 1983): the same with the gradient taken at theta + momentum u_{t-1}.
    - ``adam``: m_t = beta1 m_{t-1} + (1 - beta1) g_t, theta' = theta - eta m_t, on a Hessian that
      is already preconditioned, P^{-1/2} A P^{-1/2}, without the bias correction, whose effect
      dies out like beta1^t.
    - ``rmsprop`` is the heavy ball on such a preconditioned Hessian.

    Methods and coefficients are those of METHODS; all else is as in :func:`descend`.

    Example:
        At eta lambda = 3 plain gradient descent would grow to 2^99; the heavy ball comes to rest:

        >>> float(iterate("heavy_ball", [3.0], [1.0], 1.0, 99, momentum=0.9)[-1, 0].round(3))
        -0.006
    """
    matrix = _matrix(hessian)
    theta, rate = _vectors("start", start, len(matrix)), checked_rates(learning_rate)
    beta, steps = _coefficient(method, coefficients), positive_int("steps", steps)
    shape = (*common_shape(start=theta.shape[:-1], learning_rate=rate.shape), len(matrix))
    rate = rate[..., None]
    path = np.empty((steps + 1, *shape))
    path[0] = theta
    memory = np.zeros(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            point = path[t] + beta * memory if method == "nesterov" else path[t]
            step = -rate * (point @ matrix)
            if method == "adam":
                step = (1 - beta) * step
            memory = beta * memory + step
            path[t + 1] = path[t] + memory
    return path


def companion_matrix(
    method: str, eigenvalue: object, learning_rate: object, **coefficients: float
) -> np.ndarray:
    """Return the matrix that takes (x_t, x_{t-1}) to (x_{t+1}, x_t) along one eigenvector.

    It is [[p, -q], [1, 0]], where p and q are those of Proposition Q3 at x = eta lambda, which
    broadcasts. Shape (..., 2, 2); errors as in :func:`stability_threshold`.

    Example:
        >>> companion_matrix("heavy_ball", 2.0, 0.5, momentum=0.5).tolist()
        [[0.5, -0.5], [1.0, 0.0]]
    """
    beta = _coefficient(method, coefficients)
    x, rates = broadcast(
        eigenvalue=finite_array("eigenvalue", eigenvalue),
        learning_rate=checked_rates(learning_rate),
    )
    x = rates * x
    trace, determinant = {
        "gd": (1 - x, 0 * x),
        "heavy_ball": (1 + beta - x, beta + 0 * x),
        "nesterov": ((1 + beta) * (1 - x), beta * (1 - x)),
        "rmsprop": (1 + beta - x, beta + 0 * x),
        "adam": (1 + beta - (1 - beta) * x, beta + 0 * x),
    }[method]
    matrix = np.zeros((*x.shape, 2, 2))
    matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0] = trace, -determinant, 1
    return matrix


def spectral_radius(matrix: object) -> np.ndarray:
    """Largest absolute eigenvalue of square matrices (..., m, m), shape (...).

    Example:
        >>> edge = stability_threshold("nesterov", 0.1, momentum=0.9)
        >>> float(spectral_radius(companion_matrix("nesterov", edge, 0.1, momentum=0.9)).round(12))
        1.0
    """
    array = finite_array("matrix", matrix)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or not array.shape[-1]:
        raise ValueError(f"matrix must have shape (..., m, m), got {array.shape}")
    return np.max(np.abs(np.linalg.eigvals(array)), axis=-1)


def stability_threshold(method: str, learning_rate: object, **coefficients: float) -> np.ndarray:
    r"""Return the eigenvalue below which a method is stable (Theorem Q1, Proposition Q3).

    ================ ============================================
    ``gd``           2 / eta
    ``heavy_ball``   2 (1 + momentum) / eta
    ``nesterov``     (2 + 2 momentum) / (eta (1 + 2 momentum))
    ``rmsprop``      2 (1 + momentum) / eta, for eigenvalues of P^{-1/2} H P^{-1/2}
    ``adam``         2 (1 + beta1) / (eta (1 - beta1)), for eigenvalues of P^{-1/2} H P^{-1/2}
    ================ ============================================

    eta > 0 may be an array. ValueError for an unknown method, a coefficient other than METHODS
    says, or one outside [0, 1).

    Example:
        The heavy ball is stable where gradient descent, with 20, is not; Nesterov is less so:

        >>> [float(stability_threshold(m, 0.1, momentum=0.5)) for m in ("heavy_ball", "nesterov")]
        [30.0, 15.0]
    """
    beta = _coefficient(method, coefficients)
    factor = {
        "gd": 2.0,
        "heavy_ball": 2 * (1 + beta),
        "nesterov": 2 * (1 + beta) / (1 + 2 * beta),
        "rmsprop": 2 * (1 + beta),
        "adam": 2 * (1 + beta) / (1 - beta),
    }[method]
    return factor / checked_rates(learning_rate)


def best_learning_rate(hessian: object) -> tuple[float, float]:
    """Return the best step 2 / (lambda_1 + lambda_n) of gradient descent and its rate (Q1).

    The rate is the largest factor by which a component shrinks in a step, (K - 1) / (K + 1) with
    K = lambda_1 / lambda_n. ValueError unless the Hessian is positive definite.

    Example:
        >>> best_learning_rate([9.0, 1.0])  # a condition number of 9
        (0.2, 0.8)
    """
    low, high = np.linalg.eigvalsh(_matrix(hessian))[[0, -1]].tolist()
    if low <= 0:
        raise ValueError(f"hessian must be positive definite, got smallest eigenvalue {low}")
    return 2 / (high + low), (high - low) / (high + low)


def sgd_second_moment(
    eigenvalue: object, variance: object, learning_rate: object, batch_size: int = 1
) -> np.ndarray:
    """Return the factor by which E[x^2] grows in a step of SGD in one dimension (Q4).

    It is E[(1 - eta h)^2], where h is the mean of ``batch_size`` independent draws of a curvature
    with mean ``eigenvalue`` and ``variance`` >= 0 (examples drawn with replacement), and all
    examples have their minimum at x = 0. Arguments broadcast.

    Example:
        At half of 2 / lambda single examples of different curvatures diverge, batches do not:

        >>> [float(sgd_second_moment(1.0, 3.0, 1.0, size)) for size in (1, 4)]
        [3.0, 0.75]
    """
    eigenvalue, variance, eta = broadcast(
        eigenvalue=finite_array("eigenvalue", eigenvalue),
        variance=nonnegative_array("variance", variance),
        learning_rate=checked_rates(learning_rate),
    )
    contraction = (1 - eta * eigenvalue) ** 2
    return contraction + eta**2 * variance / positive_int("batch_size", batch_size)


def sgd_covariance_step(
    features: object, learning_rate: float, batch_size: int, *, replacement: bool = True
) -> np.ndarray:
    """Return the matrix that takes vec E[theta theta^T] one step of SGD further (Q4).

    The loss is (1 / 2n) sum_i (x_i . theta)^2, least squares that every example can fit, with the
    minimum moved to the origin; ``features`` (n, p) has x_i in its rows. The matrix is the average
    over all batches, of at most n examples without ``replacement``; it is (p^2, p^2), for vec that
    lays out rows one after another. The second moment is stable exactly if its spectral radius is
    below 1.

    Example:
        With one feature it is :func:`sgd_second_moment`, here of the curvatures 1 and 9:

        >>> float(sgd_covariance_step([[1.0], [3.0]], 0.1, 1)[0, 0].round(12))
        0.41
    """
    features = finite_array("features", features)
    eta = positive_float("learning_rate", learning_rate)
    batch_size, replacement = (
        positive_int("batch_size", batch_size),
        a_bool("replacement", replacement),
    )
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must have shape (n, p), got {features.shape}")
    n, p = features.shape
    if not replacement and batch_size > n:
        raise ValueError(f"batch_size must be at most the {n} examples, got {batch_size}")
    correction = 1.0 if replacement else (n - batch_size) / max(n - 1, 1)
    mean = features.T @ features / n
    contraction = np.eye(p) - eta * mean
    outer = np.einsum("ni,nj->nij", features, features).reshape(n, p * p)
    # <vec(xx^T), vec(S)> vec(xx^T) = vec(xx^T S xx^T), for symmetric S.
    noise = outer.T @ outer / n - np.kron(mean, mean)
    return np.kron(contraction, contraction) + eta**2 * correction / batch_size * noise


def _matrix(hessian: object) -> np.ndarray:
    matrix = finite_array("hessian", hessian)
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"hessian must have shape (n, n) or (n,), got {np.shape(hessian)}")
    # A symmetric matrix that was computed, as X^T X say, is symmetric up to rounding.
    if np.abs(matrix - matrix.T).max() > len(matrix) * np.finfo(float).eps * np.abs(matrix).max():
        raise ValueError("hessian must be symmetric")
    return matrix


def _vectors(name: str, value: object, n: int) -> np.ndarray:
    array = finite_array(name, value)
    if array.shape[-1:] != (n,):
        raise ValueError(f"{name} must have shape (..., {n}) for this hessian, got {array.shape}")
    return array


def _coefficient(method: str, coefficients: dict[str, float]) -> float:
    """Return the one coefficient of a method in [0, 1), 0 for gd; ValueError for any other."""
    allowed = METHODS[one_of("method", method, METHODS)]
    if set(coefficients) != set(allowed) and not (method == "rmsprop" and not coefficients):
        raise ValueError(
            f"{method} takes {' and '.join(allowed) or 'no coefficient'}, got "
            f"{', '.join(sorted(coefficients)) or 'none'}"
        )
    for name, value in coefficients.items():
        number = finite_float(name, value)
        if not 0 <= number < 1:
            raise ValueError(f"{name} must be a number in [0, 1), got {number}")
        return number
    return 0.0
