"""curvature.gauss_newton: products against dense matrices, the Fisher matrix, shares, refusals."""

import pytest
import torch
from curvature_cases import CASES, EXAMPLES, Problem
from torch import nn

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk, GaussNewtonOperator, NondeterministicRiskError

EPS = torch.finfo(torch.float64).eps


def allowed(dense, eps=EPS):
    """A product sums some hundred terms through a few layers: 1000 units of rounding cover it."""
    return 1000 * eps * max(dense.abs().max().item(), 1)


def case(name):
    return next(c for c in CASES if c.name == name).build()


def identity(operator):
    return torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)


def outputs_at(problem, vector):
    given = (problem.data[0],)
    return torch.func.functional_call(problem.model, problem.unflatten(vector), given)


def dense(problem):
    """(G, H - G) of a problem by torch.func: nothing of the operator takes part."""
    at, targets = problem.flat(), problem.data[1]
    outputs = outputs_at(problem, at).detach()

    def loss(flat_outputs):
        return problem.loss_function(flat_outputs.view_as(outputs), targets)

    jacobian = torch.func.jacrev(lambda v: outputs_at(problem, v).flatten())(at)
    middle = torch.func.hessian(loss)(outputs.flatten())
    slope = torch.func.grad(loss)(outputs.flatten())
    rest = torch.func.hessian(lambda v: slope @ outputs_at(problem, v).flatten())(at)
    return jacobian.T @ middle @ jacobian, rest


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_of_the_dense_matrix(case):
    problem = case.build()
    expected, rest = dense(problem)
    operator = GaussNewtonOperator(problem)
    products = operator.matmat(identity(operator))
    assert (products - expected).abs().max() <= allowed(expected)
    # What is left of the Hessian is the curvature of the model, weighted by the loss's slopes.
    hessian = problem.hessian().matmat(identity(operator))
    assert (hessian - products - rest).abs().max() <= 2 * allowed(hessian)
    assert operator.products == len(expected)


def masked_mse(outputs, targets):
    kept = targets > 0
    return (outputs - targets)[kept].square().mean()


class Sequence(nn.Module):
    """Logits (n, t, classes) of a sequence of t numbers, with attention between its places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Linear(1, 4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.double()

    def forward(self, x):
        hidden = self.embed(x[..., None])
        return self.head(hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0])


def labels(shape, ignored=False):
    drawn = torch.randint(3, shape, generator=torch.Generator().manual_seed(4))
    return drawn.masked_fill(drawn == 2, -100) if ignored else drawn


def real(columns=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(EXAMPLES, columns, generator=generator, dtype=torch.float64)


def network(outputs=3):
    return models.mlp([4, 5, outputs], seed=1, dtype=torch.float64)


LOSSES = {
    "label smoothing": (network, nn.CrossEntropyLoss(label_smoothing=0.1), labels((EXAMPLES,))),
    "ignored labels": (network, nn.CrossEntropyLoss(), labels((EXAMPLES,), ignored=True)),
    "class weights": (network, nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3]).double()),
                      labels((EXAMPLES,))),
    "binary": (network, nn.BCEWithLogitsLoss(), (real() > 0).double()),
    "sum": (network, nn.MSELoss(reduction="sum"), real()),
    "masked": (network, masked_mse, real()),
    "one output": (lambda: nn.Sequential(network(1), nn.Flatten(0)), nn.MSELoss(), real(1)[:, 0]),
    "not convex": (network, lambda z, y: (z - y).tanh().square().mean(), real()),
    "sequences": (Sequence, "cross_entropy", labels((EXAMPLES, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_that_a_risk_takes(name):
    make, loss, targets = LOSSES[name]
    problem = Problem(make(), loss, (real(4), targets))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected, _ = dense(problem)
    operator = GaussNewtonOperator(problem)
    assert (operator.matmat(identity(operator)) - expected).abs().max() <= allowed(expected)
    assert operator.loss == pytest.approx(problem.value(), rel=100 * EPS)
    assert (operator.gradient - problem.gradient()).abs().max() <= allowed(operator.gradient)


class Written(nn.Module):
    """nn.LayerNorm(5) in plain operations, with its parameters."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x):
        away = x - x.mean(-1, keepdim=True)
        scale = (away.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return away / scale * self.weight + self.bias


def test_layer_normalization_is_differentiated_right():
    """In forward mode PyTorch's second derivative of it is wrong (pytorch/pytorch issue 196700)."""
    first, last, norm = nn.Linear(4, 5).double(), nn.Linear(5, 3).double(), nn.LayerNorm(5).double()
    with torch.no_grad():
        for p in (*first.parameters(), *last.parameters(), *norm.parameters()):
            p.copy_(torch.linspace(-1, 1.5, p.numel()).cos().view_as(p))
    fused, plain = (
        Problem(nn.Sequential(first, layer, last), "cross_entropy", (real(4), labels((EXAMPLES,))))
        for layer in (norm, Written(norm))
    )
    expected, rest = dense(plain)
    rows = torch.eye(fused.size, dtype=torch.float64)
    hessian = fused.hessian().matmat(rows)
    assert (hessian - expected - rest).abs().max() <= 2 * allowed(hessian)
    assert (GaussNewtonOperator(fused).matmat(rows) - expected).abs().max() <= allowed(expected)


def test_of_a_cross_entropy_it_is_the_fisher_matrix():
    """The mean over the inputs of sum_c p_c grad log p_c (grad log p_c)', class by class."""
    problem = case("deep-gelu-cross-entropy")

    def log_probabilities(vector):
        return outputs_at(problem, vector).log_softmax(-1)

    scores = torch.func.jacrev(log_probabilities)(problem.flat())  # (examples, classes, n)
    weights = log_probabilities(problem.flat()).exp().detach() / EXAMPLES
    fisher = torch.einsum("ic,ica,icb->ab", weights, scores, scores)
    operator = GaussNewtonOperator(problem)
    assert (operator.matmat(identity(operator)) - fisher).abs().max() <= allowed(fisher)


@pytest.mark.parametrize("name", ["mlp-relu-cross-entropy", "cnn-tanh-mse", "tied-weights-mse"])
def test_batches_of_unequal_size_give_the_same_matrix(name):
    problem = case(name)
    whole, parts = (
        GaussNewtonOperator(risk) for risk in (problem, problem.in_batches([5, 1, EXAMPLES - 6]))
    )
    rows = identity(whole)
    expected = whole.matmat(rows)
    assert (parts.matmat(rows) - expected).abs().max() <= allowed(expected)


def test_batches_of_a_sum_are_added():
    model, (x, y) = network(), (real(4), real())
    loss = nn.MSELoss(reduction="sum")
    whole = GaussNewtonOperator(EmpiricalRisk(model, loss, (x, y)))
    batches = list(zip(x.split(5), y.split(5), strict=True))
    parts = GaussNewtonOperator(EmpiricalRisk(model, loss, batches))
    expected = whole.matmat(identity(whole))
    assert (parts.matmat(identity(whole)) - expected).abs().max() <= allowed(expected)


def test_it_is_the_hessian_where_the_loss_has_no_slope():
    problem = case("mlp-tanh-mse")
    inputs = problem.data[0]
    fitted = Problem(problem.model, "mse", (inputs, problem.model(inputs).detach()))
    operator, hessian = GaussNewtonOperator(fitted), fitted.dense_hessian()
    assert (operator.matmat(identity(operator)) - hessian).abs().max() <= allowed(hessian)


def test_a_block_is_that_of_the_whole():
    problem = case("mlp-tanh-cross-entropy")
    whole = GaussNewtonOperator(problem).matmat(torch.eye(problem.size, dtype=torch.float64))
    block = GaussNewtonOperator(problem, problem.parameters[1:3])
    start, count = problem.parameters[0].numel(), block.shape[0]
    part = whole[start : start + count, start : start + count]
    assert (block.matmat(identity(block)) - part).abs().max() <= allowed(whole)


def test_float32_products_are_good_to_its_rounding():
    for c in CASES[:7]:
        expected, _ = dense(c.build())
        operator = GaussNewtonOperator(c.build(torch.float32))
        products = operator.matmat(identity(operator))
        assert products.dtype == torch.float32
        limit = allowed(expected, torch.finfo(torch.float32).eps)
        assert (products.double() - expected).abs().max() <= limit


def test_a_penalty_is_no_part_of_it():
    problem = case("mlp-tanh-mse")
    plain = GaussNewtonOperator(problem)

    def penalized(outputs, targets):
        size = sum(p.square().sum() for p in problem.parameters)
        return problem.loss_function(outputs, targets) + size

    other = GaussNewtonOperator(EmpiricalRisk(problem.model, penalized, problem.data))
    rows = identity(plain)
    assert (other.matmat(rows) - plain.matmat(rows)).abs().max() <= allowed(plain.matmat(rows))
    assert other.loss > plain.loss


def test_a_loss_linear_in_the_outputs_has_none():
    problem = case("mlp-tanh-mse")
    risk = EmpiricalRisk(problem.model, lambda z, y: z.mean(), problem.data)
    operator = GaussNewtonOperator(risk)
    assert not operator.matmat(identity(operator)).any()


def test_where_gradients_are_off_it_works_and_leaves_nothing_behind():
    problem = case("mlp-tanh-mse")
    before = problem.flat()
    with torch.no_grad():
        operator = GaussNewtonOperator(problem)
        products = operator.matmat(identity(operator))
    assert (products - dense(problem)[0]).abs().max() <= allowed(products)
    assert not problem.model._forward_hooks
    assert torch.equal(problem.flat(), before)
    assert all(p.grad is None for p in problem.parameters)


@pytest.mark.parametrize("name", ["deep-softplus-mse", "mlp-relu-cross-entropy", "linear-mse"])
def test_shares_of_the_sharpness(name):
    problem = case(name)
    matrix, rest = dense(problem)
    values, vectors = torch.linalg.eigh(matrix + rest)
    share = curvature.gauss_newton_share(problem, tol=1e-8)
    ratio = torch.linalg.eigvalsh(matrix)[-1] / values[-1]
    # A relative residual bounds the errors of both eigenvalues.
    assert abs(share.ratio - ratio) <= 2.1e-8 * ratio
    # That of v_1 is an angle of residual / gap; of a repeated lambda_1 (linear-mse), G = H.
    if name == "linear-mse":
        assert share.along == pytest.approx(1, abs=1e-8)
        return
    along = vectors[:, -1] @ matrix @ vectors[:, -1] / values[-1]
    angle = 1e-8 * values.abs().max() / (values[-1] - values[-2])
    assert abs(share.along - along) <= 2.1 * angle * matrix.norm() / values[-1] + 1e-8
    assert share.along <= share.ratio * (1 + 1e-7)


def test_without_a_positive_sharpness_there_are_no_shares():
    risk = EmpiricalRisk(nn.Linear(2, 1).double(), lambda z, y: -(z**2).sum(), (real(2), real(1)))
    with pytest.raises(ValueError, match="must be positive to have shares, got"):
        curvature.gauss_newton_share(risk)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def refused(model, loss="mse"):
    return EmpiricalRisk(model, loss, (torch.ones(4, 2), torch.zeros(4, 1)))


def test_what_has_no_gauss_newton_matrix_is_refused():
    pair, model = Pair(2, 1), nn.Linear(2, 1)
    for risk, kind, message in (
        (model, TypeError, "must be an EmpiricalRisk, got Linear"),
        (refused(pair, lambda z, y: z[0].mean()), TypeError, "one tensor.*got tuple"),
        (
            refused(model, lambda z, y: (z + model(torch.cat([z, z], 1))).mean()),
            ValueError,
            "once, got 2 calls",
        ),
        (
            refused(nn.Sequential(model, nn.Dropout(0.5))),
            NondeterministicRiskError,
            "not deterministic",
        ),
    ):
        with pytest.raises(kind, match=message):
            GaussNewtonOperator(risk)
    assert not pair._forward_hooks
    assert not model._forward_hooks


def test_a_stale_operator_refuses_products():
    problem = case("mlp-tanh-mse")
    operator = GaussNewtonOperator(problem)
    with torch.no_grad():
        problem.parameters[0].add_(0.1)
    with pytest.raises(RuntimeError, match="make a new one"):
        operator.matvec(problem.flat())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_products_on_the_gpu():
    for c in CASES:
        expected, _ = dense(c.build())
        operator = GaussNewtonOperator(c.build(device="cuda"))
        products = operator.matmat(identity(operator))
        assert products.is_cuda
        assert (products.cpu() - expected).abs().max() <= allowed(expected)
