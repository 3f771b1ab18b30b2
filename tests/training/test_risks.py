"""train: risks in batches, losses and outputs of any kind, what is held and let go, refusals."""

import gc

import numpy as np
import pytest
import torch
from crashing import StopAt
from torch import nn

from flatminima import models, training
from flatminima.curvature import EmpiricalRisk, HessianOperator
from flatminima.training import probes
from flatminima.training._batches import loss_of_zero

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(24) % 3


def network(seed=0):
    return models.mlp([5, 6, 3], seed=seed, dtype=torch.float64)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def whole(model, loss="mse"):
    return EmpiricalRisk(model, loss, (INPUTS, LABELS))


def in_batches(model, loss="mse", sizes=(10, 10, 4)):
    pieces = zip(INPUTS.split(sizes), LABELS.split(sizes), strict=True)
    return EmpiricalRisk(model, loss, list(pieces))


OPTIMIZERS = {
    "none": lambda p: None,
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}


# Risks in batches


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_risk_in_batches_is_trained_as_the_whole(name, loss):
    """The same run up to the order of summation, and its probes measure the same."""
    runs, ends = [], []
    for make in (whole, in_batches):
        model = network()
        optimizer = OPTIMIZERS[name](list(model.parameters()))
        rate = 0.1 if optimizer is None else None
        watched = {"sharpness": probes.Sharpness(tol=1e-9), "loss": probes.TrainingLoss()}
        options = {"learning_rate": rate, "optimizer": optimizer, "probes": watched}
        runs.append(training.train(make(model, loss), 8, progress=False, **options))
        ends.append(flat(model))
    one, two = runs
    # Sums of 24 terms in another order, and what 8 steps make of that.
    assert np.allclose(one.loss, two.loss, rtol=1e-12)
    assert np.allclose(one.gradient_norm, two.gradient_norm, rtol=1e-11)
    assert torch.allclose(*ends, rtol=0, atol=1e-12)
    assert np.allclose(one.probes["sharpness"], two.probes["sharpness"], rtol=1e-7)
    assert np.allclose(two.probes["loss"], two.loss, rtol=1e-14)


def test_a_single_batch_is_the_pair_to_the_last_bit():
    ends = []
    for risk in (whole(network()), in_batches(network(), sizes=(24,))):
        training.gradient_descent(risk, 0.1, 5, progress=False)
        ends.append(flat(risk.model))
    assert torch.equal(*ends)


def test_a_sum_over_the_examples_is_a_sum():
    sums = nn.MSELoss(reduction="sum")
    targets = INPUTS[:, :3]
    pieces = list(zip(INPUTS.split(10), targets.split(10), strict=True))
    ends = []
    for data in ((INPUTS, targets), pieces):
        risk = EmpiricalRisk(network(), sums, data)
        run = training.gradient_descent(risk, 1e-3, 5, progress=False)
        ends.append((run.loss, flat(risk.model).numpy()))
    for one, two in zip(*ends, strict=True):
        assert np.allclose(one, two, rtol=1e-12, atol=1e-13)


def test_the_scale_of_the_problem_is_that_of_outputs_that_are_zero():
    expected = 0.5  # one-hot targets
    assert loss_of_zero(whole(network())) == expected
    assert loss_of_zero(in_batches(network())) == pytest.approx(expected, rel=1e-15)
    assert loss_of_zero(whole(network(), "cross_entropy")) == pytest.approx(np.log(3), rel=1e-15)


def test_minibatches_want_a_pair():
    with pytest.raises(ValueError, match="batch_size needs a risk whose data are one pair"):
        training.gradient_descent(
            in_batches(network()), 0.1, 5, batch_size=4, generator=torch.Generator(), progress=False
        )


def test_a_checkpointed_run_on_batches_resumes(tmp_path):
    def run(stop, **more):
        risk = in_batches(network())
        history = training.gradient_descent(
            risk, 0.1, 9, progress=False, probes={"p": StopAt(stop)}, **more
        )
        return history.loss, flat(risk.model)

    more = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        run(5, **more)
    for one, two in zip(run(-1), run(-1, **more), strict=True):
        assert np.array_equal(one, two)
    with pytest.raises(ValueError, match="another data"):
        training.gradient_descent(
            whole(network()), 0.1, 9, progress=False, probes={"p": StopAt(-1)},
            checkpoint=tmp_path / "run.pt",
        )  # fmt: skip


# Losses, inputs and outputs of any kind


def test_tokens_and_sequences_and_a_loss_of_ones_own():
    tokens = torch.randint(7, (12, 4), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for loss in ("cross_entropy", lambda out, y: nn.functional.nll_loss(out.mT.log_softmax(1), y)):
        model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 7))
        risk = EmpiricalRisk(model, loss, (tokens, tokens.roll(1, 1)))
        run = training.gradient_descent(
            risk, 0.5, 30, batch_size=6, generator=torch.Generator().manual_seed(1),
            probes={"full": probes.TrainingLoss()}, progress=False,
        )  # fmt: skip
        assert run.probes["full"][-1] < run.probes["full"][0]
        assert probes.Accuracy(tokens, tokens.roll(1, 1)).of(model) <= 1


class Pair(nn.Module):
    """Two inputs, and outputs that are no tensor; one parameter is without effect."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x, z):
        return {"sum": x @ self.weight + z}


def test_tuples_of_inputs_and_outputs_that_are_no_tensor():
    x, z = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.ones(8)
    risk = EmpiricalRisk(Pair(), lambda out, y: (out["sum"] - y).square().mean(), ((x, z), 2 * z))
    assert loss_of_zero(risk) == 0
    run = training.gradient_descent(risk, 0.05, 20, progress=False)
    assert run.loss[-1] < run.loss[0]
    assert torch.equal(risk.model.idle, torch.ones(2))
    generator = torch.Generator().manual_seed(0)
    small = training.gradient_descent(
        risk, 0.05, 20, batch_size=4, generator=generator, progress=False
    )
    assert np.isfinite(small.loss).all()


def test_a_loss_below_zero_is_not_divergence():
    risk = EmpiricalRisk(
        network(), lambda out, y: nn.functional.cross_entropy(out, y) - 5, (INPUTS, LABELS)
    )
    assert not training.gradient_descent(risk, 0.1, 5, progress=False).diverged


def test_a_loss_must_be_a_scalar():
    def each(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(ValueError, match=r"scalar tensor, got \(24,\)"):
        training.gradient_descent(
            EmpiricalRisk(network(), each, (INPUTS, LABELS)), 0.1, 5, progress=False
        )


# Modes


def test_the_model_keeps_its_mode_and_accuracy_is_that_of_evaluation():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, dtype=torch.float64)
    model = nn.Sequential(*network()[:2], norm, nn.Dropout(0.5), *network()[2:])
    model[3].eval()
    modes = [m.training for m in model.modules()]
    before = norm.running_mean.clone()
    probe = probes.Accuracy(INPUTS, LABELS)
    found = {probe.of(model) for _ in range(3)}
    assert len(found) == 1, "no dropout"
    assert torch.equal(norm.running_mean, before), "and no running average moves"
    training.gradient_descent(whole(model), 0.1, 1, probes={"a": probe}, progress=False)
    assert [m.training for m in model.modules()] == modes
    assert not torch.equal(norm.running_mean, before), "training goes on in training mode"


# What is held and let go


def live_tensors():
    kinds = torch.Tensor, HessianOperator
    return sum(issubclass(type(o), kinds) for o in gc.get_objects())


def test_a_run_with_probes_holds_no_more_the_longer_it_is():
    """Without the garbage collector: a state lets its Hessian, and its graph, go by itself."""
    counts = []

    def count(state):
        if state.step in (15, 30):  # by then each tracker remembers as many steps as it ever does
            counts.append(live_tensors())
        return 0.0

    watched = {
        "top": probes.Sharpness(2), "watch": probes.Watch(), "min": probes.LambdaMin(),
        "gradient": probes.SharpnessGradientNorm(), "own": probes.PreconditionedSharpness(),
        "loss": probes.TrainingLoss(), "accuracy": probes.Accuracy(INPUTS, LABELS),
        "count": count,
    }  # fmt: skip
    model = network()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    gc.collect()
    gc.disable()
    try:
        training.train(whole(model), 30, optimizer=adam, probes=watched, progress=False)
    finally:
        gc.enable()
    assert counts[0] == counts[1]


def test_a_hessian_is_made_once_a_step_and_only_if_asked_for():
    made = []

    class Counted(EmpiricalRisk):
        def hessian(self, parameters=None):
            made.append(1)
            return super().hessian(parameters)

    risk = Counted(network(), "mse", (INPUTS, LABELS))
    two = {"a": probes.Sharpness(), "b": probes.LambdaMin(), "c": probes.Watch()}
    training.gradient_descent(risk, 0.1, 4, probes=two, probe_every=2, progress=False)
    assert len(made) == 3
    training.gradient_descent(risk, 0.1, 4, probes={"l": probes.TrainingLoss()}, progress=False)
    assert len(made) == 3


# Refusals


def test_what_is_no_risk_is_refused():
    with pytest.raises(TypeError, match="risk must be an EmpiricalRisk, got Sequential"):
        training.train(network(), 5, learning_rate=0.1)


def test_plain_descent_needs_a_rate():
    with pytest.raises(ValueError, match="learning_rate must be given without an optimizer"):
        training.train(whole(network()), 5)


def test_a_target_is_for_the_full_batch():
    with pytest.raises(ValueError, match="target_loss is about the loss on the full batch"):
        training.train_to_loss(
            whole(network()), 0.1, 5, learning_rate=0.1, batch_size=4, generator=torch.Generator()
        )


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS[:10], LABELS, "same number of examples"),
        (INPUTS, LABELS + 1, "labels must lie between 0 and 2"),
        (INPUTS * np.inf, LABELS, "finite"),
        (INPUTS.float(), LABELS, "dtype"),
    ],
)
def test_batches_are_checked_too(inputs, targets, message):
    risk = EmpiricalRisk(network(), "cross_entropy", [(INPUTS, LABELS), (inputs, targets)])
    with pytest.raises(ValueError, match=message):
        training.gradient_descent(risk, 0.1, 5, progress=False)


def test_the_facade_offers_what_it_says():
    for name in training.__all__:
        assert getattr(training, name) is not None
    assert set(training.__all__) <= set(dir(training))
    with pytest.raises(AttributeError, match="no attribute 'trainable'"):
        training.trainable  # noqa: B018
