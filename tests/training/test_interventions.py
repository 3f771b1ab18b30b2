"""interventions: the split is gradient descent, its even part is the rotation, and parts go."""

import numpy as np
import pytest
import small_networks
import torch

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent
from flatminima.training.interventions import CenteredDescent

OFFSET = 1e-3


@pytest.fixture(scope="module")
def start():
    """A risk in float64 on the way to a minimum, and its parameters there."""
    inputs, labels = small_networks.points()
    model = models.mlp([6, 8, 8, 3], seed=1, dtype=torch.float64)
    risk = EmpiricalRisk(model, "mse", (inputs.double(), labels))
    gradient_descent(risk, 0.1, 150, progress=False)
    return risk, risk.flat().clone()


def at_start(start, factor=1.5, **parts):
    """Center and displacement at the start, at a rate with the sharpness at factor * 2 / eta."""
    risk, theta = start
    put(risk, theta)
    rate = factor * 2 / curvature.sharpness(risk)
    return CenteredDescent(risk, rate, **{"offset": OFFSET, **parts})


def put(risk, theta):
    with torch.no_grad():
        for part, parameter in zip(risk.unflatten(theta).values(), risk.parameters, strict=True):
            parameter.copy_(part)


def edge(descent):
    return 2 / descent.learning_rate


def test_with_all_its_parts_it_is_gradient_descent_to_rounding(start):
    risk, theta = start
    split = at_start(start)
    motion = split.run(60)
    rate = split.learning_rate
    # It has left the linear regime, and rounding has been amplified by what an instability is.
    assert motion.size.max() > 30 * OFFSET
    put(risk, theta)
    gradient_descent(risk, rate, 60, progress=False)
    assert torch.allclose(split.theta, risk.flat(), rtol=1e-8, atol=1e-9)
    # The model is where the parameters are.
    put(risk, split.theta)
    assert split.loss <= risk.value()


def test_the_parameters_do_not_move_when_the_split_is_renewed(start):
    """One step from any displacement is one step of gradient descent, whatever V is."""
    risk, _ = start
    split = at_start(start, offset=0.3, tol=0.1)
    split.run(3)
    theta = split.theta.clone()
    put(risk, theta)
    expected = theta - split.learning_rate * risk.gradient()
    split.step()
    assert torch.allclose(split.theta, expected, rtol=1e-12, atol=1e-13)


def test_the_even_part_across_is_the_rotation(start):
    """G3: with V of one dimension it is x^2 / 2 (lambda_1 - H) rho, up to a relative O(x^2)."""
    risk, theta = start
    put(risk, theta)
    values = curvature.top_eigenpairs(risk, k=2, tol=1e-9)
    first, second = values.eigenvalues.tolist()
    # 1 / eta between the first two eigenvalues; the center is displaced by x.
    rate = 2 / (first + second)
    errors = []
    for x in (4e-3, 2e-3):
        ends = []
        for across in (1.0, 0.0):
            put(risk, theta)
            split = CenteredDescent(risk, rate, across=across, offset=x, tol=1e-9)
            center = split.center.clone()
            assert len(split.eigenvectors) == 1
            split.step()
            ends.append(split.theta)
        drift = (ends[0] - ends[1]) / -rate
        put(risk, center)
        hessian = risk.hessian()
        pairs = curvature.top_eigenpairs(hessian, k=2, tol=1e-9)
        rho = curvature.rotation_field(hessian, pairs=pairs, tol=1e-9).field
        expected = x**2 / 2 * (pairs.eigenvalues[0] * rho - hessian.matvec(rho))
        errors.append(float((drift - expected).norm() / expected.norm()))
    assert errors[0] < 0.05
    # V at the start is that of theta, a distance x from the center: the error is of order x.
    assert errors[1] < 0.6 * errors[0]


def test_directions_are_all_whose_sign_a_step_changes(start):
    split = at_start(start)
    for _ in range(5):
        split.step()
        put(split.risk, split.center)
        every = torch.eye(split.risk.size).double()
        dense = torch.linalg.eigvalsh(split.risk.hessian().matmat(every))
        count = int((dense > 1 / split.learning_rate).sum())
        assert abs(len(split.eigenvectors) - count) <= 1
        assert split.sharpness == pytest.approx(float(dense[-1]), rel=0.02)
        gram = split.eigenvectors @ split.eigenvectors.T
        assert torch.allclose(gram, torch.eye(len(gram)).double(), atol=1e-10)
        # D lies in V.
        inside = split.amplitudes @ split.eigenvectors
        assert torch.allclose(inside, split.displacement, atol=1e-12)


def ends(start, **parts):
    """Mean sharpness at the center over the last third of 90 steps, in units of 2 / eta."""
    split = at_start(start, **parts)
    motion = split.run(90)
    assert not motion.diverged
    return float(motion.sharpness[-30:].mean() / edge(split)), motion


@pytest.fixture(scope="module")
def arms(start):
    made = {"all": ends(start), "across": ends(start, within=0.0)}
    size = made["all"][1].size
    split = at_start(start, across=0.0)
    motion = split.run(90, limits=np.append(size[1:], size[-1]))
    made["within"] = float(motion.sharpness[-30:].mean() / edge(split)), motion
    made["drift"] = ends(start, oscillates=False)
    split = at_start(start, oscillates=False, across=-1.0)
    motion = split.run(90, amplitudes=made["drift"][1].amplitudes)
    made["reversed"] = float(motion.sharpness[-30:].mean() / edge(split)), motion
    return made


def test_the_part_across_holds_the_sharpness_at_the_edge_and_no_other_does(arms):
    sharp = {name: value for name, (value, _) in arms.items()}
    # Measured in units of what the rotation does: from where it is without to with.
    gap = sharp["within"] - sharp["all"]
    assert gap > 0.2
    for name in ("across", "drift"):
        assert abs(sharp[name] - sharp["all"]) < 0.25 * gap, name
    assert sharp["reversed"] > sharp["within"]


def test_limits_hold_the_displacement_and_say_when(arms):
    motion, free = arms["within"][1], arms["all"][1]
    assert motion.capped.dtype == bool
    assert motion.capped.mean() > 0.3
    assert not free.capped.any()
    assert np.all(motion.size[1:] <= free.size[1:] * (1 + 1e-12))


def test_amplitudes_are_the_displacement_in_v(arms):
    motion = arms["drift"][1]
    assert len(motion.amplitudes) == len(motion.loss) == len(motion.directions) == 90
    assert [len(a) for a in motion.amplitudes] == motion.directions.tolist()
    assert np.allclose([np.linalg.norm(a) for a in motion.amplitudes], motion.size, rtol=1e-10)


def test_parameters_that_do_not_oscillate_are_the_center(start):
    """The displacement changes its sense at each step, or at none."""
    for oscillates, sense in ((True, -1.0), (False, 1.0)):
        split = at_start(start, oscillates=oscillates)
        assert torch.allclose(split.theta, start[1], rtol=1e-12)
        # At the first step the center comes to rest along V, and the displacement has the rest.
        split.step()
        for _ in range(5):
            before = split.displacement
            split.step()
            assert np.sign(float(before @ split.displacement)) == sense
            assert oscillates or torch.equal(split.theta, split.center)


def test_below_the_threshold_of_sign_changes_v_is_empty_and_it_is_still_descent(start):
    risk, theta = start
    split = at_start(start, factor=0.4)
    split.run(20)
    assert split.eigenvectors.shape == (0, risk.size)
    put(risk, theta)
    gradient_descent(risk, split.learning_rate, 20, progress=False)
    assert torch.allclose(split.theta, risk.flat(), rtol=1e-9)


def linear(slope=1.0):
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(model.weight, slope)
    x = torch.ones(1, 1, dtype=torch.float64)
    return EmpiricalRisk(model, "mse", (x, 0 * x))


def test_a_quadratic_has_no_even_part_and_its_center_rests_at_the_minimum():
    split = CenteredDescent(linear(), 2.5, offset=1e-3)
    motion = split.run(8)
    assert np.allclose(motion.size[1:], 1.5 ** np.arange(1, 8), rtol=1e-9)
    assert np.allclose(split.center, 0, atol=1e-12)


def test_a_run_that_diverges_ends_and_says_so(start):
    risk, theta = start
    put(risk, theta)
    split = CenteredDescent(risk, 1e6, offset=1.0)
    motion = split.run(50)
    assert motion.diverged
    assert len(motion.loss) < 50
    assert np.isfinite(motion.sharpness).all()
    with pytest.raises(ValueError, match="diverged"):
        split.step()
    assert len(split.run(3).loss) == 0


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"risk": 1}, TypeError, "EmpiricalRisk, got int"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be"),
        ({"across": np.nan}, ValueError, "across must be a finite"),
        ({"within": np.inf}, ValueError, "within must be a finite"),
        ({"offset": np.nan}, ValueError, "offset must be a finite"),
    ],
)
def test_bad_arguments_are_named(given, error, said):
    with pytest.raises(error, match=said):
        CenteredDescent(**{"risk": linear(), "learning_rate": 0.1, **given})


def test_limits_and_amplitudes_must_last():
    split = CenteredDescent(linear(), 1.5)
    with pytest.raises(ValueError, match="limits must be given for 3 steps, got 2"):
        split.run(3, limits=[1.0, 1.0])
    with pytest.raises(ValueError, match="amplitudes must be given for 3 steps, got 0"):
        split.run(3, amplitudes=[])
    with pytest.raises(ValueError, match="steps"):
        split.run(0)
