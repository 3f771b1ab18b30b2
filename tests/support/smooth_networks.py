"""Small networks for Theorems M1 to M3, and the same outputs in PyTorch, written on their own."""

from math import prod

import numpy as np
import torch
from scipy.optimize import least_squares

from flatminima.theory import averaged, manifold

_DRAWS = np.random.default_rng(0)
_POINTS = np.array([[1.5, 0.2], [-0.3, 1.5], [1.0, -1.2]])
_TOKENS = _DRAWS.normal(size=(3, 3, 2))
_SIGNALS = _DRAWS.normal(size=(3, 5))

NETWORKS = {
    "linear, two layers": manifold.layered_network((2, 3, 1), _POINTS[:2], "linear"),
    "linear, three layers": manifold.layered_network((2, 2, 2, 1), _POINTS[:2], "linear"),
    "tanh, one hidden layer": manifold.layered_network((2, 3, 1), _POINTS),
    "tanh, two hidden layers": manifold.layered_network((2, 3, 2, 1), _POINTS),
    "softmax attention": manifold.attention_network(_TOKENS, 1),
    "convolution": manifold.convolution_network(_SIGNALS, 2, 3),
}


def torch_outputs(name):
    """The outputs of a network as a function of one vector of parameters."""
    shapes = NETWORKS[name].shapes

    def outputs(theta):
        pieces = torch.split(theta, [prod(shape) for shape in shapes])
        w = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        if name == "softmax attention":
            tokens = torch.tensor(_TOKENS)
            scores = (tokens @ w[1].T @ (tokens[:, -1:] @ w[0].T).transpose(1, 2))[..., 0]
            return (torch.softmax(scores, dim=1) * (tokens @ w[2])).sum(dim=1)
        if name == "convolution":
            hidden = torch.nn.functional.conv1d(torch.tensor(_SIGNALS)[:, None], w[0][:, None])
            return torch.tanh(hidden).mean(dim=2) @ w[1]
        x = torch.tensor(_POINTS[: NETWORKS[name].examples])
        for matrix in w[:-1]:
            x = x @ matrix.T if "linear" in name else torch.tanh(x @ matrix.T)
        return (x @ w[-1].T).flatten()

    return outputs


def well_posed_minima(name, count, seed):
    """Random minima of a network with a simple sharpness that changes along them.

    Returns the network with its targets there, the minima (count, p) and their frames. Well posed
    means that no constant of Theorem M1 is extreme: gaps, slopes and stiff eigenvalues are within
    a factor of some ten of the sharpness, so that its O(h^2) shows at h of a hundredth of it.
    """
    network = NETWORKS[name]
    theta = np.random.default_rng(seed).normal(size=(4000, network.size))
    jacobian = network._outputs(theta, 1).first
    theta = theta[np.linalg.svd(jacobian, compute_uv=False)[:, -1] > 0.1]
    frame = manifold.minimum_frame(network.with_minimum_at(theta), theta)
    values, rank = frame.eigenvalues, frame.eigenvalues.shape[-1] - frame.tangent.shape[-2]
    slope = np.sqrt(frame.slope_squared) * np.linalg.norm(theta, axis=-1)
    good = (values[:, 1] < 0.8 * values[:, 0]) & (slope > 0.5 * values[:, 0])
    good &= values[:, rank - 1] > 0.05 * values[:, 0]
    theta = theta[good][:count]
    assert len(theta) == count, f"{name}: {len(theta)} minima are well posed"
    network = network.with_minimum_at(theta)
    return network, theta, manifold.minimum_frame(network, theta)


def directions(frame, generator):
    """Random unit vectors at minima: up the slope of the sharpness, level along M, and stiff."""
    count, p = frame.eigenvalues.shape
    up = frame.couplings[..., 0, 0] / np.sqrt(frame.slope_squared)[:, None]
    level = generator.normal(size=up.shape)
    level -= np.sum(level * up, axis=-1, keepdims=True) * up
    raw = generator.normal(size=(count, p))
    edge = frame.leading[:, 0]
    stiff = raw - np.sum(raw * edge, axis=-1, keepdims=True) * edge
    stiff -= np.einsum("bkp,bkq,bq->bp", frame.tangent, frame.tangent, raw)
    found = [np.einsum("bk,bkp->bp", part, frame.tangent) for part in (up, level)] + [stiff]
    return [u / np.linalg.norm(u, axis=-1, keepdims=True) for u in found]


def starts_at(theta, frame, h, generator):
    """Starts with the radius h of Theorem M1, in units of the sharpness, up to its square.

    They point in all directions in the plane of excess and displacement, the first half with a
    positive excess and the second with a negative one, and are moved along M and across it too.
    """
    up, level, stiff = directions(frame, generator)
    count = len(theta)
    # Away from the vertical axis, where a run takes very long to leave the edge.
    angle = np.pi * np.linspace(0.06, 0.94, count) * generator.choice([-1, 1], count)
    radius = (h * frame.eigenvalues[:, 0] / np.sqrt(frame.slope_squared))[:, None]
    plane = np.cos(angle)[:, None] * up + np.sqrt(2) * np.sin(angle)[:, None] * frame.leading[:, 0]
    return theta + radius * (plane + 0.5 * level + 0.3 * stiff)


def edge_minimum(name, multiplicity, seed):
    """A random minimum at which the leading eigenvalues coincide, with a direction that lowers all.

    Returns the network with its targets there, the minimum, its frame, and the unit vector n of
    Theorem M3. Parameters are found that make the nonzero eigenvalues of H in a fixed basis of the
    outputs equal for the first, and smaller for the others.
    """
    network, generator = NETWORKS[name], np.random.default_rng(seed)
    r = multiplicity
    for _ in range(50):
        begin = 1.5 * generator.normal(size=network.size)
        rank = network.outputs(begin).size
        turn = np.linalg.qr(generator.normal(size=(rank, rank)))[0]

        def misfit(theta, turn=turn, rank=rank):
            jacobian = turn @ network._outputs(theta, 1).first
            gram = jacobian @ jacobian.T
            ties = [gram[a, b] for a in range(rank) for b in range(a)]
            return np.array(ties + [gram[a, a] - gram[0, 0] for a in range(1, r)])

        theta = least_squares(misfit, begin, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        if np.abs(misfit(theta)).max() > 1e-12:
            continue
        there = network.with_minimum_at(theta)
        frame = manifold.minimum_frame(there, theta, r)
        values = frame.eigenvalues
        n = averaged.stabilizing_direction(frame.couplings)
        if n is None or np.ptp(values[:r]) > 1e-9 * values[0]:
            continue
        slope = np.linalg.eigvalsh(np.tensordot(n, frame.couplings, 1))[0]
        stiff = values[r:rank]
        if slope * np.linalg.norm(theta) > 0.3 * values[0] and np.all(
            (stiff < 0.8 * values[0]) & (stiff > 0.03 * values[0])
        ):
            return there, theta, frame, n
    raise AssertionError(f"{name}: no minimum with {r} equal eigenvalues was found")
