"""curvature.operator: products against dense Hessians, chunks, SciPy's view, refusals."""

import math

import numpy as np
import pytest
import torch
from curvature_cases import CASES, EXAMPLES
from torch import nn

from flatminima.curvature import HessianOperator, MatrixOperator

METHODS = ("double_backward", "forward_over_reverse")
EPS = torch.finfo(torch.float64).eps


def allowed(hessian, eps=EPS):
    """A product sums some hundred terms through a few layers: 1000 units of rounding cover it."""
    return 1000 * eps * max(hessian.abs().max().item(), 1)


def case(name):
    return next(c for c in CASES if c.name == name).build()


def identity(operator):
    return torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_of_the_dense_hessian(case, method):
    problem = case.build()
    hessian = problem.dense_hessian()
    operator = HessianOperator(problem.loss, problem.parameters, method=method)
    assert operator.shape == hessian.shape
    products = operator.matmat(identity(operator))
    assert (products - hessian).abs().max() <= allowed(hessian)
    assert operator.products == len(hessian)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_come_with_the_operator(case):
    problem = case.build()
    operator = HessianOperator(problem.loss, problem.parameters)
    gradient = torch.func.grad(problem.value)(problem.point)
    assert operator.loss == pytest.approx(problem.loss().item(), rel=1e-15)
    assert (operator.gradient - gradient).abs().max() <= allowed(gradient)
    assert not operator.gradient.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp-tanh-cross-entropy", "cnn-tanh-mse", "tied-weights-mse"])
def test_chunks_of_unequal_size_give_the_same_operator(name, method):
    problem = case(name)
    chunks, weights = problem.chunks([5, 1, EXAMPLES - 6])
    whole = HessianOperator(problem.loss, problem.parameters)
    parts = HessianOperator(chunks, problem.parameters, weights=weights, method=method)
    rows = identity(whole)
    assert (parts.matmat(rows) - whole.matmat(rows)).abs().max() <= allowed(whole.matmat(rows))
    assert parts.loss == pytest.approx(whole.loss, rel=100 * EPS)
    assert torch.allclose(parts.gradient, whole.gradient, rtol=0, atol=allowed(whole.gradient))


@pytest.mark.parametrize("method", METHODS)
def test_float32_products_are_good_to_its_rounding(method):
    for c in CASES[:7]:
        single, double = c.build(torch.float32), c.build()
        hessian = double.dense_hessian()
        operator = HessianOperator(single.loss, single.parameters, method=method)
        products = operator.matmat(identity(operator))
        assert products.dtype == torch.float32
        error = (products.double() - hessian).abs().max()
        assert error <= allowed(hessian, torch.finfo(torch.float32).eps)


def test_fastest_is_one_of_the_methods_and_costs_no_counted_product():
    problem = case("mlp-tanh-mse")
    operator = HessianOperator(problem.loss, problem.parameters, method="fastest")
    assert operator.method in METHODS
    assert operator.products == 0
    hessian = problem.dense_hessian()
    assert (operator.matmat(identity(operator)) - hessian).abs().max() <= allowed(hessian)


def test_relu_products_leave_its_kink_out():
    # At a pre-activation of exactly 0 ReLU has no derivative; PyTorch says 0, at second order too.
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: torch.relu(weight).sum() ** 2, [weight])
    assert not operator.matmat(identity(operator)).any()


def test_batch_norm_in_evaluation_mode_keeps_its_buffers():
    problem = case("batch-norm-eval-cross-entropy")
    before = {k: v.clone() for k, v in problem.model.named_buffers()}
    for method in METHODS:
        operator = HessianOperator(problem.loss, problem.parameters, method=method)
        operator.matmat(identity(operator))
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("method", METHODS)
def test_parameters_the_loss_does_not_depend_on_have_zero_rows(method):
    problem = case("idle-parameters-mse")
    operator = HessianOperator(problem.loss, problem.parameters, method=method)
    products = operator.matmat(identity(operator))
    idle = [0, 1, 2, 3, -1, -2, -3]
    assert not products[idle].any()
    assert not products[:, idle].any()
    assert products.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_linear_in_its_parameters_has_no_curvature(method):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: 2 * weight.sum(), [weight], method=method)
    assert not operator.matmat(identity(operator)).any()
    assert operator.gradient.tolist() == [2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_linear_in_some_of_its_parameters(method):
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: (a * a).sum() * 2 + b.sum(), [b, a], method=method)
    assert torch.equal(
        operator.matmat(identity(operator)), torch.diag(torch.tensor([0.0, 4, 4])).double()
    )


def test_a_loss_may_be_called_where_gradients_are_off():
    problem = case("mlp-tanh-mse")
    with torch.no_grad():
        operator = HessianOperator(problem.loss, problem.parameters)
        products = operator.matmat(identity(operator))
    assert (products - problem.dense_hessian()).abs().max() <= allowed(products)


def test_products_leave_gradients_and_parameters_alone():
    problem = case("mlp-tanh-mse")
    before = problem.point
    for method in METHODS:
        operator = HessianOperator(problem.loss, problem.parameters, method=method)
        operator.matmat(identity(operator))
    assert torch.equal(problem.point, before)
    assert all(p.grad is None for p in problem.parameters)


def test_scipy_sees_the_same_matrix():
    problem = case("cnn-tanh-mse")
    operator = HessianOperator(problem.loss, problem.parameters)
    view, hessian = operator.as_linear_operator(), problem.dense_hessian().numpy()
    n = len(hessian)
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((n, 3))
    assert view.shape == (n, n)
    assert view.dtype == np.float64
    bound = 1e-12 * np.abs(hessian).sum()
    assert np.allclose(view @ columns, hessian @ columns, rtol=0, atol=bound)
    assert np.allclose(view @ columns[:, 0], hessian @ columns[:, 0], rtol=0, atol=bound)
    assert np.allclose(view.T @ columns[:, 0], hessian @ columns[:, 0], rtol=0, atol=bound)
    assert (view @ columns[:, :1]).shape == (n, 1)


def test_split_gives_the_parts_of_a_vector_in_the_parameters_shapes():
    problem = case("mlp-tanh-mse")
    operator = HessianOperator(problem.loss, problem.parameters)
    for part, parameter in zip(operator.split(problem.point), problem.parameters, strict=True):
        assert torch.equal(part, parameter)


def test_a_stale_operator_refuses_products():
    problem = case("mlp-tanh-mse")
    for method in METHODS:
        operator = HessianOperator(problem.loss, problem.parameters, method=method)
        with torch.no_grad():
            problem.parameters[0].add_(0.1)
        with pytest.raises(RuntimeError, match="make a new one"):
            operator.matvec(problem.point)


# Refusals


def scalar(value=1.0, **options):
    return torch.tensor(value, dtype=torch.float64, **options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda w: w * 2, r"scalar tensor, got \(3,\)"),
        (lambda w: 3.0, "scalar tensor, got float"),
        (lambda w: w.sum() * math.nan, "finite, got nan"),
        (lambda w: w.sum() / 0, "finite, got inf"),
        (lambda w: scalar(), "depend on the parameters"),
    ],
)
def test_bad_losses_are_refused(loss, message):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        HessianOperator(lambda: loss(weight), [weight])


def test_bad_parameters_are_refused():
    good, frozen = scalar(requires_grad=True), scalar()
    single = torch.ones(1, requires_grad=True)
    for parameters, message in (
        (good, "list of tensors"),
        ([], "at least one"),
        ([good, good], "each tensor once"),
        ([good, frozen], "number 1 does not"),
        ([good, single], "share one dtype and device"),
        ([good, torch.ones(2, dtype=torch.int64)], "floating-point"),
        ([1.0], "floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            HessianOperator(lambda: good**2, parameters)


def test_bad_chunks_and_methods_are_refused():
    weight = scalar(requires_grad=True)
    square = lambda: weight**2  # noqa: E731
    for loss, options, message in (
        ([], {}, "sequence of functions"),
        ([square, 1], {"weights": [1, 1]}, "sequence of functions"),
        ([square, square], {}, "weights must be given"),
        ([square, square], {"weights": [1]}, "2 finite numbers"),
        ([square, square], {"weights": [1, math.nan]}, "2 finite numbers"),
        (square, {"method": "finite_differences"}, "method must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            HessianOperator(loss, [weight], **options)


def test_bad_vectors_are_refused():
    operator = MatrixOperator(torch.eye(3, dtype=torch.float64))
    for product, vector in (
        (operator.matvec, torch.ones(2, dtype=torch.float64)),
        (operator.matvec, torch.ones(1, 3, dtype=torch.float64)),
        (operator.matmat, torch.ones(3, dtype=torch.float64)),
        (operator.matmat, torch.ones(2, 4, dtype=torch.float64)),
        (operator.matmat, torch.ones(2, 3)),
    ):
        with pytest.raises(ValueError, match="must"):
            product(vector)
    assert operator.products == 0


def test_matrix_operators_refuse_what_is_not_symmetric():
    for matrix in (
        torch.ones(2, 3),
        torch.ones(0, 0),
        torch.tensor([[1.0, 2], [0, 1]]),
        torch.full((2, 2), math.nan),
    ):
        with pytest.raises(ValueError, match="matrix must"):
            MatrixOperator(matrix)


def test_dropout_that_is_on_shows_as_a_difference_between_methods():
    """What the docstring asks for matters: a loss that is drawn anew is another function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    parameters = list(model.parameters())
    operators = [HessianOperator(lambda: model(inputs).square().mean(), parameters) for _ in "ab"]
    vector = torch.ones(operators[0].shape[0], dtype=torch.float64)
    assert not torch.allclose(operators[0].matvec(vector), operators[1].matvec(vector))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_on_the_gpu(dtype, method, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for c in CASES:
        problem, hessian = c.build(dtype, "cuda"), c.build().dense_hessian()
        operator = HessianOperator(problem.loss, problem.parameters, method=method)
        products = operator.matmat(identity(operator))
        assert products.is_cuda
        eps = torch.finfo(dtype).eps
        assert (products.cpu().double() - hessian).abs().max() <= allowed(hessian, eps)
