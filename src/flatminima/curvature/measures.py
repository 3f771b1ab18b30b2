r"""Measures of flatness beyond the sharpness, and the rescaling that keeps a network's function.

A rescaling changes the sharpness (Dinh et al. 2017). The measures here weigh a perturbation against
the size of what it perturbs, each in its own way.
"""

import torch
from torch import Tensor, nn

from flatminima._validation import instance_of, positive_float, positive_int
from flatminima.curvature._autograd import moved
from flatminima.curvature.eigensolver import sharpness
from flatminima.curvature.operator import flattened
from flatminima.curvature.preconditioned import PreconditionedOperator
from flatminima.curvature.risk import EmpiricalRisk
from flatminima.curvature.spectrum import averaged
from flatminima.statistics import Estimate

__all__ = [
    "HOMOGENEOUS", "adaptive_sharpness", "average_sharpness", "relative_flatness", "rescale",
]  # fmt: skip

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.AvgPool2d, nn.MaxPool2d)
"""Layers without parameters for which f(c x) = c f(x) for every c > 0."""


def rescale(model: nn.Sequential, layer: int, factor: float) -> None:
    r"""Multiply one layer by ``factor`` and divide the next one's weights by it, in place.

    The function of the network stays the same:
    :math:`W_2\,\phi(W_1 x + b_1) = c^{-1} W_2\,\phi(c W_1 x + c b_1)`; with a power of two for a
    factor to the bit. ValueError for a layer or factor out of range, or a layer in between that is
    not HOMOGENEOUS.

    Args:
        model: a Sequential of linear or convolutional layers and layers of HOMOGENEOUS.
        layer: which of the layers with weights is multiplied, from 0; not the last one.
        factor: c > 0.

    Example:
        >>> import torch
        >>> from flatminima import models
        >>> model = models.mlp([2, 4, 1], "relu", seed=0)
        >>> x = torch.tensor([[0.5, -1.0]])
        >>> before = model(x)
        >>> rescale(model, 0, 4.0)
        >>> torch.equal(model(x), before)
        True
    """
    factor, layer = positive_float("factor", factor), positive_int("layer", layer, 0)
    instance_of("model", model, nn.Sequential)
    weighted = [i for i, m in enumerate(model) if isinstance(m, (nn.Linear, nn.Conv2d))]
    if layer >= len(weighted) - 1:
        raise ValueError(f"layer must be from 0 to {len(weighted) - 2}, got {layer!r}")
    first, second = weighted[layer : layer + 2]
    for between in model[first + 1 : second]:
        if not isinstance(between, HOMOGENEOUS):
            raise ValueError(
                "the layers between must be positively homogeneous "
                f"({', '.join(m.__name__ for m in HOMOGENEOUS)}), got {type(between).__name__}"
            )
    with torch.no_grad():
        for parameter in model[first].parameters():
            parameter.mul_(factor)
        model[second].weight.div_(factor)


def adaptive_sharpness(
    risk: EmpiricalRisk, *, tol: float = 1e-4, generator: torch.Generator | None = None
) -> float:
    r"""Largest eigenvalue of D H D with :math:`D = \operatorname{diag}\lvert\theta\rvert`.

    To second order it is twice the worst rise of the loss per squared size of a perturbation
    measured relative to each parameter, the elementwise adaptive sharpness of Kwon et al. (2021).
    It does not change under `rescale` where the loss is twice differentiable.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))  # H = 1
        >>> abs(adaptive_sharpness(risk) / model.weight.item() ** 2 - 1) < 1e-6
        True
    """
    instance_of("risk", risk, EmpiricalRisk)
    scaled = PreconditionedOperator(risk.hessian(), risk.flat().pow(-2))
    return sharpness(scaled, tol=tol, generator=generator)


def average_sharpness(
    risk: EmpiricalRisk, *, radius: float, samples: int, generator: torch.Generator
) -> Estimate:
    r"""Mean rise of the loss under Gaussian noise on the parameters (Andriushchenko et al. 2023).

    :math:`\mathbb{E}_z\, L(\theta + \rho\, d \odot z) - L(\theta)` with :math:`z \sim N(0, I)`
    and :math:`d = \lvert\theta\rvert`. Each z is used with both signs, which removes the gradient's
    share; what is left is :math:`\tfrac12\rho^2 \operatorname{tr}(D H D)` up to the fourth order in
    rho. It does not change under `rescale`, and leaves the parameters as they were.

    Args:
        radius: rho > 0.
        samples: pairs of perturbations, at least 2; the error is that of their mean.
        generator: of the noise.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> noise = torch.Generator().manual_seed(0)
        >>> rise = average_sharpness(risk, radius=0.1, samples=1000, generator=noise)
        >>> abs(rise.value - 0.5 * (0.1 * model.weight.item()) ** 2) < 4 * rise.error
        True
    """
    radius, samples = positive_float("radius", radius), positive_int("samples", samples, 2)
    instance_of("generator", generator, torch.Generator)
    base, rises = instance_of("risk", risk, EmpiricalRisk).value(), []
    for _ in range(samples):
        noise = flattened(
            radius * p.detach().abs() * torch.randn(p.shape, generator=generator).to(p)
            for p in risk.parameters
        )
        pair = 0.0
        for sign in (1, -1):
            with moved(risk.parameters, noise, sign):
                pair += risk.value() / 2
        rises.append(pair - base)
    return averaged(rises)


def relative_flatness(
    risk: EmpiricalRisk, weight: Tensor, *, samples: int, generator: torch.Generator
) -> Estimate:
    r"""Relative flatness of one layer (Petzka et al. 2021); smaller is flatter.

    .. math:: \sum_{s, s'} \langle w_s, w_{s'}\rangle\, \operatorname{tr} H_{s s'}

    with w_s the weights into neuron s, the rows of ``weight``, and H_{ss'} the block of the Hessian
    between the weights of neurons s and s'. Estimated by products: with G a matrix of independent
    signs and U = W G, :math:`\mathbb{E}\langle U, H U\rangle` is the sum above.

    Args:
        weight: (outputs, inputs) weights of a linear layer of the model; as a rule the last one.
        samples: random directions, at least 2.
        generator: of the signs.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.eye(2), torch.zeros(2, 1)))
        >>> signs = torch.Generator().manual_seed(0)
        >>> flatness = relative_flatness(risk, model.weight, samples=10, generator=signs)
        >>> exact = model.weight.square().sum().item()  # tr H = 1
        >>> abs(flatness.value - exact) <= 4 * flatness.error + 1e-5
        True
    """
    if instance_of("weight", weight, Tensor).ndim != 2:
        raise ValueError(f"weight must have shape (outputs, inputs), got {tuple(weight.shape)}")
    if not any(weight is p for p in instance_of("risk", risk, EmpiricalRisk).parameters):
        raise ValueError("weight must be one of the risk's parameters, got another tensor")
    samples = positive_int("samples", samples, 2)
    instance_of("generator", generator, torch.Generator)
    operator = risk.hessian([weight])
    inputs = weight.shape[1]
    values = []
    for _ in range(samples):
        signs = torch.randint(0, 2, (inputs, inputs), generator=generator).mul_(2).sub_(1)
        direction = (weight.detach() @ signs.to(weight)).flatten()
        values.append(float(direction @ operator.matvec(direction)))
    return averaged(values)
