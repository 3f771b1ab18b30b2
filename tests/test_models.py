"""models: shapes, the documented initialization, reproducibility, and refusals."""

import math

import pytest
import torch
from torch import nn

from flatminima import models

BUILDERS = {
    "mlp": lambda **options: models.mlp([784, 16, 8, 10], **options),
    "linear": lambda **options: models.linear(784, 10, **options),
    "cnn": lambda **options: models.cnn((4, 6), **options),
    "resnet": lambda **options: models.resnet((4, 4, 6), **options),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


def test_maps_images_to_outputs(build):
    assert build()(torch.zeros(5, 1, 28, 28)).shape == (5, 10)


def test_zero_image_gives_zero_output_since_biases_start_at_zero(build):
    assert torch.equal(build()(torch.zeros(2, 1, 28, 28)), torch.zeros(2, 10))


def test_same_seed_same_weights_and_another_seed_others(build):
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


def test_an_integer_seed_stands_for_a_generator_and_a_generator_moves_on(build):
    generator = torch.Generator().manual_seed(3)
    first, second = build(seed=generator), build(seed=generator)
    assert torch.equal(first[-1].weight, build(seed=3)[-1].weight)
    assert not torch.equal(first[-1].weight, second[-1].weight)


def test_same_seed_same_network_in_both_dtypes_up_to_one_rounding(build):
    single, double = build(), build(dtype=torch.float64)
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert b.dtype == torch.float64
        assert torch.equal(a, b.float())


def test_building_leaves_the_global_generator_alone(build):
    before = torch.random.get_rng_state()
    build()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1.0), ("relu", math.sqrt(2))])
def test_standard_deviation_of_the_weights_is_the_documented_one(activation, gain):
    model = models.mlp([400, 500], activation, scale=0.5, dtype=torch.float64)
    weights = model[1].weight.flatten()
    expected = 0.5 * gain / math.sqrt(400)
    # The standard deviation of N normal draws has relative standard error 1/sqrt(2N), the mean
    # has standard error expected/sqrt(N); 5 standard errors fail once in 1.7 million seeds.
    n = weights.numel()
    assert abs(weights.std().item() / expected - 1) < 5 / math.sqrt(2 * n)
    assert abs(weights.mean().item()) < 5 * expected / math.sqrt(n)


def test_convolutions_count_their_window_in_the_fan_in():
    weights = models.cnn((64, 64), dtype=torch.float64)[3].weight.flatten()
    expected = math.sqrt(2) / math.sqrt(64 * 9)
    assert abs(weights.std().item() / expected - 1) < 5 / math.sqrt(2 * weights.numel())


def test_count_parameters_matches_the_formulas():
    assert (
        models.count_parameters(models.mlp([784, 64, 64, 10])) == 784 * 64 + 64 * 65 + 65 * 10 + 64
    )
    assert models.count_parameters(models.linear(7, 3, bias=False)) == 21
    # 3x3 convolutions with bias, two 2x2 poolings of 28x28 down to 7x7, a linear layer.
    expected = (9 * 8 + 8) + (9 * 8 * 16 + 16) + (16 * 49 * 10 + 10)
    assert models.count_parameters(models.cnn((8, 16))) == expected


def test_count_parameters_leaves_out_the_frozen():
    model = models.mlp([4, 3, 2])
    model[1].weight.requires_grad_(False)
    assert models.count_parameters(model) == 3 + 3 * 2 + 2


def test_the_linear_model_is_linear_and_the_mlp_is_not():
    x = torch.randn(6, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line, net = models.linear(784, 10, dtype=x.dtype), models.mlp([784, 9, 10], dtype=x.dtype)
    # Biases are zero, so the linear model is homogeneous: only rounding of 784-term sums is left.
    assert torch.allclose(line(2 * x), 2 * line(x), rtol=0, atol=784 * 2.3e-16 * 100)
    assert (net(2 * x) - 2 * net(x)).abs().max() > 0.1


def test_activations_sit_between_layers_only():
    kinds = [type(layer) for layer in models.mlp([5, 4, 3, 2], "relu")]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_odd_images_lose_their_last_row_and_column_in_pooling():
    model = models.cnn((2,), input_shape=(3, 7, 9), outputs=4)
    assert model(torch.ones(1, 3, 7, 9)).shape == (1, 4)


def test_a_residual_block_adds_to_its_input_what_two_convolutions_make_of_it():
    stem, same, _, wider, *_ = models.resnet((4, 4, 6), input_shape=(3, 8, 8), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = stem(torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator))
    assert torch.equal(same(x), x + same.inner(x))
    halved = nn.functional.avg_pool2d(x, 2)
    added = wider(x) - wider.inner(halved)
    assert torch.allclose(added[:, :4], halved)
    assert added[:, 4:].abs().max() < 1e-12
    # Group normalization: the size of what comes in does not matter, but for its epsilon.
    assert torch.allclose(same.inner(1e6 * x), same.inner(1e9 * x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.mlp([784]), "widths"),
        (lambda: models.mlp([784, 0, 10]), "each of widths"),
        (lambda: models.mlp([784, 2.5]), "each of widths"),
        (lambda: models.mlp([4, 2], "sigmoidal"), "activation must be one of tanh"),
        (lambda: models.mlp([4, 2], scale=0.0), "scale"),
        (lambda: models.mlp([4, 2], scale=math.nan), "scale"),
        (lambda: models.mlp([4, 2], seed=-1), "seed"),
        (lambda: models.cnn(()), "between 1 and 4 blocks"),
        (lambda: models.cnn((2, 2, 2), input_shape=(1, 7, 7)), "between 1 and 2 blocks"),
        (lambda: models.cnn(input_shape=(28, 28)), "input_shape"),
        (lambda: models.cnn(outputs=0), "outputs"),
        (lambda: models.resnet((3, 4)), "even numbers that do not fall"),
        (lambda: models.resnet((8, 4)), "even numbers that do not fall"),
        (lambda: models.resnet((2, 4, 6), input_shape=(1, 3, 3)), "too often"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_network_on_the_gpu(build):
    for a, b in zip(build().parameters(), build(device="cuda").parameters(), strict=True):
        assert torch.equal(a, b.cpu())
