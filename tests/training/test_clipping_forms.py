"""ClippedAdam's ways with one bound for all entries: a ratio to the median, and a lower clip."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from flatminima.training import ClippedAdam

RATE = 0.01
seeds = st.integers(0, 2**31)


def steps(seed, scale=1.0, clip="none", factor=None, shapes=((3,), (2, 2)), eps=1e-30):
    """The steps (T, n) along prescribed gradients of several tensors, and the optimizer."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    sizes = [torch.rand(s, generator=generator, dtype=torch.float64) + 0.01 for s in shapes]
    optimizer = ClippedAdam(parameters, RATE, (0.9, 0.95), eps, clip=clip, factor=factor)
    places = [torch.cat([p.detach().flatten() for p in parameters])]
    for _ in range(10):
        for p, size in zip(parameters, sizes, strict=True):
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = scale * size * noise
        optimizer.step()
        places.append(torch.cat([p.detach().flatten() for p in parameters]))
    return torch.stack(places).diff(dim=0), optimizer


@given(seed=seeds, factor=st.floats(0.001, 10.0))
def test_a_floor_shortens_every_step_and_a_ratio_lengthens_it(seed, factor):
    adam, _ = steps(seed)
    floor, _ = steps(seed, clip="floor", factor=factor)
    ratio, _ = steps(seed, clip="ratio", factor=factor)
    # The moments are Adam's own, so that the steps compare one by one. A step is the difference of
    # two places, whose size is ten steps of at most a few times the rate over factor (or rate): its
    # rounding is below 1e-13 of that.
    slack = 1e-13 / min(factor, 1.0)
    assert (floor.abs() <= adam.abs() + slack).all()
    assert (ratio.abs() >= adam.abs() - slack).all()


@given(seed=seeds, factor=st.floats(0.1, 10.0), scale=st.floats(1e-3, 1e3))
def test_a_ratio_does_not_see_what_all_gradients_share(seed, factor, scale):
    """An instability that raises every entry alike raises their median too."""
    one, _ = steps(seed, clip="ratio", factor=factor)
    other, _ = steps(seed, scale, clip="ratio", factor=factor)
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-13)


def test_the_median_is_over_all_tensors_of_a_group_but_not_over_groups():
    """Three entries of size 1, and two of size 100 in another tensor: the median is 1."""
    tensors = [torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)]
    for t, size in zip(tensors, (1.0, 100.0), strict=True):
        t.grad = torch.full_like(t, size)
    together = ClippedAdam(tensors, clip="ratio", factor=2.0)
    together.step()
    # (1 - beta_1) times the root, which Adam has at 1 and 100.
    assert together.preconditioner().tolist() == pytest.approx([0.1] * 3 + [0.2] * 2, rel=1e-6)
    assert float(together.clipped_share) == pytest.approx(2 / 5)
    apart = ClippedAdam([{"params": [t]} for t in tensors], clip="ratio", factor=2.0)
    apart.step()
    assert apart.preconditioner().tolist() == pytest.approx([0.1] * 3 + [10.0] * 2, rel=1e-6)


def test_entries_without_gradient_are_no_measure_of_the_others():
    theta = torch.zeros(5, requires_grad=True)
    theta.grad = torch.tensor([0.0, 0.0, 0.0, 1.0, 8.0])
    optimizer = ClippedAdam([theta], clip="ratio", factor=2.0)
    optimizer.step()
    assert theta.grad.abs().median() == 0
    assert optimizer.preconditioner()[3:].tolist() == pytest.approx([0.1, 0.2], rel=1e-6)
    theta.grad = torch.zeros(5)
    silent = ClippedAdam([torch.zeros(2, requires_grad=True)], clip="ratio", factor=2.0)
    silent.param_groups[0]["params"][0].grad = torch.zeros(2)
    silent.step()
    assert silent.param_groups[0]["params"][0].tolist() == [0.0, 0.0]


def test_a_floor_that_is_high_is_momentum_descent():
    """At the rate eta over the floor: s is the floor in every entry."""
    theta, plain = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = ClippedAdam([theta], RATE, (0.0, 0.95), eps=1e-30, clip="floor", factor=50.0)
    descent = torch.optim.SGD([plain], RATE / 50.0)
    for _ in range(20):
        for p, optimizer in ((theta, ours), (plain, descent)):
            optimizer.zero_grad()
            (p**2 * torch.tensor([1.0, 3.0])).sum().backward()
            optimizer.step()
    assert torch.allclose(theta, plain, rtol=1e-14, atol=0)
    assert not torch.equal(theta, torch.ones(2))
