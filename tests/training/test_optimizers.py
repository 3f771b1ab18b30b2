"""optimizers: ClippedAdam against Adam, against its definition, its state, and refusals."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from crashing import StopAt

from flatminima import curvature, models, training
from flatminima.curvature import EmpiricalRisk, preconditioner
from flatminima.training import probes
from flatminima.training.optimizers import CLIPS, ClippedAdam

FACTORS = {
    "absolute": 0.02, "minimum": 1.1, "median": 1.05, "growth": 1.001, "ratio": 0.5, "floor": 0.03,
}  # fmt: skip
STEPS = 40


def unclipped(parameters, *args, **more):
    return ClippedAdam(parameters, *args, clip="none", **more)


def options(clip, **more):
    return {"clip": clip, "factor": FACTORS.get(clip)} | more


def gradients(seed=0, steps=STEPS, dtype=torch.float64):
    """Gradients of two tensors over time: noise, with a burst in the middle, and a dead entry."""
    generator = torch.Generator().manual_seed(seed)
    size = 1 + 9 * torch.exp(-((torch.arange(steps) - steps / 2) ** 2) / 8.0).double()
    first = torch.randn(steps, 3, 2, generator=generator, dtype=torch.float64)
    second = torch.randn(steps, 4, generator=generator, dtype=torch.float64)
    first = first * 0.02 * size[:, None, None]
    second = second * 0.02 * size[:, None]
    first[: steps // 4, 0, 0] = 0.0
    return first.to(dtype), second.to(dtype)


def losses(seed=0, steps=STEPS):
    rng = np.random.default_rng(seed)
    return np.exp(-np.arange(steps) / 10) + 0.1 * rng.random(steps)


def run(make, grads=None, given=None, start=0, stop=STEPS, parameters=None, optimizer=None):
    """Feed prescribed gradients and losses to an optimizer; returns parameters and optimizer."""
    grads = gradients() if grads is None else grads
    given = losses() if given is None else given
    if parameters is None:
        parameters = [torch.zeros_like(g[0]).requires_grad_() for g in grads]
        optimizer = make(parameters)
    for t in range(start, stop):
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g[t].clone()
        optimizer.step(lambda t=t: given[t])
    return parameters, optimizer


def by_definition(
    grads, given, lr, clip, factor, window=20, warmup=0, betas=(0.9, 0.999), eps=1e-8
):
    """The definition in the docstring, entry by entry in plain Python."""
    (b1, b2), theta, every = betas, [], []
    columns = grads.reshape(len(grads), -1).T.tolist()
    if clip == "ratio":  # the second moments are Adam's, and clipped at each step's own median
        v = np.zeros(len(columns))
        for t, g in enumerate(np.array(columns).T, start=1):
            v = b2 * v + (1 - b2) * g * g
            roots = sorted(r for r in np.sqrt(v / (1 - b2**t)) if r > 0)
            every.append(factor * roots[(len(roots) - 1) // 2] if t > warmup else math.inf)
    for column in columns:
        x = m = v = 0.0
        count, roots, previous = 0, [], None
        for t, g in enumerate(column, start=1):
            m = b1 * m + (1 - b1) * g
            past = given[: t - 1]
            hold = {"rise": past[-1:], "episode": [min(past)] if len(past) else []}.get(clip, [])
            if not (t > warmup and len(hold) and given[t - 1] > hold[0]):
                v = b2 * v + (1 - b2) * g * g
                count += 1
            v_hat = v / (1 - b2**count)
            if clip == "growth" and t > max(warmup, 1) and previous > 0:
                v_hat = min(v_hat, factor * previous)
                v = v_hat * (1 - b2**count)
            previous = v_hat
            root = s = math.sqrt(v_hat)
            known = [r for tau, r in roots if tau >= warmup]
            if clip == "absolute" and t > warmup:
                s = min(s, factor)
            if clip == "minimum" and t > warmup and any(r > 0 for r in known):
                s = min(s, factor * min(r for r in known if r > 0))
            if clip == "median" and t > warmup and known:
                recent = sorted(known[-window:])
                middle = recent[(len(recent) - 1) // 2]
                s = min(s, factor * middle) if middle > 0 else s
            if clip == "floor" and t > warmup:
                s = max(s, factor)
            if clip == "ratio":
                s = min(s, every[t - 1])
            roots.append((t, root))
            x -= lr / (1 - b1**t) * m / (s + eps)
        theta.append(x)
    return np.array(theta)


# Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("clip", ["none", *FACTORS])
def test_with_no_clipping_active_it_is_adam_to_the_last_bit(clip, foreach, dtype):
    factor = {"none": None, "floor": 1e-300}.get(clip, math.inf)
    grads = gradients(dtype=dtype)
    ours, _ = run(lambda p: ClippedAdam(p, 0.01, clip=clip, factor=factor), grads)
    adam, _ = run(lambda p: torch.optim.Adam(p, 0.01, foreach=foreach), grads)
    for a, b in zip(ours, adam, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("foreach", [False, True])
def test_with_weight_decay_it_is_adamw_to_the_last_bit(foreach, dtype):
    grads = gradients(dtype=dtype)
    start = [torch.linspace(-1, 1, g[0].numel(), dtype=dtype).view_as(g[0]) for g in grads]
    ends = []
    for make, how in ((unclipped, {}), (torch.optim.AdamW, {"foreach": foreach})):
        parameters = [p.clone().requires_grad_() for p in start]
        optimizer = make(parameters, 0.01, weight_decay=0.3, **how)
        run(None, grads, parameters=parameters, optimizer=optimizer)
        ends.append(parameters)
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


def test_a_rate_of_zero_moves_the_moments_alone():
    parameters, optimizer = run(lambda p: unclipped(p, 0.0, weight_decay=0.1), stop=5)
    assert not any(p.any() for p in parameters)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    adam, other = run(lambda p: torch.optim.AdamW(p, 0.0, weight_decay=0.1), stop=5)
    for group in other.param_groups:
        group["lr"] = 0.01
    run(None, start=5, parameters=parameters, optimizer=optimizer)
    run(None, start=5, parameters=adam, optimizer=other)
    for a, b in zip(parameters, adam, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("clip", ["minimum", "median", "growth"])
def test_without_a_factor_the_relative_ways_allow_no_growth(clip):
    one, _ = run(lambda p: ClippedAdam(p, 0.01, clip=clip))
    two, _ = run(lambda p: ClippedAdam(p, 0.01, clip=clip, factor=1.0))
    for p, q in zip(one, two, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("at", [0, 12])
@pytest.mark.parametrize("clip", ["rise", "episode"])
def test_a_loss_that_is_not_a_number_does_not_end_the_watching(clip, at):
    """It counts as a rise, and the losses after it are compared with those before it."""
    given = losses()
    given[at] = math.nan
    _, optimizer = run(lambda p: ClippedAdam(p, clip=clip), given=given, stop=at + 1)
    assert float(optimizer.clipped_share) == (1.0 if at else 0.0)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    again = given.copy()
    again[at + 1] = 100.0
    run(None, given=again, start=at + 1, stop=at + 3, parameters=parameters, optimizer=optimizer)
    held = optimizer.param_groups[0]
    assert held["previous_loss"] == again[at + 2]
    assert held["lowest_loss"] == np.nanmin(again[: at + 3])
    run(None, given=100 + again, start=at + 3, stop=at + 4, parameters=parameters,
        optimizer=optimizer)  # fmt: skip
    assert float(optimizer.clipped_share) == 1.0


@pytest.mark.parametrize("clip", ["rise", "episode"])
def test_while_the_loss_falls_the_rules_about_the_loss_are_adam(clip):
    falling = np.linspace(1, 0, STEPS)
    ours, optimizer = run(lambda p: ClippedAdam(p, 0.01, clip=clip), given=falling)
    adam, _ = run(lambda p: torch.optim.Adam(p, 0.01))
    for a, b in zip(ours, adam, strict=True):
        assert torch.equal(a, b)
    assert optimizer.clipped_share == 0


@pytest.mark.parametrize("clip", CLIPS)
def test_during_the_warmup_it_is_adam(clip):
    ours, _ = run(lambda p: ClippedAdam(p, 0.01, **options(clip), warmup=STEPS))
    adam, _ = run(lambda p: torch.optim.Adam(p, 0.01))
    for a, b in zip(ours, adam, strict=True):
        assert torch.equal(a, b)


def test_it_trains_a_network_as_adam_does():
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 3
    weights = []
    for make in (torch.optim.Adam, unclipped):
        model = models.mlp([5, 6, 3])
        risk = EmpiricalRisk(model, "mse", (inputs, targets))
        training.train(risk, 30, optimizer=make(model.parameters(), 0.01), progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


# The definition


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("clip", CLIPS)
def test_it_follows_its_definition(clip, warmup):
    chosen = options(clip, warmup=warmup, window=6)
    parameters, _ = run(lambda p: ClippedAdam(p, 0.01, **chosen))
    adam, _ = run(lambda p: torch.optim.Adam(p, 0.01))
    together = torch.cat([g.flatten(1) for g in gradients()], dim=1)
    expected = np.split(by_definition(together, losses(), 0.01, **chosen), [parameters[0].numel()])
    for p, e, a in zip(parameters, expected, adam, strict=True):
        # A step of size 0.01 times a ratio m / s carries some ten roundings of 1.1e-16 relative to
        # m, whose size relative to s is at most 1 / factor-sized: below 100 here. The rounding of v
        # accumulates over 40 steps: 40 steps x 0.01 x 100 x 50 x 1.1e-16 = 2e-13.
        assert np.allclose(p.detach().numpy().ravel(), e, rtol=0, atol=2e-13)
        if clip != "none":
            assert not torch.allclose(p, a, rtol=0, atol=1e-4), "the clipping must be active"


@pytest.mark.parametrize("clip", [c for c in CLIPS if c not in ("none", "ratio", "floor")])
def test_a_burst_moves_it_further_than_adam(clip):
    """What it is for: the same growing gradients make larger steps than Adam's."""
    t = np.arange(200)
    burst = 1e-2 * (1 + 20 * (t > 150)) * np.ones(200)
    grads = (torch.tensor(burst)[:, None],)
    given = np.where(t > 150, 2 + t / 200.0, 1 - t / 400.0)
    factor = {"absolute": 0.011, "minimum": 1.1, "median": 1.1, "growth": 1.0001}.get(clip)
    make = {
        # The median does not follow while the burst fills less than half of its window.
        "ours": lambda p: ClippedAdam(p, 1e-3, clip=clip, factor=factor, window=150),
        "adam": lambda p: torch.optim.Adam(p, 1e-3),
    }
    moved = {}
    for name, f in make.items():
        before, optimizer = run(f, grads, given, stop=151)
        position = before[0].item()
        after, _ = run(f, grads, given, 151, 200, before, optimizer)
        moved[name] = position - after[0].item()
    # m grows toward 21e-2; Adam's root grows by sqrt(1 + 0.049 * 440 / (1 - b2^200)) = 11 over
    # these 49 steps, and the clipped ones by a tenth at most: twice as far is a weak demand.
    assert moved["ours"] > 2 * moved["adam"] > 0


def test_the_share_of_clipped_entries_is_counted():
    grads = (torch.ones(3, 4, dtype=torch.float64) * torch.tensor([0.1, 0.2, 0.3, 0.4]).double(),)
    _, optimizer = run(lambda p: ClippedAdam(p, clip="absolute", factor=0.25), grads=grads, stop=1)
    assert float(optimizer.clipped_share) == 0.5
    _, optimizer = run(lambda p: ClippedAdam(p, clip="rise"), given=[1.0, 2.0], stop=2)
    assert float(optimizer.clipped_share) == 1.0


# Implementations and state


@pytest.mark.parametrize("split", [1, 5, 23])
@pytest.mark.parametrize("clip", CLIPS)
def test_its_state_makes_a_round_trip_through_a_file(clip, split, tmp_path):
    def make(p):
        return ClippedAdam(p, 0.01, **options(clip, warmup=2, window=6))

    whole, _ = run(make)
    parameters, optimizer = run(make, stop=split)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = [p.detach().clone().requires_grad_() for p in parameters]
    fresh = make(again)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed, _ = run(make, start=split, parameters=again, optimizer=fresh)
    for p, q in zip(whole, resumed, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_checkpointed_run_resumes_to_the_last_bit(clip, tmp_path):
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 3

    def train(stop=-1, **more):
        model = models.mlp([5, 6, 3])
        optimizer = ClippedAdam(model.parameters(), 0.02, **options(clip, warmup=3))
        risk = EmpiricalRisk(model, "mse", (inputs, targets))
        history = training.train(
            risk, 40, optimizer=optimizer, progress=False, probes={"p": StopAt(stop)}, **more
        )
        return history.loss

    expected = train()
    more = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 10}
    with pytest.raises(KeyboardInterrupt):
        train(25, **more)
    assert np.array_equal(train(**more), expected)


def test_groups_have_options_of_their_own():
    grads = gradients()
    parameters = [torch.zeros_like(g[0]).requires_grad_() for g in grads]
    groups = [
        {"params": parameters[:1]},
        {"params": parameters[1:], "lr": 0.02, **options("median")},
    ]
    run(None, grads, parameters=parameters, optimizer=ClippedAdam(groups, 0.01, clip="none"))
    adam, _ = run(lambda p: torch.optim.Adam(p, 0.01))
    median, _ = run(lambda p: ClippedAdam(p, 0.02, **options("median")))
    assert torch.equal(parameters[0], adam[0])
    assert torch.equal(parameters[1], median[1])


def test_a_tensor_without_gradient_is_left_alone():
    grads = gradients()
    parameters = [torch.zeros_like(g[0]).requires_grad_() for g in grads]
    optimizer = ClippedAdam(parameters, 0.01, clip="rise")
    parameters[0].grad = grads[0][0].clone()
    optimizer.step(lambda: 1.0)
    assert not parameters[1].any()
    # It joins while the loss rises: with no moment of its own yet to hold, it takes Adam's step.
    parameters[1].grad = grads[1][0].clone()
    optimizer.step(lambda: 2.0)
    assert torch.allclose(parameters[1], -0.01 * grads[1][0].sign(), rtol=1e-5)


def test_a_copy_goes_its_own_way():
    parameters, optimizer = run(lambda p: ClippedAdam(p, **options("median")), stop=10)
    twins, twin = copy.deepcopy((parameters, optimizer))
    run(None, start=10, parameters=parameters, optimizer=optimizer)
    run(None, start=10, parameters=twins, optimizer=twin)
    for p, q in zip(parameters, twins, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_to_the_last_bit(clip, copied):
    def make(p):
        return ClippedAdam(p, 0.01, weight_decay=0.1, **options(clip, warmup=2, window=6))

    whole, _ = run(make)
    parameters, optimizer = copied(run(make, stop=17))
    share = optimizer.clipped_share
    assert float(share) == float(run(make, stop=17)[1].clipped_share)
    resumed, _ = run(None, start=17, parameters=parameters, optimizer=optimizer)
    for p, q in zip(whole, resumed, strict=True):
        assert torch.equal(p, q)


# The preconditioner


def test_without_clipping_the_preconditioner_is_that_of_adam():
    _, ours = run(unclipped, stop=9)
    _, adam = run(torch.optim.Adam, stop=9)
    # Adam's is taken from the same moments by the same formula, in another order: 3 roundings.
    assert torch.allclose(ours.preconditioner(), preconditioner(adam), rtol=1e-15, atol=0)


@pytest.mark.parametrize("clip", CLIPS)
def test_the_step_is_the_rate_times_the_average_over_the_preconditioner(clip):
    parameters, optimizer = run(lambda p: ClippedAdam(p, 0.01, **options(clip)), stop=25)
    before = torch.cat([p.detach().clone().flatten() for p in parameters])
    run(None, start=25, stop=26, parameters=parameters, optimizer=optimizer)
    after = torch.cat([p.detach().flatten() for p in parameters])
    average = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in parameters])
    predicted = -0.01 * average / optimizer.preconditioner()
    # Positions of order one carry 2.2e-16 each into the difference.
    assert torch.allclose(after - before, predicted, rtol=1e-13, atol=1e-15)


def test_the_preconditioner_asks_for_a_step_and_for_its_own_tensors():
    parameters = [torch.zeros(2, requires_grad=True)]
    optimizer = unclipped(parameters)
    with pytest.raises(ValueError, match="no step"):
        optimizer.preconditioner()
    with pytest.raises(ValueError, match="belong"):
        optimizer.preconditioner([torch.zeros(1)])


@pytest.mark.parametrize("clip", CLIPS)
def test_the_probe_of_the_preconditioned_sharpness_agrees_with_the_dense_matrix(clip):
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.arange(20) % 3
    model = models.mlp([4, 5, 3], dtype=torch.float64)
    optimizer = ClippedAdam(model.parameters(), 0.02, **options(clip, warmup=3))
    risk = EmpiricalRisk(model, "mse", (inputs, targets))
    history = training.train(
        risk, 12, optimizer=optimizer, progress=False,
        probes={"ours": probes.PreconditionedSharpness(tol=1e-9)}, probe_every=6,
    )  # fmt: skip
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def value(vector):
        pieces = vector.split([s.numel() for s in shapes.values()])
        weights = {k: v.reshape(s) for (k, s), v in zip(shapes.items(), pieces, strict=True)}
        return curvature.mse(torch.func.functional_call(model, weights, (inputs,)), targets)

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    scale = optimizer.preconditioner().rsqrt()
    matrix = scale[:, None] * torch.func.hessian(value)(point) * scale
    eigenvalues = torch.linalg.eigvalsh(matrix)
    values = history.probes["ours"]
    assert np.isnan(values[0])
    assert np.isfinite(values[1])
    # An eigenvalue is off by at most the residual norm, tol * |lambda|_max.
    assert values[-1] == pytest.approx(
        eigenvalues[-1].item(), abs=2e-9 * eigenvalues.abs().max().item()
    )


def test_the_probe_knows_adam_and_plain_descent():
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data, values = (inputs, torch.arange(20) % 3), []
    for make in (torch.optim.Adam, unclipped):
        model = models.mlp([4, 5, 3], dtype=torch.float64)
        history = training.train(
            EmpiricalRisk(model, "mse", data), 5, optimizer=make(model.parameters(), 0.02),
            probes={"p": probes.PreconditionedSharpness(tol=1e-9)}, progress=False,
        )  # fmt: skip
        values.append(history.probes["p"][1:])
    assert np.allclose(*values, rtol=4e-9)  # both to within tol
    model = models.mlp([4, 5, 3], dtype=torch.float64)
    both = {"p": probes.PreconditionedSharpness(tol=1e-9), "s": probes.Sharpness(tol=1e-9)}
    risk = EmpiricalRisk(model, "mse", data)
    plain = training.gradient_descent(risk, 0.1, 2, probes=both, progress=False)
    both = {"p": probes.PreconditionedSharpness(tol=1e-9), "s": probes.Sharpness(tol=1e-9)}
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    by_sgd = training.train(risk, 2, optimizer=sgd, probes=both, progress=False)
    for history in (plain, by_sgd):
        assert np.array_equal(history.probes["p"], history.probes["s"])


# Refusals


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lr": -0.1}, "lr"),
        ({"lr": True}, "lr"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"lr": math.nan}, "lr"),
        ({"eps": 0.0}, "eps"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"clip": "norm"}, "clip must be one of none"),
        ({"clip": "absolute"}, "factor"),
        ({"clip": "absolute", "factor": 0.0}, "factor"),
        ({"clip": "absolute", "factor": math.nan}, "factor"),
        ({"clip": "ratio"}, "factor"),
        ({"clip": "floor", "factor": -1.0}, "factor"),
        ({"clip": "growth", "factor": 0.9}, "at least 1"),
        ({"clip": "rise", "factor": 2.0}, "factor must be None"),
        ({"factor": 2.0}, "factor must be None"),
        ({"clip": "median", "factor": 2.0, "window": 0}, "window"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_bad_options_are_named(bad, message):
    parameters = [torch.zeros(2, requires_grad=True)]
    with pytest.raises(ValueError, match=message):
        ClippedAdam(parameters, **{"clip": "none", **bad})
    with pytest.raises(ValueError, match=message):
        ClippedAdam([{"params": parameters, **bad}], clip="none")


def test_the_way_to_clip_has_no_default():
    with pytest.raises(TypeError, match="clip"):
        ClippedAdam([torch.zeros(2, requires_grad=True)])


def test_a_missing_closure_moves_nothing():
    """Also where a group that needs no loss comes first."""
    parameters = [torch.ones(2, requires_grad=True) for _ in range(2)]
    for p in parameters:
        p.grad = torch.ones(2)
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "clip": "rise"}]
    optimizer = ClippedAdam(groups, 0.1, clip="none")
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()
    parameters[1].grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match="dense"):
        optimizer.step(lambda: 1.0)
    assert all(torch.equal(p, torch.ones(2)) for p in parameters)
    assert not optimizer.state


@pytest.mark.parametrize("clip", ["rise", "episode"])
def test_rules_about_the_loss_need_the_loss(clip):
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = ClippedAdam([p], clip=clip)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()


def test_sparse_gradients_are_refused():
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match="dense"):
        unclipped([p]).step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clip", CLIPS)
def test_the_gpu_takes_the_same_steps(clip):
    cpu, _ = run(lambda p: ClippedAdam(p, 0.01, **options(clip)))
    gpu, _ = run(
        lambda p: ClippedAdam(p, 0.01, **options(clip)),
        tuple(g.cuda() for g in gradients()),
    )
    for p, q in zip(cpu, gpu, strict=True):
        assert torch.allclose(p, q.cpu(), rtol=0, atol=2e-13)  # as for the definition, above
