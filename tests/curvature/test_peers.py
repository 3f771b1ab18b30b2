"""The same curvature as curvlinops (Dangel et al. 2025), written by others, on five models.

It is no requirement of the book: an environment of benchmarks/requirements.txt, with pytest, runs
this file, and elsewhere it is skipped.
"""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk, GaussNewtonOperator

curvlinops = pytest.importorskip("curvlinops")

EXAMPLES, CLASSES = 14, 3
SIZES = [6, 5, 3]
EPS = torch.finfo(torch.float64).eps
TOL = 1e-9


def drawn(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, *shape, generator=generator, dtype=torch.float64)


def labels():
    return torch.randint(CLASSES, (EXAMPLES,), generator=torch.Generator().manual_seed(2))


def network(activation="tanh", outputs=CLASSES):
    return models.mlp([4, 6, 5, outputs], activation, seed=1, dtype=torch.float64)


def convolutional():
    return models.cnn([2, 3], input_shape=(1, 6, 6), outputs=CLASSES, seed=1, dtype=torch.float64)


class Attention(nn.Module):
    """Each input is four places of a sequence, which attend to each other.

    Without LayerNorm: PyTorch 2.13 has a wrong second derivative of it in forward mode, by which
    curvlinops multiplies (pytorch/pytorch issue 196700). The library's are two backward passes,
    which test_gauss_newton.py compares with a layer normalization written out.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.head = nn.Linear(1, 4), nn.Linear(4, CLASSES)
        self.double()

    def forward(self, x):
        hidden = self.embed(x[..., None])
        weights = (hidden @ hidden.transpose(1, 2)).softmax(-1)
        return self.head((hidden + weights @ hidden).tanh().mean(1))


MODELS = {
    "squared": (network, nn.MSELoss(), (4,), lambda: drawn(CLASSES)),
    "sum": (lambda: network("softplus"), nn.MSELoss(reduction="sum"), (4,), lambda: drawn(CLASSES)),
    "binary": (lambda: network("gelu", 2), nn.BCEWithLogitsLoss(), (4,),
               lambda: (drawn(2) > 0).double()),
    "convolutional": (convolutional, nn.CrossEntropyLoss(), (1, 6, 6), labels),
    "attention": (Attention, nn.CrossEntropyLoss(label_smoothing=0.1), (4,), labels),
}  # fmt: skip


def build(name):
    """The risk in batches of unequal size, and what curvlinops takes for the same."""
    make, loss, shape, targets = MODELS[name]
    model = make()
    batches = list(zip(drawn(*shape).split(SIZES), targets().split(SIZES), strict=True))
    risk = EmpiricalRisk(model, loss, batches)
    return risk, (model, loss, risk.parameters, batches)


def eigenvalues(operator, k):
    """The k largest, by ARPACK on the operator of curvlinops."""
    start = np.random.default_rng(0).normal(size=operator.shape[0])
    found = eigsh(operator.to_scipy(), k, which="LA", tol=TOL, v0=start, return_eigenvectors=False)
    return np.sort(found)[::-1]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_products_and_eigenvalues_are_those_of_curvlinops(name, matrix):
    risk, given = build(name)
    if matrix == "hessian":
        own, other = risk.hessian(), curvlinops.HessianLinearOperator(*given)
    else:
        own, other = GaussNewtonOperator(risk), curvlinops.GGNLinearOperator(*given)
    assert tuple(other.shape) == own.shape
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(4, risk.size, generator=generator, dtype=torch.float64)
    theirs = (other @ rows.T).T
    # A product sums some thousand terms through a few layers; both libraries round.
    assert (own.matmat(rows) - theirs).abs().max() <= 1e4 * EPS * theirs.abs().max()
    ours = curvature.top_eigenpairs(own, k=3, tol=TOL).eigenvalues.numpy()
    # Each residual bounds the error of its eigenvalue.
    assert np.abs(ours - eigenvalues(other, 3)).max() <= 2.1 * TOL * np.abs(ours).max()
