"""curvature.operator: products against dense Hessians, parts, refusals."""

import math

import pytest
import torch
from curvature_cases import CASES, EXAMPLES

from flatminima.curvature import HessianOperator, MatrixOperator, Terms

EPS = torch.finfo(torch.float64).eps


def allowed(hessian, eps=EPS):
    """A product sums some hundred terms through a few layers: 1000 units of rounding cover it."""
    return 1000 * eps * max(hessian.abs().max().item(), 1)


def case(name):
    return next(c for c in CASES if c.name == name).build()


def identity(operator):
    return torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_of_the_dense_hessian(case):
    problem = case.build()
    hessian = problem.dense_hessian()
    operator = problem.hessian()
    assert operator.shape == hessian.shape
    products = operator.matmat(identity(operator))
    assert (products - hessian).abs().max() <= allowed(hessian)
    assert operator.products == len(hessian)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_come_with_the_operator(case):
    problem = case.build()
    operator = problem.hessian()
    gradient = torch.func.grad(problem.at)(problem.flat())
    assert operator.loss == pytest.approx(problem.loss().item(), rel=1e-15)
    assert (operator.gradient - gradient).abs().max() <= allowed(gradient)
    assert not operator.gradient.requires_grad


@pytest.mark.parametrize("name", ["mlp-tanh-cross-entropy", "cnn-tanh-mse", "tied-weights-mse"])
def test_parts_of_unequal_size_give_the_same_operator(name):
    problem = case(name)
    whole, parts = problem.hessian(), problem.in_batches([5, 1, EXAMPLES - 6]).hessian()
    rows = identity(whole)
    assert (parts.matmat(rows) - whole.matmat(rows)).abs().max() <= allowed(whole.matmat(rows))
    assert parts.loss == pytest.approx(whole.loss, rel=100 * EPS)
    assert torch.allclose(parts.gradient, whole.gradient, rtol=0, atol=allowed(whole.gradient))


def test_float32_products_are_good_to_its_rounding():
    for c in CASES[:7]:
        single, double = c.build(torch.float32), c.build()
        hessian = double.dense_hessian()
        operator = single.hessian()
        products = operator.matmat(identity(operator))
        assert products.dtype == torch.float32
        error = (products.double() - hessian).abs().max()
        assert error <= allowed(hessian, torch.finfo(torch.float32).eps)


def test_relu_products_leave_its_kink_out():
    # At a pre-activation of exactly 0 ReLU has no derivative; PyTorch says 0, at second order too.
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: torch.relu(weight).sum() ** 2, [weight])
    assert not operator.matmat(identity(operator)).any()


def test_batch_norm_in_evaluation_mode_keeps_its_buffers():
    problem = case("batch-norm-eval-cross-entropy")
    before = {k: v.clone() for k, v in problem.model.named_buffers()}
    operator = problem.hessian()
    operator.matmat(identity(operator))
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, before[name])


def test_parameters_the_loss_does_not_depend_on_have_zero_rows():
    problem = case("idle-parameters-mse")
    operator = problem.hessian()
    products = operator.matmat(identity(operator))
    idle = [0, 1, 2, 3, -1, -2, -3]
    assert not products[idle].any()
    assert not products[:, idle].any()
    assert products.any()


def test_a_loss_linear_in_its_parameters_has_no_curvature():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: 2 * weight.sum(), [weight])
    assert not operator.matmat(identity(operator)).any()
    assert operator.gradient.tolist() == [2, 2, 2]


def test_a_loss_linear_in_some_of_its_parameters():
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: (a * a).sum() * 2 + b.sum(), [b, a])
    assert torch.equal(
        operator.matmat(identity(operator)), torch.diag(torch.tensor([0.0, 4, 4])).double()
    )


def test_a_loss_may_be_called_where_gradients_are_off():
    problem = case("mlp-tanh-mse")
    with torch.no_grad():
        operator = problem.hessian()
        products = operator.matmat(identity(operator))
    assert (products - problem.dense_hessian()).abs().max() <= allowed(products)


def test_products_leave_gradients_and_parameters_alone():
    problem = case("mlp-tanh-mse")
    before = problem.flat()
    operator = problem.hessian()
    operator.matmat(identity(operator))
    assert torch.equal(problem.flat(), before)
    assert all(p.grad is None for p in problem.parameters)


def test_split_gives_the_parts_of_a_vector_in_the_parameters_shapes():
    problem = case("mlp-tanh-mse")
    operator = problem.hessian()
    for part, parameter in zip(operator.split(problem.flat()), problem.parameters, strict=True):
        assert torch.equal(part, parameter)


def test_a_stale_operator_refuses_products():
    problem = case("mlp-tanh-mse")
    v = problem.flat()

    def written(change):
        operator = problem.hessian()
        operator.matvec(v)
        with torch.no_grad():
            change(problem.parameters[1])
        with pytest.raises(RuntimeError, match="make a new one"):
            operator.matvec(v)

    written(lambda p: p.add_(0.1))
    # Of these the version counter knows nothing.
    written(lambda p: p.data.add_(0.1))
    written(lambda p: p.data[-1:].mul_(1 + 2 * EPS))
    written(lambda p: setattr(p, "data", p.data + 1))


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


@pytest.mark.parametrize("loss", [[], [lambda: scalar()], 1.0])
def test_what_is_neither_a_function_nor_terms_is_refused(loss):
    with pytest.raises(ValueError, match="function of no arguments or Terms, got"):
        HessianOperator(loss, [scalar(requires_grad=True)])


def test_terms_are_summed_with_their_weights():
    weight = scalar(3.0, requires_grad=True)
    terms = Terms(lambda: [(0.5, lambda: weight**2), (2.0, lambda: weight**3)])
    operator = HessianOperator(terms, [weight])
    assert operator.loss == 0.5 * 9 + 2 * 27
    assert float(operator.gradient) == 3 + 2 * 27
    assert float(operator.matvec(torch.ones(1).double())) == 1 + 2 * 18


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


def drawn(n, dtype=torch.float64):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("name", ["mlp-tanh-cross-entropy", "cnn-tanh-mse"])
def test_a_hessian_assembled_from_products_is_a_matrix(name):
    problem = next(c for c in CASES if c.name == name).build(torch.float32)
    operator = problem.hessian()
    matrix = operator.matmat(identity(operator))
    assert not torch.equal(matrix, matrix.T), "rounding"
    stored = MatrixOperator(matrix).matrix
    assert torch.equal(stored, stored.T)
    assert (stored - matrix).norm() <= 1e-5 * matrix.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-100, -30, 0, 30, 100])
def test_symmetry_is_judged_by_the_matrix_and_its_precision(dtype, power):
    """The antisymmetric part may be sqrt(eps) of the matrix, whatever its units."""
    scale, eps = 2.0**power, torch.finfo(dtype).eps
    draw = drawn(20, torch.float64)
    whole, skew = draw + draw.T, draw - draw.T
    skew *= whole.norm() / skew.norm()
    for share, fine in ((0.9, True), (1.1, False)):
        matrix = (scale * (whole + share * eps**0.5 * skew)).to(dtype)
        if fine:
            stored = MatrixOperator(matrix).matrix
            assert torch.equal(stored, stored.T)
            assert (stored.double() - scale * whole).norm() <= 2 * eps * scale * whole.norm()
        else:
            with pytest.raises(ValueError, match="symmetric up to rounding"):
                MatrixOperator(matrix)
    with pytest.raises(ValueError, match="antisymmetric part is 1 of it"):
        MatrixOperator((1e-9 * scale * torch.tensor([[0.0, 1.0], [-1.0, 0.0]])).to(dtype))
    exact = (scale * whole).to(dtype)
    assert torch.equal(MatrixOperator(exact).matrix, exact), "what is symmetric stays as it is"
    assert not MatrixOperator(torch.zeros(3, 3, dtype=dtype)).matrix.any()


def test_autocast_around_a_call_has_no_effect():
    problem = next(c for c in CASES if c.name == "mlp-tanh-mse").build(torch.float32)
    products = problem.hessian().matmat(identity(problem.hessian()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert problem.model(problem.data[0]).dtype == torch.bfloat16
        assert torch.equal(problem.hessian().matmat(identity(problem.hessian())), products)
        assert torch.equal(problem.gradient(), problem.hessian().gradient)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_on_the_gpu(dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for c in CASES:
        problem, hessian = c.build(dtype, "cuda"), c.build().dense_hessian()
        operator = problem.hessian()
        products = operator.matmat(identity(operator))
        assert products.is_cuda
        eps = torch.finfo(dtype).eps
        assert (products.cpu().double() - hessian).abs().max() <= allowed(hessian, eps)
