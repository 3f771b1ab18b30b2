"""ensemble: equal to the runs one by one, divergence of members, minibatches, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch

from flatminima import ensemble, models, training

LOSSES = ("mse", "cross_entropy")
STEPS = 25
ARCHITECTURES = {
    "mlp": lambda seed, **o: models.mlp([16, 6, 3], seed=seed, **o),
    "relu": lambda seed, **o: models.mlp([16, 5, 4, 3], "relu", seed=seed, **o),
    "cnn": lambda seed, **o: models.cnn(
        [2, 3], "tanh", input_shape=(1, 4, 4), outputs=3, seed=seed, **o
    ),
}
GRID = list(itertools.product((0.02, 0.1, 0.3), (0, 1)))
RATES = [rate for rate, _ in GRID]
# Rounding of a stable run: each step sums at most 24 x 16 terms, below 400, of numbers that are of
# order one (below 4 in all of these runs); what a step adds is not amplified, as eta lambda < 2.
ROUNDING = STEPS * 400 * 4
ALLOWED = ROUNDING * 2.0**-53


def problem(n=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (n,), generator=generator)


def build(name="mlp", grid=GRID, dtype=torch.float64, **options):
    return [ARCHITECTURES[name](seed, dtype=dtype, **options) for _, seed in grid]


def together(members, rates=RATES, data=None, **options):
    options = {"steps": STEPS, "progress": False} | options
    data = problem() if data is None else data
    return ensemble.train(members, *data, learning_rates=rates, **options)


def one_by_one(members, rates=RATES, data=None, generators=None, **options):
    options = {"steps": STEPS, "progress": False} | options
    data = problem() if data is None else data
    generators = generators or [None] * len(members)
    return [
        training.gradient_descent(model, *data, learning_rate=rate, generator=generator, **options)
        for model, rate, generator in zip(members, rates, generators, strict=True)
    ]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_alike(result, alone, allowed=ALLOWED):
    for i, run in enumerate(alone):
        member = result.history(i)
        assert (member.diverged, member.diverged_at) == (run.diverged, run.diverged_at)
        assert np.array_equal(member.steps, run.steps)
        assert np.allclose(member.loss, run.loss, rtol=0, atol=allowed)
        assert np.allclose(member.gradient_norm, run.gradient_norm, rtol=0, atol=allowed)
        assert member.learning_rate == run.learning_rate


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_member_makes_the_run_that_it_would_make_alone(name, loss):
    members, alone = build(name), build(name)
    result = together(members, loss=loss)
    runs = one_by_one(alone, loss=loss)
    assert not any(run.diverged for run in runs)
    assert_alike(result, runs)
    for a, b in zip(members, alone, strict=True):
        assert torch.allclose(flat(a), flat(b), rtol=0, atol=ALLOWED)
    # Members that did alike would not tell one from another.
    assert len(np.unique(result.loss[-1])) == len(GRID)


def test_in_float32_they_agree_to_float32():
    data = problem(dtype=torch.float32)
    members, alone = (build(dtype=torch.float32) for _ in range(2))
    result = together(members, data=data)
    assert_alike(result, one_by_one(alone, data=data), ROUNDING * 2.0**-24)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_size", [5, 24])
def test_minibatches_are_those_of_the_single_runs(loss, batch_size):
    def generators():
        return [torch.Generator().manual_seed(10 + i) for i in range(len(GRID))]

    members, alone = build(), build()
    options = {"batch_size": batch_size, "loss": loss}
    result = together(members, generators=generators(), **options)
    assert_alike(result, one_by_one(alone, generators=generators(), **options))


def test_real_targets_are_trained_alike():
    data = (problem()[0], torch.randn(24, 3, dtype=torch.float64))
    members, alone = build(), build()
    assert_alike(together(members, data=data), one_by_one(alone, data=data))


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_chunks_change_nothing(chunk_size):
    members, chunked = build(), build()
    whole, parts = together(members), together(chunked, chunk_size=chunk_size)
    assert np.allclose(whole.loss, parts.loss, rtol=0, atol=ALLOWED)


def test_frozen_parameters_stay():
    members, alone = build(), build()
    for model in (*members, *alone):
        model[1].weight.requires_grad_(False)
    frozen = [model[1].weight.clone() for model in members]
    assert_alike(together(members), one_by_one(alone))
    for before, model in zip(frozen, members, strict=True):
        assert torch.equal(before, model[1].weight)


# Divergence


@pytest.mark.parametrize("loss", LOSSES)
def test_a_diverging_member_is_reported_and_does_not_disturb_the_others(loss):
    rates = list(RATES)
    rates[1], rates[4] = 1e6, 1e200  # one leaves slowly, one overflows at once
    name = "relu"
    members, alone, calm = build(name), build(name), build(name)
    result = together(members, rates, loss=loss)
    runs = one_by_one(alone, rates, loss=loss)
    assert result.diverged.tolist() == [False, True, False, False, True, False]
    assert result.diverged_at == tuple(run.diverged_at for run in runs)
    for i in (1, 4):
        end = result.diverged_at[i]
        assert np.isnan(result.loss[end:, i]).all()
        assert np.isfinite(result.loss[:end, i]).all()
        assert len(result.history(i).loss) == end
    undisturbed = together(calm, loss=loss)
    for i in (0, 2, 3, 5):
        assert np.allclose(result.loss[:, i], undisturbed.loss[:, i], rtol=0, atol=ALLOWED)
        assert torch.allclose(flat(members[i]), flat(calm[i]), rtol=0, atol=ALLOWED)


def test_a_member_that_begins_with_nan_has_diverged_at_step_zero():
    members = build()
    with torch.no_grad():
        members[2][1].weight[0, 0] = math.nan
    result = together(members)
    assert result.diverged_at == (None, None, 0, None, None, None)
    assert len(result.history(2).loss) == 0
    assert np.isfinite(np.delete(result.loss, 2, axis=1)).all()


def test_when_all_have_diverged_the_run_ends():
    result = together(build("relu"), [1e9] * len(GRID), steps=1000)
    assert result.diverged.all()
    assert len(result.steps) < 1000


# Accuracy


def test_accuracies_are_those_of_the_single_runs():
    test_data = problem(40)
    members, alone = build(), build()
    result = together(members, evaluate=test_data, evaluate_every=10)
    assert result.accuracy_steps.tolist() == [0, 10, 20, 25]
    for i, (model, rate) in enumerate(zip(alone, RATES, strict=True)):
        probes = {"accuracy": training.accuracy(*test_data)}
        run = training.gradient_descent(
            model, *problem(), learning_rate=rate, steps=STEPS, progress=False,
            probes=probes, probe_every=10,
        )  # fmt: skip
        member = result.history(i)
        assert np.array_equal(member.probe_steps, run.probe_steps)
        # Counts out of 40; a tie between two outputs to the last bit does not occur here.
        assert np.array_equal(member.probes["accuracy"], run.probes["accuracy"])


def test_a_diverged_member_has_no_accuracy():
    rates = list(RATES)
    rates[0] = 1e200
    result = together(build(), rates, evaluate=problem(), evaluate_every=5)
    assert np.isnan(result.accuracy[-1, 0])
    assert np.isfinite(result.accuracy[:, 1:]).all()
    assert (result.history(0).probe_steps < result.diverged_at[0]).all()


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": RATES[:-1]}, "one rate for each of the 6"),
        ({"rates": [0.0, *RATES[1:]]}, "learning_rates"),
        ({"steps": 0}, "steps"),
        ({"loss": "hinge"}, "loss"),
        ({"batch_size": 5}, "generators"),
        ({"batch_size": 5, "generators": [torch.Generator()] * 6}, "different"),
        ({"batch_size": 25, "generators": [torch.Generator() for _ in RATES]}, "at most the 24"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"evaluate": (torch.zeros(3, 16), torch.zeros(2))}, "evaluate"),
        ({"divergence_factor": -1.0}, "divergence_factor"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        together(build(), **options)


def test_models_must_be_of_one_kind_and_share_nothing():
    with pytest.raises(ValueError, match="one architecture, number 5"):
        together([*build()[:-1], *build("relu", GRID[:1])])
    with pytest.raises(ValueError, match="one architecture"):
        together([*build()[:-1], *build("mlp", GRID[:1], dtype=torch.float32)])
    with pytest.raises(ValueError, match="share no parameter"):
        together([build()[0]] * 6)
    with pytest.raises(ValueError, match="at least one"):
        together([], [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gpu_trains_the_same_ensemble(name):
    members, alone = build(name, device="cuda"), build(name)
    result = together(members, data=tuple(part.cuda() for part in problem()))
    assert_alike(result, one_by_one(alone))
