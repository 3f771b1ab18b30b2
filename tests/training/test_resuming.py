"""training: any optimizer, schedules, cooling to a loss, checkpoints and resumption."""

import copy
import enum
import math
from collections import deque
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from crashing import StopAt

from flatminima import curvature, models, training
from flatminima.curvature import EmpiricalRisk
from flatminima.training import checkpoint, probes

LOSSES = ("mse", "cross_entropy")
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, 5, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (24,), generator=generator)


def network(dtype=torch.float64):
    return models.mlp([5, 6, 3], seed=0, dtype=dtype)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def risk_of(model, options):
    return EmpiricalRisk(model, options.pop("loss", "mse"), problem(flat(model).dtype))


def descend(model, **options):
    options = {"learning_rate": 0.1, "steps": 10, "progress": False} | options
    return training.gradient_descent(risk_of(model, options), **options)


def cool(model, **options):
    options = {"max_steps": 2000, "progress": False} | options
    return training.train_to_loss(risk_of(model, options), **options)


def train(model, make, **options):
    options = {"steps": 10, "progress": False} | options
    optimizer = make(list(model.parameters()))
    return training.train(risk_of(model, options), optimizer=optimizer, **options)


# Optimizers


@pytest.mark.parametrize("loss", LOSSES)
def test_plain_sgd_of_pytorch_is_gradient_descent_to_the_last_bit(loss):
    ours, theirs = network(), network()
    one = descend(ours, loss=loss)
    two = train(theirs, lambda p: torch.optim.SGD(p, lr=0.1), loss=loss)
    assert torch.equal(flat(ours), flat(theirs))
    assert np.array_equal(one.loss, two.loss)
    assert two.learning_rate == 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_steps_an_optimizer_as_a_hand_written_loop_does(name):
    inputs, targets = problem()
    ours, by_hand = network(), network()
    train(ours, OPTIMIZERS[name], steps=6)
    optimizer = OPTIMIZERS[name](by_hand.parameters())

    def closure():
        optimizer.zero_grad()
        value = curvature.mse(by_hand(inputs), targets)
        value.backward()
        return value

    for _ in range(6):
        optimizer.step(closure)
    # The same operations in the same order: backward() and autograd.grad() compute alike.
    assert torch.equal(flat(ours), flat(by_hand))
    assert all(p.grad is None for p in ours.parameters())


def test_a_schedule_sets_the_rate_of_every_parameter_group():
    model = network()
    weights = [p for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD([{"params": weights}, {"params": biases, "lr": 9.0}], lr=7.0)
    history = train(model, lambda p: optimizer, learning_rate=lambda t: 0.1 / (t + 1))
    reference = network()
    descend(reference, learning_rate=lambda t: 0.1 / (t + 1))
    assert torch.equal(flat(model), flat(reference))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 / 10] * 2
    # Equal arithmetic on both sides, so equal bits.
    assert history.learning_rates.tolist() == [0.1 / (t + 1) for t in range(11)]


def test_probes_see_the_optimizer_and_the_rate_of_the_update_to_come():
    seen = []
    probe = {"p": lambda s: seen.append((s.optimizer, s.learning_rate)) or 0.0}
    train(network(), OPTIMIZERS["adam"], probes=probe, learning_rate=[(0, 0.1), (4, 0.01)], steps=5)
    assert [rate for _, rate in seen] == [0.1] * 4 + [0.01] * 2
    assert isinstance(seen[0][0], torch.optim.Adam)
    descend(network(), probes=probe, steps=1)
    assert seen[-1] == (None, 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.SGD(p[:-1], lr=0.1), "trainable parameters"),
        (lambda p: torch.optim.SGD([*p, torch.zeros(1, requires_grad=True)], lr=0.1), "no others"),
        (lambda p: "adam", "torch.optim.Optimizer"),
    ],
)
def test_an_optimizer_over_other_parameters_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        train(network(), make)


def test_a_diverging_optimizer_is_reported():
    # A rate of 50 is far past the threshold of any curvature of order one.
    model = models.mlp([5, 6, 3], "relu", dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0, momentum=0.9)
    history = train(model, lambda p: optimizer, steps=200)
    assert history.diverged
    assert len(history.loss) == history.diverged_at == len(history.learning_rates)
    assert np.isfinite(history.loss).all()


def test_a_minibatch_run_whose_full_loss_is_not_finite_diverges_and_no_probe_sees_it():
    inputs, targets = problem()
    inputs = inputs.clone()
    inputs[0] = 1e200  # its squared loss overflows, and only the batches that hold it show that
    model = models.linear(5, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    first = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:2]
    assert 0 not in first, "the first batch must not be the one that shows it"
    history = training.gradient_descent(
        EmpiricalRisk(model, "mse", (inputs, targets)), 1e-9, 1, batch_size=2, generator=generator,
        probes={"sharpness": probes.Sharpness()}, progress=False,
    )  # fmt: skip
    assert history.diverged_at == 0
    assert len(history.probe_steps) == 0


# Schedules


def test_switching_the_rate_equals_two_runs():
    once, twice = network(), network()
    whole = descend(once, learning_rate=[(0, 0.2), (4, 0.05)], steps=9)
    descend(twice, learning_rate=0.2, steps=4)
    descend(twice, learning_rate=0.05, steps=5)
    assert torch.equal(flat(once), flat(twice))
    assert whole.learning_rates.tolist() == [0.2] * 4 + [0.05] * 6
    assert whole.learning_rate == 0.2


def test_the_arrival_at_the_edge_follows_the_rate():
    empty, steps = np.empty(0), np.arange(4)
    values = {"sharpness": np.array([3.0, 3.0, 5.0, 5.0])}
    rates = np.array([0.5, 0.5, 0.25, 0.5])
    history = training.History(0.5, empty, empty, empty, steps, values, learning_rates=rates)
    # 2 / eta is 4, 4, 8, 4: the sharpness 5 is below it at step 2 and beyond it at step 3.
    assert history.edge_arrival() == 3


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "pairs"),
        ([0.1, 0.2], "pairs"),
        ([(1, 0.1)], "begin at step 0"),
        ([(0, 0.1), (0, 0.2)], "rise"),
        ([(0, 0.1), (5, -0.2)], "each rate"),
        ([(0, 0.1), (2.5, 0.2)], "first step"),
        (lambda t: 0.1 - 0.05 * t, r"learning_rate\(2\)"),
        ("0.1", "learning_rate"),
    ],
)
def test_bad_schedules_are_refused_before_the_first_step(schedule, message):
    model = network()
    before = flat(model)
    with pytest.raises(ValueError, match=message):
        descend(model, learning_rate=schedule)
    assert torch.equal(flat(model), before)


# Cooling


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_cooling_stops_at_the_first_loss_at_or_below_the_target(with_optimizer):
    model, calls = network(), []
    start = curvature.mse(model(problem()[0]), problem()[1]).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02) if with_optimizer else None
    rate = {} if with_optimizer else {"learning_rate": 0.02}
    probe = {"p": lambda s: calls.append(s.step) or s.risk.value()}
    end = cool(model, target_loss=start / 2, optimizer=optimizer, probes=probe, **rate)
    assert end.reached
    assert end.history.loss[-1] <= start / 2 < end.history.loss[-2]
    assert end.loss == end.history.loss[-1] == end.history.probes["p"][-1]
    assert calls == [0, end.steps]
    assert end.steps == len(end.history.loss) - 1
    assert curvature.mse(model(problem()[0]), problem()[1]).item() == end.loss
    # One step of descent lowers the loss by eta ||g||^2 at most, to first order.
    assert 0 <= end.undershoot * start / 2 <= 0.02 * end.history.gradient_norm[-2] ** 2


def test_cooling_that_does_not_arrive_is_reported_with_what_it_did():
    end = cool(network(), target_loss=1e-9, max_steps=7, learning_rate=0.01)
    assert not end.reached
    assert not end.history.diverged
    assert end.steps == 7
    assert end.undershoot < 0


def test_cooling_from_below_the_target_takes_no_step_and_says_how_far_below_it_is():
    model = network()
    before = flat(model)
    loss = curvature.mse(model(problem()[0]), problem()[1]).item()
    end = cool(model, target_loss=4 * loss, learning_rate=0.01)
    assert end.reached
    assert end.steps == 0
    assert end.undershoot == pytest.approx(0.75, rel=1e-15)
    assert torch.equal(flat(model), before)


def test_cooling_that_diverges_has_not_arrived():
    model = models.linear(5, 3, dtype=torch.float64)
    end = cool(model, target_loss=1e-9, learning_rate=100.0)
    assert end.history.diverged
    assert not end.reached
    assert end.steps == end.history.diverged_at


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_bad_targets_are_refused(target):
    with pytest.raises(ValueError, match="target_loss"):
        cool(network(), target_loss=target, learning_rate=0.1)


def test_cooling_needs_a_rate_or_an_optimizer():
    with pytest.raises(ValueError, match="learning_rate must be given"):
        cool(network(), target_loss=0.1)


# Probes


def test_the_gradient_of_the_sharpness_agrees_with_finite_differences_of_dense_eigenvalues():
    model = network()
    inputs, targets = problem()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def value(vector):
        pieces = vector.split([s.numel() for s in shapes.values()])
        weights = {k: v.reshape(s) for (k, s), v in zip(shapes.items(), pieces, strict=True)}
        return curvature.mse(torch.func.functional_call(model, weights, (inputs,)), targets)

    def top(vector):
        return torch.linalg.eigvalsh(torch.func.hessian(value)(vector))[-1].item()

    point, h = flat(model), 1e-5
    gradient = np.empty(len(point))
    for i in range(len(point)):
        e = torch.zeros_like(point)
        e[i] = h
        gradient[i] = (top(point + e) - top(point - e)) / (2 * h)
    history = descend(
        model, learning_rate=1e-12, steps=1,
        probes={"norm": probes.SharpnessGradientNorm(tol=1e-10)},
    )  # fmt: skip
    # Central differences: rounding 1e-15 lambda / h = 1e-10, truncation h^2 times a third
    # derivative of order 10; both far below 1e-7.
    assert history.probes["norm"][0] == pytest.approx(np.linalg.norm(gradient), abs=1e-7)


def test_the_sharpness_of_a_quadratic_has_no_gradient():
    model = models.linear(5, 3, dtype=torch.float64)
    history = descend(model, probes={"norm": probes.SharpnessGradientNorm()}, steps=1)
    assert history.probes["norm"].tolist() == [0.0, 0.0]


# Checkpoints


def watched(preconditioned=True):
    every = {
        "top": probes.Sharpness(2),
        "watch": probes.Watch(),
        "training": probes.TrainingLoss(),
        "smallest": probes.LambdaMin(),
        "gradient": probes.SharpnessGradientNorm(),
        "accuracy": probes.Accuracy(*problem(torch.float32)),
        "step": lambda state: state.step,
    }
    return every | ({"preconditioned": probes.PreconditionedSharpness()} if preconditioned else {})


def assert_same_history(one, two):
    for name in ("steps", "loss", "gradient_norm", "probe_steps", "learning_rates"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
        assert getattr(one, name).dtype == getattr(two, name).dtype, name
    assert one.probes.keys() == two.probes.keys()
    for name in one.probes:
        assert np.array_equal(one.probes[name], two.probes[name], equal_nan=True), name
        assert one.probes[name].dtype == two.probes[name].dtype, name
    assert (one.diverged, one.diverged_at) == (two.diverged, two.diverged_at)


@pytest.mark.parametrize("optimizer", [None, "momentum", "adam", "lbfgs"])
@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("broken_at", [3, 12])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(
    tmp_path, optimizer, batch_size, broken_at
):
    def run(model, stop=-1, **options):
        generator = torch.Generator().manual_seed(3)
        options |= {
            "probes": watched(optimizer != "lbfgs") | {"stop": StopAt(stop)},
            "probe_every": 3,
            "steps": 17,
            "batch_size": batch_size,
            "generator": generator,
            "learning_rate": [(0, 0.05), (9, 0.01)],
        }
        if optimizer is None:
            return descend(model, **options), generator
        return train(model, OPTIMIZERS[optimizer], **options), generator

    whole, file = network(torch.float32), tmp_path / "run.pt"
    expected, generator = run(whole)
    checkpoints = {"checkpoint": file, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        run(network(torch.float32), stop=broken_at, **checkpoints)
    assert checkpoint.load(file)["step"] == 2 * (broken_at // 2)
    resumed = network(torch.float32)
    history, generator_again = run(resumed, **checkpoints)
    assert torch.equal(flat(whole), flat(resumed))
    assert torch.equal(generator.get_state(), generator_again.get_state())
    assert_same_history(expected, history)
    # And a run that has finished is returned as it was, without a step.
    again = network(torch.float32)
    history, _ = run(again, stop=0, **checkpoints)
    assert torch.equal(flat(whole), flat(again))
    assert_same_history(expected, history)


def test_a_checkpointed_cooling_resumes_and_remembers_that_it_arrived(tmp_path):
    options = {"target_loss": 0.3, "learning_rate": 0.05, "probe_every": 10}
    expected = cool(network(), **options, probes={"p": StopAt(-1)})
    assert expected.reached
    assert expected.steps > 20
    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 7}
    with pytest.raises(KeyboardInterrupt):
        cool(network(), **options, probes={"p": StopAt(20)})
    for _ in range(2):
        end = cool(network(), **options, probes={"p": StopAt(-1)})
        assert (end.reached, end.steps, end.loss) == (True, expected.steps, expected.loss)
        assert_same_history(end.history, expected.history)


def test_a_diverged_run_is_remembered_as_diverged(tmp_path):
    options = {"learning_rate": 1e6, "steps": 50, "checkpoint": tmp_path / "run.pt"}
    relu = [models.mlp([5, 6, 3], "relu", dtype=torch.float64) for _ in range(2)]
    one, two = (descend(model, **options) for model in relu)
    assert one.diverged
    assert_same_history(one, two)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 0.2}, "learning_rate"),
        ({"steps": 11}, "steps"),
        ({"loss": "cross_entropy"}, "loss"),
        ({"probes": {"x": lambda s: 0.0}}, "probes"),
        ({"divergence_factor": 10.0}, "divergence_factor"),
        ({"batch_size": 6, "generator": torch.Generator()}, "batch_size"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, name):
    options = {"checkpoint": tmp_path / "run.pt"}
    descend(network(), **options)
    model = network()
    before = flat(model)
    with pytest.raises(ValueError, match=f"of another run: .*{name}"):
        descend(model, **(options | change))
    assert torch.equal(flat(model), before)


def test_a_checkpoint_wants_the_model_that_the_run_began_with(tmp_path):
    model = network()
    descend(model, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="another model"):
        descend(model, checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_corrupt_checkpoint_is_a_clear_error_and_is_left_in_place(tmp_path, damage):
    file = tmp_path / "run.pt"
    descend(network(), checkpoint=file)
    raw = bytearray(file.read_bytes())
    if damage == "truncated":
        raw = raw[: len(raw) // 2]
    elif damage == "flipped":
        raw[len(raw) // 2] ^= 1
    else:
        raw = bytearray() if damage == "empty" else bytearray(b"PK\x03\x04" + bytes(500))
    file.write_bytes(raw)
    with pytest.raises(training.CorruptCheckpointError, match=r"run\.pt"):
        descend(network(), checkpoint=file)
    assert file.read_bytes() == raw


def test_a_write_error_costs_neither_the_run_nor_the_last_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "run.pt"
    options = {"checkpoint": file, "checkpoint_every": 4, "steps": 10}
    saved, write = [], checkpoint.write_atomically

    def full_disk(path, content):
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(content)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", full_disk)
    whole = network()
    with pytest.warns(UserWarning, match=r"step 8 .*No space left.* goes on"):
        run = descend(whole, **options)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert file.read_bytes() == saved[0]
    resumed, alone = network(), network()
    expected = descend(alone, steps=10)
    assert_same_history(run, expected)
    assert_same_history(descend(resumed, **options), expected)
    assert torch.equal(flat(whole), flat(resumed))
    assert torch.equal(flat(whole), flat(alone))


def test_dropout_goes_on_with_what_it_would_have_drawn(tmp_path):
    def run(seed=0, stop=-1, **options):
        torch.manual_seed(seed)
        model = network()
        model.append(torch.nn.Dropout(0.5))
        history = descend(model, probes={"stop": StopAt(stop)}, **options)
        return history, torch.rand(3).tolist()

    expected, after = run()
    options = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        run(stop=7, **options)
    for _ in range(2):
        history, drawn = run(**options)
        assert_same_history(history, expected)
        assert drawn == after
    with pytest.raises(ValueError, match="of another run"):
        run(seed=1, **options)


class Extra(torch.nn.Linear):
    """A layer whose state holds what a checkpoint cannot."""

    def __init__(self, extra):
        super().__init__(5, 3, dtype=torch.float64)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


@pytest.mark.parametrize(
    "extra", [np.ones(2), Decimal(1), lambda: 1], ids=["array", "number", "function"]
)
def test_a_state_that_cannot_be_read_back_costs_the_checkpoint_and_not_the_run(tmp_path, extra):
    with pytest.warns(UserWarning, match="numbers and text only, got .* the run goes on"):
        run = descend(Extra(extra), checkpoint=tmp_path / "run.pt")
    assert len(run.loss) == 11
    assert not list(tmp_path.iterdir())


class Curved(torch.nn.Module):
    """A layer whose class and parameters say nothing about what it does."""

    def __init__(self, bend):
        super().__init__()
        self.layer, self.bend = torch.nn.Linear(5, 3), bend

    def forward(self, inputs):
        return self.bend(self.layer(inputs))


class Masked(torch.nn.Linear):
    """A layer with a buffer that its state does not hold."""

    def __init__(self, mask):
        super().__init__(5, 3)
        self.register_buffer("mask", torch.tensor(mask), persistent=False)

    def forward(self, inputs):
        return super().forward(inputs * self.mask)


class Heads(torch.nn.MultiheadAttention):
    """PyTorch's layer, whose parameters do not depend on the number of heads."""

    def __init__(self, heads):
        super().__init__(6, heads)
        self.first, self.last = torch.nn.Linear(5, 6), torch.nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(super().forward(hidden, hidden, hidden)[0])


class Template(torch.nn.Linear):
    """A layer that leaves a step to its heirs, which have no ``forward`` of their own."""

    def __init__(self):
        super().__init__(5, 3)

    def forward(self, inputs):
        return self.bend(super().forward(inputs))


def heir(bend):
    return type("Heir", (Template,), {"bend": bend})()


def bent(activation):
    return models.mlp([5, 6, 3], activation, seed=0)


def changed(change, *layers):
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 5), *layers)
    change(model.append(torch.nn.Linear(5, 3)))
    return model


def share(model):
    model[1].weight = model[0].weight


def same(model):
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)


def leave(model):
    """As it is."""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: bent("tanh"), lambda: bent("relu")),
        (lambda: Curved(torch.tanh), lambda: Curved(torch.relu)),
        (lambda: Curved(lambda x: x), lambda: Curved(lambda x: 2 * x)),
        (lambda: Heads(1), lambda: Heads(2)),
        (lambda: Masked([1.0] * 5), lambda: Masked([1.0] * 4 + [0.0])),
        (lambda: heir(lambda self, x: x), lambda: heir(lambda self, x: 2 * x)),
        (lambda: changed(share), lambda: changed(same)),
        (lambda: changed(leave), lambda: changed(lambda m: m[0].requires_grad_(False))),
        (
            lambda: changed(leave, torch.nn.Dropout()),
            lambda: changed(lambda m: m.eval(), torch.nn.Dropout()),
        ),
        (
            lambda: changed(leave),
            lambda: changed(lambda m: m.register_forward_hook(lambda *a: 2 * a[-1])),
        ),
    ],
    ids=[
        "layers",
        "functions",
        "lambdas",
        "attributes",
        "buffers",
        "methods",
        "shared",
        "frozen",
        "mode",
        "hooks",
    ],
)
def test_a_checkpoint_is_of_one_architecture(tmp_path, first, second):
    one, other = first().double(), second().double()
    one.load_state_dict(other.state_dict())
    descend(one, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"of another run: .*model"):
        descend(other, checkpoint=tmp_path / "run.pt")


FACTOR = 1.0


def by_name(outputs, targets):
    return FACTOR * outputs.square().mean()


def test_what_a_loss_names_of_its_module_belongs_to_it(tmp_path, monkeypatch):
    options = {"checkpoint": tmp_path / "run.pt", "loss": by_name}
    descend(network(), **dict(options))
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(ValueError, match=r"of another run: .*loss"):
        descend(network(), **dict(options))


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Path("a"), Path("b")),
        (range(3), range(4)),
        (Kind.ONE, Kind.TWO),
        (Slotted(1), Slotted(2)),
        (frozenset({1}), frozenset({2})),
        (1 + 1j, 1 - 1j),
        (torch.float32, torch.float64),
        (torch.device("cpu"), torch.device("meta")),
        (np.zeros(1, np.float32), np.zeros(1)),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (Decimal("0.1"), Decimal("0.2")),
        (deque([1]), deque([2])),
        (slice(1), slice(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_setting_of_any_kind_tells_two_probes_apart(one, other):
    alike = copy.deepcopy(one)
    assert checkpoint.fingerprint([one]) == checkpoint.fingerprint([alike])
    assert checkpoint.fingerprint([one]) != checkpoint.fingerprint([other])


def test_a_set_is_the_same_in_any_order():
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other), "they fall into one place of the table"
    assert checkpoint.fingerprint(one) == checkpoint.fingerprint(other)
    assert checkpoint.fingerprint(one) != checkpoint.fingerprint({0, 9})


def scaled(factor):
    return lambda outputs, targets: factor * outputs.square().mean()


@pytest.mark.parametrize(
    ("options", "change", "name"),
    [
        ({"loss": scaled(1.0)}, {"loss": scaled(2.0)}, "loss"),
        ({"probes": {"s": probes.Sharpness(2)}}, {"probes": {"s": probes.Sharpness(3)}}, "probes"),
        ({"probes": {"x": lambda s: 1.0}}, {"probes": {"x": lambda s: 2.0}}, "probes"),
        (
            {"probes": {"a": probes.Accuracy(*problem())}},
            {"probes": {"a": probes.Accuracy(*(part[:9] for part in problem()))}},
            "probes",
        ),
    ],
    ids=["closure", "settings", "functions", "data"],
)
def test_a_checkpoint_is_of_one_loss_and_of_probes_with_their_settings(
    tmp_path, options, change, name
):
    begun = network()
    options = {"checkpoint": tmp_path / "run.pt"} | options
    descend(begun, **dict(options))
    with pytest.raises(ValueError, match=f"of another run: .*{name}"):
        descend(network(), **(options | change))
    finished = descend(network(), **dict(options))
    assert len(finished.loss) == 11, "the same settings go on"


@pytest.mark.parametrize("value", ["text", None, 1j, [1, [2]], object()])
def test_a_probe_that_returns_no_number_is_named_at_its_step(value):
    named = {"good": lambda s: 1, "odd": lambda s: value if s.step else 0.0}
    with pytest.raises(ValueError, match=r"the probe 'odd' must return a number .* at step 1 "):
        descend(network(), probes=named)


def test_probes_of_any_kind_of_number_are_kept_and_read_back(tmp_path):
    named = {
        "bfloat16": lambda s: torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
        "numpy": lambda s: np.float32(0.5),
        "whole": lambda s: 3,
        "array": lambda s: np.arange(3),
    }
    options = {"checkpoint": tmp_path / "run.pt", "probes": named}
    run = descend(network(), **options)
    again = descend(network(), **options)
    assert all(np.array_equal(run.probes[name], again.probes[name]) for name in named)


def test_a_rate_of_numpy_is_written_and_read_back(tmp_path):
    def go():
        make = lambda p: torch.optim.SGD(p, lr=np.float64(0.1), momentum=np.float32(0.5))  # noqa: E731
        return train(network(), make, checkpoint=tmp_path / "run.pt")

    assert np.array_equal(go().loss, go().loss)


def test_the_home_folder_is_known_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    descend(network(), checkpoint="~/run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_watching_changes_nothing(tmp_path):
    """Running averages, dropout's generator: a run with probes is the run without, to the bit."""
    inputs, labels = problem(torch.float32)

    def trained(**options):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, 6),
            torch.nn.BatchNorm1d(6),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(6, 3),
        )
        run = descend(model, loss="cross_entropy", **options)
        return run.loss, {name: value.clone() for name, value in model.state_dict().items()}

    def evaluate(state):
        with torch.no_grad():
            return float(state.risk.model(100 * inputs).mean())

    watched = {
        "loss": probes.TrainingLoss(),
        "accuracy": probes.Accuracy(3 * inputs, labels),
        "own": evaluate,
    }
    alone, seen = trained(), trained(probes=watched)
    assert np.array_equal(alone[0], seen[0])
    assert all(torch.equal(alone[1][name], seen[1][name]) for name in alone[1])


def test_a_caller_without_gradients_can_train():
    expected = descend(network()).loss
    with torch.no_grad():
        assert np.array_equal(descend(network()).loss, expected)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        descend(network())


def test_a_parameter_without_use_is_left_where_it_is():
    model = network()
    model.idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert np.array_equal(descend(model).loss, descend(network()).loss)
    assert model.idle.tolist() == [1.0, 1.0]


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="path of a file"):
        descend(network(), checkpoint=tmp_path)
