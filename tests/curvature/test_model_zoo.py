"""Other people's models: the curvature is right, or an error says what is wrong and what to do."""

import copy
import math

import pytest
import torch
from model_zoo import GPT, ZOO, Through, at, dense_hessian, labels, slope
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from flatminima import curvature, models
from flatminima.curvature import (
    DerivativeError,
    EmpiricalRisk,
    HessianOperator,
    NondeterministicRiskError,
)
from flatminima.curvature._autograd import differentiable

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

F64 = torch.float64
PADDED = "embedding with padding"
# Of these the Hessian is constant.
UNTURNED = ("linear model of a linear loss",)


def identity(n):
    return torch.eye(n, dtype=F64)


@pytest.mark.parametrize("name", ZOO)
def test_products_are_the_differences_of_the_gradient(name):
    risk = ZOO[name]()
    assert risk.size <= 400
    hessian = dense_hessian(risk)
    if name == PADDED:  # the row of the padding is held fixed, though the loss depends on it
        free = risk.gradient() != 0
        assert not free[:3].any()
        assert hessian[:3, 3:].any(), "the loss does"
        hessian = hessian * free * free[:, None]
    operator = risk.hessian()
    products = operator.matmat(identity(risk.size))
    # Differences of fourth order at a step of 1e-4 round to 1e-12 of the gradient's terms.
    scale = float(hessian.abs().max())
    assert (products - hessian).abs().max() <= 1e-10 * scale
    values = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    size = float(values.abs().max())
    for found, exact in (
        (curvature.sharpness(risk, tol=1e-9), values[-1]),
        (curvature.lambda_min(risk, tol=1e-9), values[0]),
    ):
        # A residual bounds the distance to an eigenvalue, the error above that of the matrices.
        assert abs(found - float(exact)) <= (2e-9 + risk.size * 1e-10) * size


@pytest.mark.parametrize("name", [name for name in ZOO if name not in UNTURNED])
def test_the_gradient_of_the_sharpness_is_its_slope(name):
    """Of any direction that the loss knows of: lambda_1 rises along its gradient, as fast."""
    risk = ZOO[name]()
    pairs = curvature.top_eigenpairs(risk, 2, tol=1e-10)
    gradient = curvature.sharpness_gradient(risk, eigenvector=pairs.eigenvectors[0])
    along = gradient / gradient.norm()
    point = risk.flat()

    def sharpness(s):
        matrix = at(risk, point + s * along, lambda: risk.hessian().matmat(identity(risk.size)))
        return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])

    # lambda_1 is known to 1e-15 of its size or so, and smooth over its gap to lambda_2.
    step = 1e-3 * min(
        1.0, float(pairs.eigenvalues[0] - pairs.eigenvalues[1]) / float(gradient.norm())
    )
    assert slope(sharpness, step) == pytest.approx(float(gradient.norm()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ZOO)
def test_no_false_alarms(name, dtype):
    """At initialization, after training, and for losses in other units."""
    risk = ZOO[name](dtype)
    optimizer = torch.optim.Adam(risk.parameters, lr=1e-2)
    for steps, unit in ((0, 1.0), (50, 1.0), (0, 1e-9), (0, 1e9)):
        for _ in range(steps):
            for p, part in zip(
                risk.parameters, risk.unflatten(risk.gradient()).values(), strict=True
            ):
                p.grad = part.clone()
            optimizer.step()
        loss = lambda outputs, targets, c=unit: c * risk.loss_function(outputs, targets)  # noqa: E731
        now = EmpiricalRisk(risk.model, loss, risk.data, reduction=risk.reduction)
        product = now.hessian().matvec(torch.ones(risk.size, dtype=dtype))
        assert product.isfinite().all()
        assert now._orders == {3}
        curvature.directional_derivatives(now, torch.ones(risk.size, dtype=dtype), order=1)
        assert now._orders == set()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("activation", ["relu", "elu", "gelu"])
@pytest.mark.parametrize("start", ["drawn", "last layer zero", "all zero"])
@pytest.mark.parametrize("half", [False, True])
def test_kinks_and_zeros_raise_no_alarm(dtype, activation, start, half):
    """Thousands of kinks; pre-activations of exactly zero, where ELU's second derivative jumps."""
    model = models.mlp([8, 30, 30, 4], activation, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=generator, dtype=F64).to(dtype)
    if half:
        x[:200] = 0
    with torch.no_grad():
        for p in model[-1].parameters() if start == "last layer zero" else model.parameters():
            p.mul_(1.0 if start == "drawn" else 0.0)
    y = torch.randint(4, (400,), generator=generator)
    risk = EmpiricalRisk(model, "cross_entropy", (x, y))
    risk.hessian().matvec(torch.ones(risk.size, dtype=dtype))
    assert 2 not in risk._orders


# --- third derivatives


def by_hand(kind):
    """A layer, and what it does written out."""

    def normalized(x, dims):
        centered = x - x.mean(dims, keepdim=True)
        return centered / (centered.square().mean(dims, keepdim=True) + 1e-5).sqrt()

    return {
        "layer": (nn.LayerNorm(5), lambda x: normalized(x, -1)),
        "batch": (nn.BatchNorm1d(5, track_running_stats=False), lambda x: normalized(x, 0)),
    }[kind]


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_third_derivatives_of_normalization_are_those_of_the_formula(kind):
    """PyTorch's own are wrong, without a word (pytorch issues 175754 and 186256)."""
    torch.manual_seed(0)
    layer, formula = by_hand(kind)
    first, last = nn.Linear(4, 5, dtype=F64), nn.Linear(5, 3, dtype=F64)
    x, y = torch.randn(7, 4, dtype=F64), labels(7)

    def loss(norm):
        return lambda: functional.cross_entropy(last(torch.tanh(norm(first(x)))), y)

    parameters = [*first.parameters(), *last.parameters()]
    one, other = (HessianOperator(loss(norm), parameters) for norm in (layer.double(), formula))
    v = curvature.top_eigenpairs(other, tol=1e-10).eigenvectors[0]
    found, exact = (curvature.sharpness_gradient(o, eigenvector=v) for o in (one, other))
    assert (found - exact).norm() <= 1e-10 * exact.norm()
    found, exact = (curvature.directional_derivatives(o, v) for o in (one, other))
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))
    # What PyTorch says by itself: if it is mended, this test says so.
    slopes = torch.autograd.grad(loss(layer)(), parameters, create_graph=True)
    parts = one.split(v)
    value = sum((s * p).sum() for s, p in zip(slopes, parts, strict=True))
    slopes = torch.autograd.grad(value, parameters, create_graph=True)
    value = sum((s * p).sum() for s, p in zip(slopes, parts, strict=True))
    third = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    third = sum(float((s * p).sum()) for s, p in zip(third, parts, strict=True))
    assert abs(third - float(exact[3])) > 1e-3 * abs(float(exact[3]))


LAYERS = {
    "layer": (nn.LayerNorm(4), (3, 5, 4)),
    "layer of two axes": (nn.LayerNorm((5, 4), eps=1e-2), (3, 5, 4)),
    "layer without weights": (nn.LayerNorm(4, elementwise_affine=False), (3, 4)),
    "layer without a shift": (nn.LayerNorm(4, bias=False), (3, 4)),
    "batch": (nn.BatchNorm1d(4), (6, 4)),
    "batch of images": (nn.BatchNorm2d(3, momentum=0.3, eps=1e-3), (4, 3, 2, 5)),
    "batch without averages": (nn.BatchNorm1d(4, track_running_stats=False), (6, 4, 3)),
    "batch, evaluated": (nn.BatchNorm1d(4).eval(), (6, 4)),
    "batch, cumulative": (nn.BatchNorm1d(4, momentum=None), (6, 4)),
    "instance": (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5)),
    "instance with averages": (nn.InstanceNorm1d(3, track_running_stats=True), (2, 3, 5)),
    "instance, evaluated": (nn.InstanceNorm1d(3, track_running_stats=True).eval(), (2, 3, 5)),
    "weight": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (5, 4)),
    "weight of a filter": (nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), (5, 2, 4)),
    "weight, transposed": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3), dim=1), (5, 4)),
    "weight as a whole": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3), dim=None), (5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_in_parts_a_layer_is_what_it_is(name):
    """The same values, derivatives and running averages as the layer in one."""
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    other = copy.deepcopy(layer)
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    weights = torch.randn_like(copy.deepcopy(layer)(x))

    def gradient(layer):
        value = (weights * layer(x)).sum()
        return value, torch.autograd.grad(value, [x, *layer.parameters()])

    plain = gradient(layer)
    with differentiable():
        parts = gradient(other)
    assert parts[0].item() == pytest.approx(plain[0].item(), rel=1e-13)
    for one, same in zip(parts[1], plain[1], strict=True):
        assert (one - same).norm() <= 1e-13 * (1 + same.norm())
    for one, same in zip(other.buffers(), layer.buffers(), strict=True):
        assert torch.equal(one, same)


class Twice(torch.autograd.Function):
    """tanh with a second derivative, whose graph knows of no third one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        return TwiceBackward.apply(gradient, *ctx.saved_tensors)


class TwiceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, x):
        ctx.save_for_backward(gradient, x)
        return gradient * (1 - torch.tanh(x) ** 2)

    @staticmethod
    def backward(ctx, outer):
        gradient, x = ctx.saved_tensors
        t = torch.tanh(x.detach())
        return outer * (1 - t**2), outer * gradient * -2 * t * (1 - t**2)


def middle(rule):
    """Linear, tanh, then a rule of (second layer, hidden), and a linear head."""
    return lambda m, x: m.three(rule(m.two, torch.tanh(m.one(x))))


def risk_of(way, dtype=F64, **options):
    torch.manual_seed(0)
    layers = {"one": nn.Linear(4, 5), "two": nn.Linear(5, 5), "three": nn.Linear(5, 1)}
    x, y = torch.randn(30, 4, dtype=dtype), torch.randn(30, 1, dtype=dtype)
    return EmpiricalRisk(Through(way, **layers).to(dtype), "mse", (x, y), **options)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_third_derivative_that_differences_contradict_is_refused(dtype):
    risk = risk_of(middle(lambda two, h: Twice.apply(two(h))), dtype)
    assert curvature.sharpness(risk) > 0
    with pytest.raises(DerivativeError, match="derivatives of order 3"):
        curvature.sharpness_gradient(risk)
    assert curvature.sharpness_gradient(risk_of(risk.model.way, dtype, check=False)).any()


@pytest.mark.parametrize(
    "normalized",
    [
        lambda h: torch.layer_norm(h, (5,)),
        lambda h: torch.native_layer_norm(h, (5,), None, None, 1e-5)[0],
    ],
)
def test_a_normalization_called_past_torch_nn_is_refused(normalized):
    """Only calls of torch.nn.functional are seen and evaluated in parts."""
    with pytest.raises(DerivativeError, match="derivatives of order 3"):
        curvature.sharpness_gradient(risk_of(middle(lambda two, h: normalized(two(h)))))


# --- what is hidden from autograd


class Hidden(torch.autograd.Function):
    """tanh whose derivative is a constant to autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x.detach()) ** 2)


class Once(Hidden):
    backward = staticmethod(torch.autograd.function.once_differentiable(Hidden.backward))


def without_graph(layer, x):
    with torch.no_grad():
        return layer(x)


BROKEN = {
    "reentrant checkpoint of the first layer": lambda m, x: m.three(
        torch.tanh(m.two(checkpoint(m.one, x, use_reentrant=True)))
    ),
    "reentrant checkpoint": middle(lambda two, h: checkpoint(two, h, use_reentrant=True)),
    "a backward of constants": middle(lambda two, h: Hidden.apply(two(h))),
    "once differentiable": middle(lambda two, h: Once.apply(two(h))),
    "once differentiable, first": lambda m, x: m.three(torch.tanh(m.two(Once.apply(m.one(x))))),
    "a stopped gradient": middle(lambda two, h: two(h) * torch.sigmoid(h.detach())),
    "a layer without a graph": lambda m, x: m.three(torch.tanh(m.two(without_graph(m.one, x)))),
    "data of a parameter": middle(lambda two, h: h @ two.weight.data.T + two.bias),
    "a number out of the graph": middle(lambda two, h: two(h) * math.exp(float(h.detach().mean()))),
    "detached moments": middle(lambda two, h: (two(h) - two(h).mean(0).detach())
                               / two(h).std(0).detach()),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_hidden_from_autograd_is_refused(name, dtype):
    risk = risk_of(BROKEN[name], dtype)
    before = risk.flat()
    with pytest.raises(DerivativeError, match="checkpoint"):
        curvature.sharpness(risk)
    assert torch.equal(risk.flat(), before)
    with pytest.raises(DerivativeError, match="checkpoint"):
        HessianOperator(risk.loss, risk.parameters).matvec(torch.ones(risk.size, dtype=dtype))


def test_a_hook_on_gradients_is_refused():
    risk = risk_of(middle(lambda two, h: two(h)))
    risk.parameters[0].register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    with pytest.raises(DerivativeError, match="a hook that changes gradients"):
        curvature.sharpness(risk)


def test_whoever_means_it_switches_the_check_off():
    risk = risk_of(BROKEN["a stopped gradient"], check=False)
    assert curvature.sharpness(risk) > 0
    operator = HessianOperator(risk.loss, risk.parameters, check=False)
    assert operator.matvec(torch.ones(risk.size, dtype=F64)).any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_check_leaves_no_trace(dtype):
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    model = body.to(dtype).eval()
    risk = EmpiricalRisk(model, "cross_entropy", (torch.randn(9, 4, dtype=dtype), labels(9)))
    for p in risk.parameters:
        p.grad = torch.full_like(p, 7.0)
    grads = [p.grad for p in risk.parameters]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    seen = [(p._version, p.data_ptr()) for p in risk.parameters]
    draws = torch.get_rng_state()
    operator = risk.hessian()
    operator.matvec(torch.ones(risk.size, dtype=dtype))
    curvature.sharpness_gradient(risk)
    curvature.trace(risk, products=6)
    risk.gradient(), risk.value()
    assert risk._orders == set()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [(p._version, p.data_ptr()) for p in risk.parameters] == seen
    assert all(
        p.grad is g and bool((g == 7).all()) for p, g in zip(risk.parameters, grads, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), draws)


def test_the_check_is_made_once_a_risk_and_costs_two_evaluations_and_a_product():
    risk = risk_of(middle(lambda two, h: two(h)))
    v, calls = torch.ones(risk.size, dtype=F64), []
    risk.model.register_forward_hook(lambda *_: calls.append(1))
    risk.check()
    risk.hessian().matvec(v)
    # Of the two of the check, one is the operator's own; two are those of the difference.
    assert len(calls) == 2 + 1 + 2
    risk.hessian().matvec(v)
    assert len(calls) == 6
    # A block sees a part of the Hessian: it vouches for no other.
    other = risk_of(middle(lambda two, h: two(h)))
    other.hessian(other.parameters[:1]).matvec(torch.ones(20, dtype=F64))
    assert other._orders == {2, 3}


# --- kernels and compilers


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 1)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(q, k, v)[:, 0]).mean(1)


def test_fused_attention_in_a_loss_of_ones_own():
    model, x = Attending().double(), torch.randn(5, 3, 4, dtype=F64)
    operator = HessianOperator(lambda: model(x).square().mean(), model.parameters())
    risk = EmpiricalRisk(model, nn.MSELoss(), (x, torch.zeros(5, 1, dtype=F64)))
    rows = identity(risk.size)
    products = risk.hessian().matmat(rows)
    assert (operator.matmat(rows) - products).abs().max() <= 1e-13 * products.abs().max()

    def fused():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return model(x).square().mean()

    with pytest.raises(DerivativeError, match=r"sdpa_kernel\(torch.nn.attention.SDPBackend.MATH"):
        HessianOperator(fused, model.parameters()).matvec(rows[0])


@pytest.mark.parametrize("training", [False, True])
def test_the_fast_path_of_transformers_is_not_taken(training):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().train(training)
    risk = EmpiricalRisk(model, "cross_entropy", (torch.randn(6, 3, 4, dtype=F64), labels()))
    hessian = dense_hessian(risk)
    products = risk.hessian().matmat(identity(risk.size))
    assert (products - hessian).abs().max() <= 1e-10 * hessian.abs().max()
    assert risk.value() == pytest.approx(risk.loss().item(), rel=1e-14)


def test_a_compiled_model_is_refused_with_what_to_do():
    model = torch.compile(models.mlp([4, 5, 3], "tanh", seed=0, dtype=F64), backend="aot_eager")
    data = (torch.randn(6, 4, dtype=F64), labels())
    with pytest.raises(DerivativeError, match=r"model\._orig_mod"):
        curvature.sharpness(EmpiricalRisk(model, "cross_entropy", data))
    assert curvature.sharpness(EmpiricalRisk(model._orig_mod, "cross_entropy", data)) > 0
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Hardsigmoid(), (4,)),
        (nn.EmbeddingBag(5, 4), None),
    ],
    ids=["hard sigmoid", "bag"],
)
def test_layers_without_a_second_derivative_are_refused(layer, inputs):
    model = nn.Sequential(layer, nn.Linear(4, 3))
    x = torch.randint(5, (6, 2)) if inputs is None else torch.randn(6, *inputs)
    if inputs is not None:
        model = nn.Sequential(nn.Linear(4, 4), *model)
    with pytest.raises(DerivativeError, match="no second derivative"):
        curvature.sharpness(EmpiricalRisk(model, "cross_entropy", (x, labels())))


# --- what writes to itself, and precision


def test_a_model_that_writes_to_its_parameters_is_refused_and_put_back():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Linear(4, 3)).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    words = labels(6, classes=5)
    risk = EmpiricalRisk(model, "cross_entropy", (words, labels()))
    with pytest.raises(NondeterministicRiskError, match=r"max_norm=\.\.\.\) does: to 0\.weight"):
        curvature.sharpness(risk)
    with pytest.raises(DerivativeError, match="max_norm"):
        HessianOperator(risk.loss, risk.parameters)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_views_of_parameters_are_no_parameters_of_the_loss():
    layer = nn.Linear(3, 2).double()
    loss = lambda: layer(torch.ones(3, dtype=F64)).square().sum()  # noqa: E731
    with pytest.raises(ValueError, match="not views"):
        HessianOperator(loss, [layer.weight.view(-1)])
    operator = HessianOperator(loss, [layer.weight.view(-1), layer.bias])
    with pytest.raises(DerivativeError, match="number 0 have no gradient"):
        operator.matvec(torch.ones(8, dtype=F64))
    # One of which the loss is made is one.
    flat = torch.ones(6, dtype=F64, requires_grad=True) * 1
    operator = HessianOperator(lambda: (flat.view(2, 3) ** 3).sum(), [flat])
    assert torch.equal(operator.matvec(torch.ones(6, dtype=F64)), 6 * flat.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_by_name(dtype):
    model = nn.Linear(4, 3).to(dtype)
    risk = EmpiricalRisk(model, "cross_entropy", (torch.randn(6, 4).to(dtype), labels()))
    with pytest.raises(ValueError, match=rf"{dtype}.*model\.float\(\)"):
        curvature.sharpness(risk)
    with pytest.raises(ValueError, match=f"{dtype}"):
        curvature.MatrixOperator(torch.eye(2, dtype=dtype))


def test_a_gpt_in_single_precision_has_the_sharpness_of_double():
    name = "gpt with tied embeddings"
    one, other = (curvature.sharpness(ZOO[name](d), tol=1e-4) for d in (torch.float32, F64))
    assert one == pytest.approx(other, rel=3e-4)
    assert isinstance(ZOO[name]().model, GPT)
