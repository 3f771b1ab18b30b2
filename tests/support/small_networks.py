"""Forty random points in three classes, and a small network trained on them."""

import torch
from torch import Tensor

from flatminima import models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent


def points() -> tuple[Tensor, Tensor]:
    """Inputs (40, 6) and labels (40,)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 6, generator=generator)
    return inputs, torch.randint(3, (40,), generator=generator)


def trained(seed: int = 1, steps: int = 400) -> EmpiricalRisk:
    """The risk of a network after some steps of descent on the points."""
    risk = EmpiricalRisk(models.mlp([6, 8, 8, 3], scale=0.5, seed=seed), "mse", points())
    gradient_descent(risk, 0.2, steps, progress=False)
    return risk
