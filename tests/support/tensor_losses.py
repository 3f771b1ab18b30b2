"""Random losses with exact derivative tensors, for the tests of the general statements G1 to G5."""

from itertools import permutations
from math import factorial

import numpy as np

from flatminima.theory.tanh_network import TanhNetwork


class Quartic:
    """The polynomial of degree four with the given derivative tensors at zero."""

    def __init__(self, gradient, hessian, third, fourth):
        self.tensors = [np.asarray(a, float) for a in (gradient, hessian, third, fourth)]

    def derivatives(self, theta, order=4):
        """The derivative tensors at theta, from the gradient to the given order."""
        result = []
        for k in range(1, order + 1):
            total = self.tensors[k - 1].copy()
            for m in range(k + 1, 5):
                term = self.tensors[m - 1]
                for _ in range(m - k):
                    term = term @ theta
                total = total + term / factorial(m - k)
            result.append(total)
        return tuple(result)


def symmetric(generator, n, order):
    """A random symmetric tensor with entries of order one."""
    raw = generator.normal(size=(n,) * order)
    return sum(np.transpose(raw, p) for p in permutations(range(order))) / np.sqrt(factorial(order))


def random_quartic(generator, n, *, gap=0.5, stationary=False):
    """A loss whose Hessian at zero has leading eigenvalue 2 and the others at least gap below."""
    q, _ = np.linalg.qr(generator.normal(size=(n, n)))
    values = np.append(2.0, 2.0 - gap - generator.uniform(0, 3, n - 1))
    hessian = (q * values) @ q.T
    gradient = np.zeros(n) if stationary else generator.normal(size=n)
    third, fourth = symmetric(generator, n, 3), symmetric(generator, n, 4)
    return Quartic(gradient, (hessian + hessian.T) / 2, third, fourth)


def random_network(generator):
    """A tanh network with random data, and a point."""
    network = TanhNetwork(2, generator.normal(size=(5, 2)), generator.normal(size=5))
    return network, generator.normal(size=network.size)


def eigenpairs(hessian):
    """Eigenvalues, descending, and eigenvectors, one a row."""
    values, columns = np.linalg.eigh(hessian)
    return values[::-1], columns.T[::-1]
