"""The kinds of noise: means and covariances by hand, and the same draws after a checkpoint."""

import numpy as np
import pytest
import torch
from crashing import StopAt
from torch import nn

from flatminima.curvature import EmpiricalRisk
from flatminima.training import train
from flatminima.training._batches import NOISES, make_batches

DRAWS = 4000
RATE = 0.1


def problem(loss="mse", n=7):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    for p in model.parameters():
        nn.init.normal_(p, generator=generator)
    targets = {"mse": torch.randn(n, 2, generator=generator, dtype=torch.float64)}
    targets["cross_entropy"] = torch.arange(n) % 2
    return EmpiricalRisk(model, loss, (x, targets[loss]))


def gradients_of_examples(risk):
    x, y = risk.data
    alone = [EmpiricalRisk(risk.model, risk.loss_function, (x[i : i + 1], y[i : i + 1]))
             for i in range(len(y))]  # fmt: skip
    return torch.stack([one.gradient() for one in alone]).numpy()


def draws(risk, noise, batch):
    """The gradients (DRAWS, p) of updates at the same parameters."""
    batches = make_batches(risk, batch, torch.Generator().manual_seed(1), noise)
    found = []
    for _ in range(DRAWS):
        batches.advance()
        ((weight, loss),) = batches.terms()
        assert weight == 1
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss(), risk.parameters)]))
    return torch.stack(found).numpy()


def covariance_of_batches(each, batch):
    """That of the mean of ``batch`` of the rows, drawn without replacement."""
    n = len(each)
    return (n - batch) / (n - 1) / batch * np.cov(each.T, bias=True)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("noise", NOISES)
def test_every_noise_has_the_mean_and_the_size_of_that_of_minibatches(loss, noise):
    risk, batch = problem(loss), 3
    found, each = draws(risk, noise, batch), gradients_of_examples(risk)
    error = found.std(axis=0, ddof=1) / np.sqrt(DRAWS)
    assert np.all(np.abs(found.mean(axis=0) - each.mean(axis=0)) < 5 * error)
    sizes = np.sum((found - each.mean(axis=0)) ** 2, axis=1)
    size = np.trace(covariance_of_batches(each, batch))
    assert abs(sizes.mean() - size) < 5 * sizes.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize("noise", ["independent", "covariance", "isotropic"])
def test_the_covariance_is_that_of_minibatches_or_has_no_direction(noise):
    risk, batch = problem(), 3
    found, each = draws(risk, noise, batch), gradients_of_examples(risk)
    expected = covariance_of_batches(each, batch)
    if noise == "isotropic":
        expected = np.trace(expected) / risk.size * np.eye(risk.size)
    around = found - each.mean(axis=0)
    products = np.einsum("ti,tj->tij", around, around)
    error = products.std(axis=0) / np.sqrt(DRAWS)
    # 105 different entries: 5 standard errors are exceeded by one of them in 16,000 tests.
    assert np.all(np.abs(products.mean(axis=0) - expected) < 5 * error + 1e-12)
    if noise != "isotropic":  # a direction in which examples agree has no noise
        values, vectors = np.linalg.eigh(expected)
        still = vectors[:, values < 1e-12 * values[-1]]
        assert still.shape[1] >= risk.size - len(each) + 1
        assert np.abs(around @ still).max() < 1e-6


def test_covariance_noise_is_normal_and_minibatches_are_not():
    """The kurtosis along the noisiest direction: 3 for a normal law, with error sqrt(24 / T)."""
    risk = problem()
    leading = np.linalg.eigh(np.cov(gradients_of_examples(risk).T))[1][:, -1]
    kurtosis = {}
    for noise in ("covariance", "independent"):
        along = draws(risk, noise, 1) @ leading
        along -= along.mean()
        kurtosis[noise] = np.mean(along**4) / np.mean(along**2) ** 2
    assert abs(kurtosis["covariance"] - 3) < 5 * np.sqrt(24 / DRAWS)
    # Seven values, of equal probability.
    assert abs(kurtosis["independent"] - 3) > 5 * np.sqrt(24 / DRAWS)


@pytest.mark.parametrize("noise", NOISES)
def test_the_whole_data_as_a_batch_has_no_noise(noise):
    risk, plain = problem(), problem()
    options = {"batch_size": 7, "generator": torch.Generator().manual_seed(0), "noise": noise}
    train(risk, 5, learning_rate=RATE, progress=False, **options)
    train(plain, 5, learning_rate=RATE, progress=False)
    torch.testing.assert_close(risk.flat(), plain.flat(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("noise", NOISES)
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(noise, tmp_path):
    def run(steps, file):
        risk = problem()
        generator = torch.Generator().manual_seed(3)
        options = {"batch_size": 2, "generator": generator, "noise": noise, "progress": False}
        train(risk, steps, learning_rate=[(0, RATE), (4, RATE / 2)], **options, **file)
        return risk.flat()

    probed = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        run(8, probed | {"probes": {"stop": StopAt(5)}})
    resumed = run(8, probed | {"probes": {"stop": StopAt(-1)}})
    assert torch.equal(resumed, run(8, {}))


def test_noise_that_cannot_be_made_is_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="batch_size must be given for the noise 'covariance'"):
        train(problem(), 1, learning_rate=RATE, noise="covariance", progress=False)
    with pytest.raises(ValueError, match="noise must be one of"):
        train(problem(), 1, learning_rate=RATE, noise="white", progress=False)
    risk = problem()
    summed = EmpiricalRisk(risk.model, nn.MSELoss(reduction="sum"), risk.data)
    options = {"batch_size": 2, "generator": generator, "progress": False}
    with pytest.raises(ValueError, match="not the mean of the losses of its examples"):
        train(summed, 1, learning_rate=RATE, noise="isotropic", **options)
    train(summed, 1, learning_rate=1e-6, noise="independent", **options)
