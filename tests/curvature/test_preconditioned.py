"""curvature.preconditioned: the P of torch's adaptive optimizers, and the sharpness they feel."""

import numpy as np
import pytest
import torch
from curvature_cases import CASES
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from flatminima import curvature
from flatminima.curvature import HessianOperator, MatrixOperator, PreconditionedOperator
from flatminima.theory import quadratic

EPS = np.finfo(float).eps
OPTIMIZERS = {
    "adam": lambda p: Adam(p, lr=0.01),
    "adam-betas": lambda p: Adam(p, lr=0.02, betas=(0.5, 0.9), eps=1e-3),
    "adam-amsgrad": lambda p: Adam(p, lr=0.05, betas=(0.9, 0.5), amsgrad=True),
    "adam-penalty": lambda p: Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, alpha=0.9),
    "rmsprop-centered": lambda p: RMSprop(p, lr=0.01, alpha=0.9, centered=True, eps=1e-3),
    "rmsprop-penalty": lambda p: RMSprop(p, lr=0.01, weight_decay=0.1),
}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def step(problem, optimizer):
    """One step; the gradient before it, with the parameters before and after."""
    optimizer.zero_grad()
    problem.loss().backward()
    gradient, before = flat(p.grad for p in problem.parameters), flat(problem.parameters)
    optimizer.step()
    return gradient, before, flat(problem.parameters)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_steps_by_its_preconditioner(name):
    """theta moves by -eta P^-1 m, after one step (the largest bias correction) and after more."""
    problem = CASES[0].build()
    optimizer = OPTIMIZERS[name](problem.parameters)
    group = optimizer.param_groups[0]
    for _ in range(6):
        gradient, before, after = step(problem, optimizer)
        states = [optimizer.state[p] for p in problem.parameters]
        momentum = gradient
        if "exp_avg" in states[0]:
            momentum = flat(state["exp_avg"] for state in states)
        elif group["weight_decay"]:
            momentum = gradient + group["weight_decay"] * before
        if name == "adamw":  # the decoupled decay is no part of P
            before = before * (1 - group["lr"] * group["weight_decay"])
        predicted = -group["lr"] * momentum / curvature.preconditioner(optimizer)
        # The update is a product and a quotient of five rounded numbers, known only through a
        # difference of parameters, which rounds at their size.
        bound = 8 * EPS * (predicted.abs() + before.abs() + after.abs())
        assert ((after - before - predicted).abs() <= bound).all()


@pytest.mark.parametrize("case", [CASES[i] for i in (0, 3, 7, 10, 12)], ids=str)
def test_sharpness_against_the_dense_matrix(case):
    problem = case.build()
    optimizer = Adam(problem.parameters, lr=0.01, eps=1e-3)
    for _ in range(3):
        step(problem, optimizer)
    scale = curvature.preconditioner(optimizer).rsqrt()
    dense = scale[:, None] * problem.dense_hessian() * scale
    values = torch.linalg.eigvalsh(dense)
    result = curvature.preconditioned_sharpness(problem, optimizer, tol=1e-9)
    # A residual bounds the error of an eigenvalue.
    assert abs(result - values[-1]) <= 1.1e-9 * values.abs().max()
    operator = problem.hessian()
    again = curvature.preconditioned_sharpness(operator, optimizer, tol=1e-9)
    assert again == pytest.approx(result, rel=2e-9)


def test_eigenvectors_map_to_those_of_the_method():
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian, diagonal = draw + draw.T, torch.linspace(0.5, 4, 6, dtype=torch.float64)
    operator = PreconditionedOperator(MatrixOperator(hessian), diagonal)
    pairs = curvature.top_eigenpairs(operator, k=2, which="both", tol=1e-12)
    for value, u in zip(pairs.eigenvalues, pairs.eigenvectors, strict=True):
        w = u / diagonal.sqrt()
        error = (hessian @ w / diagonal - value * w).norm()
        assert error <= 2e-12 * pairs.eigenvalues.abs().max() * 2  # |P^-1/2| <= sqrt(2), and slack


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("side", [0.98, 1.02])
def test_the_threshold_of_adam_with_a_frozen_preconditioner(beta1, side):
    """Beyond (2 + 2 beta1) / ((1 - beta1) eta) a run grows, below it shrinks (Proposition Q3)."""
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    hessian = draw @ draw.T
    theta = torch.full((4,), 1e-9, dtype=torch.float64, requires_grad=True)

    def loss():
        return 0.5 * theta @ hessian @ theta

    # Averages that neither a gradient this small nor 250 steps of decay can change.
    optimizer = Adam([theta], lr=1.0, betas=(beta1, 1 - 1e-12), eps=1e-8)
    state = optimizer.state[theta]
    state["step"] = torch.tensor(1e15)  # the bias corrections are one
    state["exp_avg"] = torch.zeros_like(theta)
    state["exp_avg_sq"] = torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=torch.float64)
    operator = HessianOperator(loss, [theta])
    sharpness = curvature.preconditioned_sharpness(operator, optimizer, tol=1e-9)
    threshold = float(quadratic.stability_threshold("adam", 1.0, beta1=beta1))
    optimizer.param_groups[0]["lr"] = side * threshold / sharpness
    sizes = []
    for _ in range(250):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        sizes.append(float(theta.detach().norm()))
    # 2% from the threshold, the factor per step along the unstable direction is 0.96 or 1.04
    # without momentum, and farther from one with it (roots of the companion matrix): over 200
    # steps three orders of magnitude either way. The gradients stay too small to change P.
    assert (sizes[-1] > 100 * sizes[50]) == (side > 1)
    assert (sizes[-1] < sizes[50] / 100) == (side < 1)


def test_a_parameter_that_never_moves_has_no_part():
    problem = CASES[0].build()
    spare = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = Adam([*problem.parameters, spare], lr=0.01)
    step(problem, optimizer)
    diagonal = curvature.preconditioner(optimizer)
    assert torch.isinf(diagonal[-3:]).all()
    assert torch.isfinite(diagonal[:-3]).all()
    alone = curvature.preconditioned_sharpness(problem.hessian(), optimizer, tol=1e-9)
    both = curvature.preconditioned_sharpness(problem, optimizer, tol=1e-9)
    assert both == pytest.approx(alone, rel=2e-9)


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (lambda p: SGD(p, lr=0.1), 20.0),
        (lambda p: SGD(p, lr=0.1, momentum=0.9), 38.0),
        (lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5), 76.0),
        (lambda p: SGD(p, lr=0.1, momentum=0.5, nesterov=True), 15.0),
        (lambda p: RMSprop(p, lr=0.1), 20.0),
        (lambda p: RMSprop(p, lr=0.1, momentum=0.9), 38.0),
        (lambda p: Adam(p, lr=0.1), 380.0),
        (lambda p: AdamW(p, lr=0.1, betas=(0.0, 0.9)), 20.0),
    ],
)
def test_the_edge_of_each_optimizer(make, threshold):
    parameters = [torch.ones(1, dtype=torch.float64, requires_grad=True)]
    assert curvature.edge_of_stability(make(parameters)) == pytest.approx(threshold, rel=1e-12)


@pytest.mark.parametrize("side", [0.98, 1.02])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.8, "dampening": 0.3}, {"momentum": 0.8}])
def test_sgd_crosses_its_edge_where_it_is_said_to_be(options, side):
    curve = torch.tensor([1.0, 3.0], dtype=torch.float64)
    theta = torch.full((2,), 1e-9, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: 0.5 * (curve * theta**2).sum(), [theta])
    optimizer = SGD([theta], lr=1.0, **options)
    sharpness = curvature.preconditioned_sharpness(operator, optimizer, tol=1e-9)
    assert sharpness == pytest.approx(3.0, rel=1e-9), "SGD has no preconditioner"
    optimizer.param_groups[0]["lr"] = side * curvature.edge_of_stability(optimizer) / sharpness
    sizes = []
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * (curve * theta**2).sum()).backward()
        optimizer.step()
        sizes.append(float(theta.detach().norm()))
    # 2% off the edge the factor a step is off 1 by 2% or, with momentum 0.8, by a tenth of it.
    assert (sizes[-1] > sizes[100]) == (side > 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_several_rates_the_largest_is_eta_and_p_holds_the_rest(name):
    problem = CASES[0].build()
    optimizer = OPTIMIZERS[name](problem.parameters)
    extra = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "lr")}
    rates = (0.001, 0.02, 0.005, 0.02)
    groups = [
        {"params": [p], "lr": rate, **extra}
        for p, rate in zip(problem.parameters, rates, strict=True)
    ]
    optimizer = type(optimizer)(groups)
    for _ in range(3):
        gradient, before, after = step(problem, optimizer)
    states = [optimizer.state[p] for p in problem.parameters]
    momentum = gradient
    if "exp_avg" in states[0]:
        momentum = flat(state["exp_avg"] for state in states)
    elif extra["weight_decay"]:
        momentum = gradient + extra["weight_decay"] * before
    if name == "adamw":
        own = flat(torch.full_like(p, r) for p, r in zip(problem.parameters, rates, strict=True))
        before = before * (1 - own * extra["weight_decay"])
    predicted = -max(rates) * momentum / curvature.preconditioner(optimizer)
    # As above, and two further roundings for the ratio of the rates.
    bound = 10 * EPS * (predicted.abs() + before.abs() + after.abs())
    assert ((after - before - predicted).abs() <= bound).all()


@pytest.mark.parametrize("side", [0.98, 1.02])
def test_several_rates_cross_their_edge_together(side):
    """Rates (eta, eta / 10) on curvatures (1, 30): the second direction is the sharpest, at 3."""
    curve = torch.tensor([1.0, 30.0], dtype=torch.float64)
    parts = [torch.full((1,), 1e-9, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    loss = lambda: 0.5 * (curve * torch.cat(parts) ** 2).sum()  # noqa: E731
    optimizer = SGD([{"params": parts[:1]}, {"params": parts[1:], "lr": 0.1}], lr=1.0, momentum=0.8)
    operator = HessianOperator(loss, parts)
    sharpness = curvature.preconditioned_sharpness(operator, optimizer, tol=1e-9)
    assert sharpness == pytest.approx(3.0, rel=1e-9)
    factor = side * curvature.edge_of_stability(optimizer) / sharpness
    for group in optimizer.param_groups:
        group["lr"] *= factor
    assert curvature.preconditioned_sharpness(operator, optimizer, tol=1e-9) == pytest.approx(3.0)
    sizes = []
    for _ in range(400):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        sizes.append(float(parts[1].detach().abs()))
    assert (sizes[-1] > sizes[100]) == (side > 1)


def test_a_rate_of_zero_moves_nothing():
    problem = CASES[0].build()
    optimizer = SGD([{"params": problem.parameters[:2], "lr": 0.0},
                     {"params": problem.parameters[2:], "lr": 0.1}])  # fmt: skip
    free = curvature.sharpness(problem.hessian(problem.parameters[2:]), tol=1e-9)
    found = curvature.preconditioned_sharpness(problem, optimizer, tol=1e-9)
    assert found == pytest.approx(free, rel=2e-9)


def test_adamw_need_not_be_a_subclass_of_adam(monkeypatch):
    """As it was not before PyTorch 2.7."""

    class Old(torch.optim.Optimizer):
        pass

    theta = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    new = AdamW([theta], lr=0.1)
    (theta**2).sum().backward()
    new.step()
    old = torch.optim.SGD([theta], lr=0.1)
    old.__class__ = Old
    old.param_groups, old.state = new.param_groups, new.state
    with pytest.raises(ValueError, match="got Old"):
        curvature.preconditioner(old)
    monkeypatch.setattr("flatminima.curvature.preconditioned.AdamW", Old)
    assert torch.equal(curvature.preconditioner(old), curvature.preconditioner(new))
    assert curvature.edge_of_stability(old) == curvature.edge_of_stability(new)


def test_an_optimizer_may_bring_its_own_preconditioner():
    class Own(SGD):
        pass

    class Halved(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1, "momentum": 0.0})

        def preconditioner(self, parameters):
            return torch.cat([torch.full_like(p, 2.0).flatten() for p in parameters])

    problem = CASES[0].build()
    plain = curvature.sharpness(problem, tol=1e-9)
    halved = Halved(problem.parameters)
    assert curvature.preconditioned_sharpness(problem, halved, tol=1e-9) == pytest.approx(plain / 2)
    assert curvature.edge_of_stability(halved) == pytest.approx(20.0)
    own = Own(problem.parameters, lr=0.1)
    assert curvature.preconditioned_sharpness(problem, own, tol=1e-9) == pytest.approx(plain)


def test_bad_arguments_are_named():
    problem = CASES[0].build()
    parameters = problem.parameters
    with pytest.raises(ValueError, match="have a method preconditioner, got LBFGS"):
        curvature.preconditioned_sharpness(problem, LBFGS(parameters))
    with pytest.raises(ValueError, match="no step yet"):
        curvature.preconditioned_sharpness(problem, Adam(parameters))
    with pytest.raises(ValueError, match="a learning rate above 0"):
        curvature.preconditioner(SGD(parameters, lr=0.0))
    groups = [{"params": parameters[:1], "betas": (0.8, 0.999)}, {"params": parameters[1:]}]
    with pytest.raises(ValueError, match=r"one betas in all groups, got \[\(0.8"):
        curvature.edge_of_stability(Adam(groups))
    groups = [{"params": parameters[:1], "momentum": 0.5}, {"params": parameters[1:]}]
    with pytest.raises(ValueError, match="one momentum in all groups"):
        curvature.edge_of_stability(SGD(groups, lr=0.1))
    with pytest.raises(ValueError, match="maximize"):
        curvature.preconditioner(Adam(parameters, maximize=True))
    with pytest.raises(ValueError, match="number 0 does not"):
        curvature.preconditioner(Adam(parameters[1:]), parameters)
    matrix = MatrixOperator(torch.eye(3))
    for bad in (torch.ones(2), torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, torch.nan, 1.0])):
        with pytest.raises(ValueError, match="preconditioner must hold 3 positive"):
            PreconditionedOperator(matrix, bad)
