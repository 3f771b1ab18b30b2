"""Random losses given by their derivatives at a minimum, and their small cycles of two points."""

from itertools import permutations

import numpy as np


def symmetric(tensors: np.ndarray) -> np.ndarray:
    """The symmetric part of tensors (n, p, ..., p)."""
    orders = list(permutations(range(1, tensors.ndim)))
    return sum(np.transpose(tensors, (0, *order)) for order in orders) / len(orders)


def random_loss(generator, n, p, low=0.2, high=0.8):
    """Hessians with largest eigenvalue 1 and the others between two numbers, and tensors T, Q."""
    basis = np.linalg.qr(generator.normal(size=(n, p, p)))[0]
    values = np.concatenate([generator.uniform(low, high, (n, p - 1)), np.ones((n, 1))], axis=1)
    hessian = np.einsum("nik,nk,njk->nij", basis, values, basis)
    third, fourth = (symmetric(generator.normal(size=(n, *(p,) * k))) for k in (3, 4))
    return hessian, third, fourth


def slopes(x, hessian, third, fourth):
    """Gradient and Hessian at x of x'Hx/2 + T[x,x,x]/6 + Q[x,x,x,x]/24, each (n, ...)."""
    bent = np.einsum("nijk,nk->nij", third, x)
    twice = np.einsum("nijkl,nk,nl->nij", fourth, x, x)
    gradient = np.einsum("nij,nj->ni", hessian + bent / 2 + twice / 6, x)
    return gradient, hessian + bent + twice / 2


def exact_cycles(hessian, third, fourth, amplitude, iterations=12):
    """Cycles m +- z with <v_1, z> given, by Newton's method on the two equations of a cycle.

    Returns the learning rate, m, z and the eigenvalues of the derivative of two steps.
    """
    n, p = hessian.shape[:2]
    values, vectors = np.linalg.eigh(hessian)
    first, rest, inverse = vectors[..., -1], vectors[..., :-1], values[:, -1].copy()
    m, w, eye = np.zeros((n, p)), np.zeros((n, p - 1)), np.eye(p)
    for _ in range(iterations + 1):
        # A sum, which is zero over no directions at all (p = 1).
        z = amplitude * first + (rest * w[:, None]).sum(-1)
        (g1, h1), (g2, h2) = (slopes(m + s * z, hessian, third, fourth) for s in (1, -1))
        misses = np.concatenate([(g1 + g2) / 2, (g1 - g2) / 2 - inverse[:, None] * z], axis=1)
        mean, half = (h1 + h2) / 2, (h1 - h2) / 2
        free = mean - inverse[:, None, None] * eye
        upper = np.concatenate([mean, half @ rest, np.zeros((n, p, 1))], axis=2)
        lower = np.concatenate([half, free @ rest, -z[..., None]], axis=2)
        step = np.linalg.solve(np.concatenate([upper, lower], axis=1), misses[..., None])[..., 0]
        m, w, inverse = m - step[:, :p], w - step[:, p:-1], inverse - step[:, -1]
    assert np.abs(step).max() < 1e-12, "Newton's method has converged"
    eta = 2 / inverse
    two_steps = (eye - eta[:, None, None] * h2) @ (eye - eta[:, None, None] * h1)
    return eta, m, z, np.linalg.eigvals(two_steps)
