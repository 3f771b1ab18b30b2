"""models: the transformer, and what stands between a convolution and its activation."""

import pytest
import torch
from torch import nn

from flatminima import models
from flatminima.curvature import EmpiricalRisk, NondeterministicRiskError, top_eigenpairs


def symbols(n=3, t=6, seed=0):
    return torch.randint(0, 9, (n, t), generator=torch.Generator().manual_seed(seed))


def small(**options):
    return models.transformer(9, 6, width=8, heads=2, dtype=torch.float64, **options)


def test_no_place_sees_what_comes_after_it():
    model, x = small(seed=1), symbols()
    for place in range(6):
        other = x.clone()
        other[:, place] = (other[:, place] + 1) % 9
        same = (model(x) == model(other)).all(-1)
        assert same[:, :place].all()
        assert not same[:, place:].any(), "and each place sees itself, and all before it"


def test_places_are_told_apart():
    outputs = small()(torch.zeros(1, 6, dtype=torch.int64))[0]
    assert torch.pdist(outputs).min() > 1e-3


def test_the_number_of_parameters_is_that_of_its_layers():
    d, block = 8, 2 * 16 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    assert models.count_parameters(small(blocks=3)) == 15 * d + 3 * block + 2 * d + 9 * (d + 1)


def test_factors_start_at_one_and_biases_at_zero():
    networks = small(), models.cnn((2, 4), norm="group"), models.cnn((2, 4), norm="batch")
    for model in networks:
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert (parameter == float(name.endswith("weight"))).all()


def test_a_shorter_text_is_read_and_a_longer_one_refused():
    model, x = small(), symbols()
    assert torch.equal(model(x[:, :4]).argmax(-1), model(x).argmax(-1)[:, :4])
    with pytest.raises(ValueError, match="at most 6 symbols long, got 7"):
        model(symbols(t=7))


def test_its_hessian_is_that_of_differences():
    risk = EmpiricalRisk(small(seed=2), "cross_entropy", (symbols(), symbols(seed=1)))
    v = torch.randn(risk.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product, h = risk.hessian().matvec(v), 1e-5

    def gradient(step):
        for parameter, part in zip(risk.parameters, risk.unflatten(v).values(), strict=True):
            parameter.data.add_(part, alpha=step)
        return risk.gradient()

    ahead = gradient(h)
    behind = gradient(-2 * h)
    # Central differences err by h^2 / 6 times a fourth derivative, and by eps |g| / h.
    error = ((ahead - behind) / (2 * h) - product).norm() / product.norm()
    assert error < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.transformer(0), "symbols"),
        (lambda: models.transformer(5, 0), "context"),
        (lambda: models.transformer(5, width=10, heads=4), "width must be a multiple of heads, 4"),
        (lambda: models.transformer(5, blocks=0), "blocks"),
        (lambda: models.cnn((4,), norm="layer"), "norm must be one of none, group, batch"),
        (lambda: models.cnn((3,), norm="group"), "channels must be even with norm 'group'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_what_comes_before_a_normalization_has_no_scale(norm):
    """Its output does not change with the size of the convolution before it, but for an epsilon."""
    model = models.cnn((4,), norm=norm, dtype=torch.float64, seed=1)
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(6, 1, 28, 28, dtype=torch.float64, generator=generator)
    before = model(x)
    model[0].weight.data.mul_(2)
    # The variances are above 1 here, so that epsilon, 1e-5, changes nothing beyond its own size.
    assert torch.allclose(model(x), before, rtol=0, atol=1e-4)


def test_full_batch_normalization_has_a_hessian_and_running_averages_have_none():
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 3
    model = models.cnn((2,), norm="batch", input_shape=(1, 8, 8), outputs=3)
    assert float(top_eigenpairs(EmpiricalRisk(model, "mse", (x, y))).eigenvalues[0]) > 0
    model[1] = nn.BatchNorm2d(2)
    with pytest.raises(NondeterministicRiskError, match=r"model\.eval"):
        EmpiricalRisk(model, "mse", (x, y)).hessian()
