"""curvature.risk: any model, loss and data as one function; what has no Hessian is refused."""

import math

import pytest
import torch
from curvature_cases import CASES, EXAMPLES
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from flatminima import curvature, training
from flatminima.curvature import EmpiricalRisk, HessianOperator, NondeterministicRiskError

F64 = torch.float64
EPS = torch.finfo(F64).eps


def net(*layers):
    torch.manual_seed(0)
    body = layers or (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return nn.Sequential(*body).double()


def batch(n=EXAMPLES, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=F64)
    return x, torch.randint(classes, (n,), generator=generator)


def dense(risk):
    """(n, n) by differentiating the loss of the whole data, without the library's products."""
    gradient = torch.autograd.grad(risk.loss(), risk.parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(entry, risk.parameters, retain_graph=True) for entry in flat]
    return torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])


# --- data of every kind


@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("size", [1, 5, EXAMPLES, 100])
def test_a_loader_gives_the_risk_of_the_whole_data(case, size):
    problem = case.build()
    loader = DataLoader(TensorDataset(*problem.data), batch_size=size)
    risk = EmpiricalRisk(problem.model, case.loss, loader)
    assert risk.examples == EXAMPLES
    assert risk.value() == pytest.approx(problem.value(), rel=100 * EPS)
    scale = float(problem.gradient().norm())
    assert (risk.gradient() - problem.gradient()).norm() <= 1e3 * EPS * scale
    assert (risk.hessian().gradient - problem.gradient()).norm() <= 1e3 * EPS * scale
    one, other = curvature.sharpness(risk, tol=1e-9), curvature.sharpness(problem, tol=1e-9)
    assert one == pytest.approx(other, rel=3e-9)


def test_every_function_of_the_room_takes_a_loader():
    loader = DataLoader(TensorDataset(*batch()), batch_size=5)
    model = net()
    whole, parts = (EmpiricalRisk(model, "cross_entropy", data) for data in (batch(), loader))
    v = curvature.top_eigenpairs(whole, tol=1e-10).eigenvectors[0]
    calls = [
        lambda r: curvature.top_eigenpairs(r, 3, "both", 1e-9).eigenvalues,
        lambda r: curvature.EigenTracker(2, 1e-9).update(r).eigenvalues,
        lambda r: torch.tensor(curvature.trace(r, products=12).value),
        lambda r: torch.tensor(curvature.lambda_min(r, tol=1e-9)),
        lambda r: torch.tensor(curvature.spectral_density(r, steps=5, vectors=2).nodes),
        lambda r: curvature.rotation_field(r, k=4, tol=1e-9).field.abs(),
        lambda r: curvature.sharpness_gradient(r, eigenvector=v),
        lambda r: curvature.directional_derivatives(r, v),
        lambda r: torch.tensor(curvature.adaptive_sharpness(r, tol=1e-9)),
    ]
    for call in calls:
        one, other = call(whole), call(parts)
        # Pairs to a residual of 1e-9: what rests on their vectors is off by that over their gaps.
        assert (one - other).norm() <= 1e-6 * one.norm()


def test_a_list_of_batches_and_unequal_sizes_are_weighted_by_size():
    x, y = batch()
    model = net()
    parts = [(x[:1], y[:1]), (x[1:], y[1:])]
    whole = EmpiricalRisk(model, "mse", (x, y)).value()
    assert EmpiricalRisk(model, "mse", parts).value() == pytest.approx(whole, rel=10 * EPS)
    total = EmpiricalRisk(model, "mse", parts, reduction="sum")
    assert total.value() == pytest.approx(
        sum(EmpiricalRisk(model, "mse", p).value() for p in parts), rel=10 * EPS
    )


def test_the_reduction_is_read_off_the_losses_of_pytorch():
    x, y = batch(classes=2)
    model, parts = net(nn.Linear(4, 2)), [(x[:5], y[:5]), (x[5:], y[5:])]
    mean = EmpiricalRisk(model, nn.CrossEntropyLoss(), parts)
    total = EmpiricalRisk(model, nn.CrossEntropyLoss(reduction="sum"), parts)
    assert total.value() == pytest.approx(EXAMPLES * mean.value(), rel=1e-14)
    with pytest.raises(ValueError, match="reduction must be one of mean, sum; got 'none'"):
        EmpiricalRisk(model, nn.CrossEntropyLoss(reduction="none"), parts)


def test_ignored_places_and_class_weights_count_as_in_the_whole():
    torch.manual_seed(0)
    x, y = batch()
    y[[0, 1, 4, 8]] = -100
    model, weights = net(), torch.tensor([1.0, 3.0, 0.2], dtype=F64)
    parts = [(x[:2], y[:2]), (x[2:5], y[2:5]), (x[5:], y[5:])]
    smooth = {"label_smoothing": 0.1}
    for options in ({}, {"weight": weights}, smooth, {"weight": weights, **smooth}):
        loss = nn.CrossEntropyLoss(**options)
        whole = EmpiricalRisk(model, loss, (x, y)).value()
        # The first batch has nothing to say: PyTorch's mean over it is 0 / 0.
        assert EmpiricalRisk(model, loss, parts[1:]).value() == pytest.approx(whole, rel=1e-13)


def test_targets_of_other_kinds_count_by_their_tensors():
    x, y = batch()
    loss = lambda outputs, targets: functional.cross_entropy(outputs, targets["label"])  # noqa: E731
    model = net()
    whole = EmpiricalRisk(model, "cross_entropy", (x, y)).value()
    parts = [(x[:2], {"label": y[:2]}), (x[2:], {"label": y[2:]})]
    assert EmpiricalRisk(model, loss, parts).value() == pytest.approx(whole, rel=1e-14)
    odd = [(x, {"label": y, "of": y[:3]})]
    with pytest.raises(ValueError, match=r"size_of must say .* lengths \[3, 12\]"):
        EmpiricalRisk(model, loss, odd).value()
    assert EmpiricalRisk(model, loss, odd, size_of=lambda x, t: len(x)).value() == whole


class Twofold(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2).double(), nn.Linear(4, 2).double()

    def forward(self, left, right):
        return torch.tanh(self.left(left)) * self.right(right)


def test_inputs_may_be_a_tuple_or_a_dict():
    torch.manual_seed(0)
    model, (x, _) = Twofold(), batch()
    y = torch.ones(len(x), 2, dtype=F64)
    values = [
        EmpiricalRisk(model, "mse", data).value()
        for data in (((x, 2 * x), y), ({"left": x, "right": 2 * x}, y), [([x, 2 * x], y)])
    ]
    assert (
        values[0]
        == values[1]
        == values[2]
        == (0.5 * (model(x, 2 * x) - y).square().sum() / len(x)).item()
    )


def test_losses_may_be_any_callable():
    x, labels = batch(classes=2)
    model, y = net(nn.Linear(4, 1)), labels[:, None].double()
    risk = EmpiricalRisk(model, nn.BCEWithLogitsLoss(), (x, y))
    p = torch.sigmoid(model(x))
    # The Hessian of logistic regression: X' diag(p (1 - p)) X / n, with a column of ones.
    design = torch.cat([x, torch.ones(len(x), 1, dtype=F64)], 1)
    hessian = design.T @ (p * (1 - p) * design) / len(x)
    values = torch.linalg.eigvalsh(hessian.detach())
    assert curvature.sharpness(risk, tol=1e-10) == pytest.approx(float(values[-1]), rel=1e-9)
    scalar = EmpiricalRisk(net(nn.Linear(4, 1), nn.Flatten(0)), functional.mse_loss, (x, y[:, 0]))
    assert (scalar.hessian().matmat(torch.eye(5).double()) - dense(scalar)).abs().max() <= 1e-13


class Characters(nn.Module):
    """Next-character logits (n, t, c)."""

    def __init__(self, c=5):
        super().__init__()
        self.embed, self.recur = nn.Embedding(c, 4), nn.RNN(4, 4, batch_first=True)
        self.head = nn.Linear(4, c)

    def forward(self, x):
        return self.head(self.recur(self.embed(x))[0])


def test_sequences_and_ignored_places():
    torch.manual_seed(0)
    model = Characters().double()
    x, y = torch.randint(5, (2, 6, 3)).unbind()
    risk = EmpiricalRisk(model, "cross_entropy", (x, y))
    expected = functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert risk.value() == pytest.approx(expected.item(), rel=10 * EPS)
    assert risk.hessian().matvec(torch.ones(risk.size).double()).isfinite().all()

    # Masked places: each batch has its own number of them, and the weights follow.
    y = y.clone()
    y[0, :2], y[4] = -100, -100

    def loss(outputs, targets):
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-100)

    def kept(inputs, targets):
        return int((targets != -100).sum())

    whole = EmpiricalRisk(model, loss, (x, y)).value()
    parts = [(x[:1], y[:1]), (x[1:3], y[1:3]), (x[3:], y[3:])]
    assert EmpiricalRisk(model, loss, parts, size_of=kept).value() == pytest.approx(
        whole, rel=1e-14
    )
    assert EmpiricalRisk(model, loss, parts).value() != pytest.approx(whole, rel=1e-3)


def test_attention_has_a_hessian():
    """PyTorch's fused kernels, also those for the CPU, have no second derivative."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).double()
    x, y = torch.randn(5, 3, 4, dtype=F64), torch.tensor([0, 1, 1, 0, 1])
    risk = EmpiricalRisk(model, "cross_entropy", (x, y))
    v = torch.randn(risk.size, dtype=F64, generator=torch.Generator().manual_seed(1))
    product = risk.hessian().matvec(v)

    def gradient(s):
        step = risk.unflatten(s * v)
        shifted = {k: p.detach() + step[k] for k, p in model.named_parameters()}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            value = torch.func.grad(
                lambda w: functional.cross_entropy(torch.func.functional_call(model, w, (x,)), y)
            )(shifted)
        return torch.cat([value[name].flatten() for name in risk.names])

    h = 1e-5
    difference = (gradient(h) - gradient(-h)) / (2 * h)
    assert (product - difference).norm() <= 1e-7 * product.norm()


def test_one_block_of_the_hessian():
    problem = CASES[0].build()
    weight = problem.parameters[2]
    first = sum(p.numel() for p in problem.parameters[:2])
    block = problem.dense_hessian()[first:, first:][: weight.numel(), : weight.numel()]
    found = problem.hessian([weight]).matmat(torch.eye(weight.numel()).double())
    assert (found - block).abs().max() <= 1e-13


# --- flat vectors and names


def test_flat_vectors_and_named_tensors_are_two_forms_of_one_thing():
    model = net(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    risk = EmpiricalRisk(model, "mse", (batch()[0], torch.ones(EXAMPLES, 2, dtype=F64)))
    assert risk.names == ("0.weight", "2.weight", "2.bias")
    assert risk.size == 12 + 6 + 2 == len(risk.flat())
    named = risk.unflatten(risk.flat())
    assert all(torch.equal(named[k], dict(model.named_parameters())[k]) for k in risk.names)
    operator = risk.hessian()
    for part, name in zip(operator.split(risk.flat()), risk.names, strict=True):
        assert torch.equal(part, named[name])
    vector = torch.arange(20.0, dtype=F64)
    assert torch.equal(risk.flat(risk.unflatten(vector)), vector), "and back"
    with pytest.raises(ValueError, match=r"must have the names .* got \('0.weight',\)"):
        risk.flat({"0.weight": vector})
    with pytest.raises(ValueError, match=r"shape \(20,\), got \(3,\)"):
        risk.unflatten(torch.ones(3))


def test_an_entry_of_the_gradient_belongs_to_its_name():
    problem = CASES[0].build()
    named = problem.unflatten(problem.gradient())
    problem.loss().backward()
    for name, p in problem.model.named_parameters():
        assert torch.allclose(named[name], p.grad, rtol=0, atol=1e-15)


# --- what is not deterministic is refused, by the name of the layer


def risk_of(model, data=None, **options):
    return EmpiricalRisk(model, "cross_entropy", data or batch(), **options)


def test_dropout_in_training_mode_is_named_and_evaluation_mode_is_fine():
    model = net(nn.Linear(4, 50), nn.Tanh(), nn.Dropout(0.5), nn.Linear(50, 3))
    with pytest.raises(NondeterministicRiskError, match=r"come from 2 \(Dropout\)\."):
        curvature.sharpness(risk_of(model))
    assert curvature.sharpness(risk_of(model.eval())) > 0


def test_a_layer_that_draws_by_itself_is_named_whatever_it_is_called():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.randn_like(x)

    model = nn.ModuleDict({"body": net(), "noise": nn.ModuleList([Noisy()])})
    model.forward = lambda x: model["noise"][0](model["body"](x))
    with pytest.raises(NondeterministicRiskError, match=r"noise\.0 \(Noisy\)"):
        risk_of(model).hessian()
    functional_only = net()
    functional_only.forward = lambda x: functional.dropout(
        nn.Sequential.forward(functional_only, x)
    )
    with pytest.raises(NondeterministicRiskError, match=r"the model itself \(Sequential\)"):
        risk_of(functional_only).check()


def test_batch_normalization_in_training_mode_is_named_and_left_as_it_was():
    model = net(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(NondeterministicRiskError, match=r"buffers move in 1 \(1\.running_mean\)"):
        curvature.sharpness(risk_of(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert curvature.sharpness(risk_of(model.eval())) > 0


def test_data_that_differ_from_pass_to_pass_are_refused():
    data = TensorDataset(*batch())
    with pytest.raises(ValueError, match="must not shuffle"):
        risk_of(net(), DataLoader(data, batch_size=4, shuffle=True))

    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 0.01 * torch.randn_like(x), y

    with pytest.raises(NondeterministicRiskError, match="the same in each pass"):
        risk_of(net(), DataLoader(Augmented(*batch()), batch_size=4)).hessian()


def test_a_loss_that_draws_is_refused():
    noisy = lambda outputs, targets: outputs.square().mean() * (1 + torch.rand(()))  # noqa: E731
    with pytest.raises(NondeterministicRiskError, match="the loss is not deterministic"):
        EmpiricalRisk(net(), noisy, batch()).hessian()


def test_the_check_moves_no_random_numbers_and_is_made_once():
    model = net(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    risk = risk_of(model, DataLoader(TensorDataset(*batch()), batch_size=5))
    state = torch.get_rng_state()
    curvature.sharpness(risk)
    first = len(calls)
    curvature.sharpness(risk)
    # Over the three batches twice for the check, and three times for the differences: on either
    # side, and for the product that they are held against.
    assert first - (len(calls) - first) == (2 + 3) * 3
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(NondeterministicRiskError):
        risk_of(model.train()).check()
    assert torch.equal(torch.get_rng_state(), state)


def test_whoever_knows_better_can_switch_the_check_off():
    model = net(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    assert isinstance(risk_of(model, check=False).hessian(), HessianOperator)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, "mse", batch()), TypeError, "torch.nn.Module, got function"),
        ((nn.Tanh(), "mse", batch()), ValueError, "at least one trainable parameter"),
        ((nn.LazyLinear(3), "mse", batch()), ValueError, "call it once, for its lazy layers"),
        ((net(), "hinge", batch()), ValueError, "one of mse, cross_entropy; got 'hinge'"),
        ((net(), 3, batch()), TypeError, "one of mse, cross_entropy or a function"),
        ((net(), "mse", batch()[0]), TypeError, r"a pair .* got Tensor"),
        ((net(), "mse", {"x": 1}), TypeError, "got dict"),
        ((net(), "mse", iter([batch()])), TypeError, "ends after one pass"),
        ((net(), "mse", (b for b in [batch()])), TypeError, "got a generator"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        EmpiricalRisk(*arguments)


def test_bad_batches_and_values_are_named():
    x, y = batch()
    with pytest.raises(ValueError, match="reduction must be one of mean, sum"):
        EmpiricalRisk(net(), "mse", (x, y), reduction="none")
    with pytest.raises(TypeError, match=r"must be a pair .* got Tensor"):
        EmpiricalRisk(net(), "mse", [x, y]).value()
    with pytest.raises(TypeError, match="got tuple of 3"):
        EmpiricalRisk(net(), "mse", [(x, y, x)]).value()
    with pytest.raises(ValueError, match="at least one example"):
        EmpiricalRisk(net(), "mse", []).examples  # noqa: B018
    with pytest.raises(ValueError, match="shape of the outputs"):
        EmpiricalRisk(net(nn.Linear(4, 1)), "mse", (x, y.double())).value()
    with pytest.raises(ValueError, match="the last axis of the outputs holds the classes"):
        EmpiricalRisk(net(), "cross_entropy", (x, y[:, None])).value()
    with pytest.raises(ValueError, match="finite"):
        EmpiricalRisk(net(), lambda o, t: o.sum() * math.nan, (x, y), check=False).hessian()


def test_arrays_in_the_place_of_tensors_are_named():
    x, y = batch()
    pairs = [(x.numpy(), y), (x, y.numpy()), (x.numpy(), y.numpy()), ({"x": x.numpy()}, y)]
    for data in [*pairs, pairs[:1], x.numpy()]:
        with pytest.raises(TypeError, match="data must hold tensors, got NumPy arrays"):
            EmpiricalRisk(net(), "mse", data)
    for pair in pairs:
        loader = DataLoader([0], batch_size=None, collate_fn=lambda _, pair=pair: pair)
        with pytest.raises(TypeError, match="data must hold tensors, got NumPy arrays"):
            training.gradient_descent(EmpiricalRisk(net(), "mse", loader), 0.1, 1)


def test_what_a_model_raises_says_what_it_was_given():
    x, y = batch()
    with pytest.raises(RuntimeError) as error:
        EmpiricalRisk(net(), "mse", (x[:, :3], y)).value()
    given = "inputs 'torch.float64 (12, 3)'; targets 'torch.int64 (12,)'"
    assert given in error.value.__notes__[0]


def test_it_says_what_it_is():
    assert repr(EmpiricalRisk(net(), "mse", batch())) == (
        "EmpiricalRisk(Sequential with 43 parameters, mse, 12 examples)"
    )
