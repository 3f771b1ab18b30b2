"""How fast do networks train and their Hessians multiply, and what does lower precision do to both?

On the full batch, of each network, in single precision (``float32``), with the factors of products
and convolutions rounded to ten bits of mantissa (``tf32``, on a GPU that can), and with the forward
pass autocast to ``bfloat16``:

* ``steps_<precision>``: steps of gradient descent a second;
* ``products_<precision>``: products of the Hessian and a vector a second;
* ``eigenvalue_error_<precision>``: of the TOP leading eigenvectors v, found in single precision, by
  how much v'Hv differs, relative to the eigenvalue. To first order in the error of H that is the
  error of the eigenvalue, whatever a solver would make of so noisy a product;
* ``product_error_<precision>``: the norm of the error of H v_1, relative to lambda_1. No residual
  below it can be asked of a solver.

With a ``backend`` also ``steps_compiled``, of the model that `torch.compile` makes with it, in
single precision, and ``compile_seconds``, what its first step took; if it cannot be compiled both
are None, and ``compile_error`` says why. Second derivatives are those of the plain model: those of
a compiled one cannot be differentiated twice.

All that is measured is at one network, after SETTLE steps at half of 1 / lambda_1.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import curvature
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent
from study.experiments import scale
from study.results import Experiment

__all__ = ["EXPERIMENT", "PRECISIONS", "TOP", "Config", "grid", "part", "precision", "run"]

PRECISIONS = ("float32", "tf32", "bfloat16")
"""What networks are computed in."""
TOP = 3
"""Eigenvalues whose errors are told."""
SETTLE = 30
ROUGH = 1e-2
"""Residual of the eigenpairs: a quotient v'Hv is off by its square only."""
TINY = 1e-9
"""The learning rate of the steps that are timed, in units of 1 / lambda_1: they lead nowhere."""


@dataclass(frozen=True)
class Config:
    """One network.

    Attributes:
        model, loss, seed, dataset, n_train, width, activation, device: as `scale.problem` takes
            them.
        backend: of `torch.compile`, or nothing to leave it out.
        duration: seconds for which each speed is measured, about.
    """

    model: str
    loss: str
    dataset: str
    n_train: int
    width: int
    seed: int = 0
    backend: str = ""
    duration: float = 0.3
    activation: str = "tanh"
    device: str = "cpu"


class _Autocast(nn.Module):
    """A model whose forward pass is autocast, also where the library asks for full precision."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.kind, torch.bfloat16):
            return self.model(inputs).float()


@contextmanager
def precision(name: str, risk: EmpiricalRisk) -> Iterator[EmpiricalRisk]:
    """The risk, with the same parameters, as it is computed in one of PRECISIONS.

    Example:
        >>> x = torch.full((1, 1), 1 + 2**-12)
        >>> risk = EmpiricalRisk(nn.Linear(1, 1, bias=False), "mse", (x, 0 * x))
        >>> with torch.no_grad():
        ...     _ = risk.parameters[0].fill_(1)
        >>> with precision("bfloat16", risk) as rough:
        ...     risk.value() > rough.value() == 0.5
        True
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    if name == "bfloat16":
        model = _Autocast(risk.model, risk.device.type)
        # Unchecked: of so coarse a function no difference agrees with a derivative.
        risk = EmpiricalRisk(model, risk.loss_function, risk.data, check=False)
    try:
        for backend in backends:
            backend.allow_tf32 = name == "tf32"
        yield risk
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def run(config: Config) -> dict[str, object]:
    """All that is measured of one network; None for a precision that the device has not."""
    risk, pairs, values = settled(config)
    leading, rate = pairs.eigenvectors, TINY / float(pairs.eigenvalues[0])
    with precision("float32", risk):
        exact = products(risk, leading)
    for name in PRECISIONS:
        found: dict[str, object] = dict.fromkeys(
            ("steps", "products", "eigenvalue_error", "product_error")
        )
        if name != "tf32" or config.device != "cpu":
            with precision(name, risk) as as_it_is:
                found["steps"] = steps_a_second(as_it_is, rate, config.duration)
                found["products"] = products_a_second(as_it_is, leading[0], config.duration)
                rough = products(as_it_is, leading)
            own, other = (np.sum(leading.cpu().numpy() * h, axis=1) for h in (exact, rough))
            error = np.linalg.norm(rough[0] - exact[0]) / own[0]
            found |= {"eigenvalue_error": other / own - 1, "product_error": error}
        values |= {f"{what}_{name}": value for what, value in found.items()}
    if config.device != "cpu":
        values["gigabytes"] = torch.cuda.max_memory_allocated(config.device) / 2**30
    return values | (compiled(risk, rate, config) if config.backend else {})


def settled(config: Config) -> tuple[EmpiricalRisk, curvature.EigenResult, dict[str, object]]:
    """The network, its leading eigenpairs, and its size and sharpness."""
    risk, _ = scale.problem(config)
    with precision("float32", risk):
        rate = 0.5 / curvature.sharpness(risk, tol=ROUGH)
        gradient_descent(risk, rate, SETTLE, progress=False)
        pairs = curvature.top_eigenpairs(risk, TOP, tol=ROUGH)
    size = {"parameters": risk.size, "sharpness": float(pairs.eigenvalues[0])}
    return risk, pairs, size


def part(config: Config) -> dict[str, object]:
    """What does not depend on the speed of the machine."""
    return settled(config)[2]


def steps_a_second(risk: EmpiricalRisk, rate: float, seconds: float) -> float:
    """Updates of gradient descent a second, each with one gradient."""
    first = gradient_descent(risk, rate, 3, progress=False)
    count = max(3, round(seconds / first.seconds * 4))
    timed = gradient_descent(risk, rate, count, progress=False)
    # One gradient more than there are updates.
    return (count + 1) / timed.seconds


def products_a_second(risk: EmpiricalRisk, vector: Tensor, seconds: float) -> float:
    """Products of the Hessian and a vector a second; its graph is built before."""
    hessian, count = risk.hessian(), 0
    _finished(hessian.matvec(vector))
    begun = now = time.perf_counter()
    while now - begun < seconds:
        for _ in range(3):
            vector = hessian.matvec(vector)
            vector = vector / vector.norm()
        _finished(vector)
        count, now = count + 3, time.perf_counter()
    return count / (now - begun)


def products(risk: EmpiricalRisk, vectors: Tensor) -> np.ndarray:
    """The products with each of (k, n) vectors, in double precision once they are there."""
    hessian = risk.hessian()
    return np.array([hessian.matvec(v).double().cpu().numpy() for v in vectors])


def compiled(risk: EmpiricalRisk, rate: float, config: Config) -> dict[str, object]:
    """What `torch.compile` makes of the steps."""
    told: dict[str, object] = {"steps_compiled": None, "compile_seconds": None}
    begun = time.perf_counter()
    try:
        model = torch.compile(risk.model, backend=config.backend)
        fast = EmpiricalRisk(model, config.loss, risk.data)
        with precision("float32", fast):
            gradient_descent(fast, rate, 1, progress=False)
            told["compile_seconds"] = time.perf_counter() - begun
            told["steps_compiled"] = steps_a_second(fast, rate, config.duration)
    except Exception as error:
        # Whatever the compiler lacks here, the plain model will do.
        told["compile_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return told


def grid(preset: str) -> list[Config]:
    """The configs of a preset: its networks, and the first of the convolutional ones compiled."""
    images = {"dataset": "fashion-mnist-subset", "loss": "mse"}
    prose = {"dataset": "prose", "loss": "cross_entropy"}
    more: dict[str, object] = {}
    if preset == "ci":
        sizes = {"mlp": (40, 8), "half-vgg": (20, 2), "half-resnet": (20, 2), "transformer": (4, 8)}
        more, backend = {"duration": 0.02}, "aot_eager"
    elif preset == "default":
        sizes = {"mlp": (500, 64), "half-vgg": (200, 4), "half-resnet": (200, 4)}
        sizes |= {"transformer": (32, 32)}
        backend = "inductor"
    else:
        sizes = {"half-vgg": (5000, 16), "vgg": (5000, 32), "half-resnet": (5000, 16)}
        sizes |= {"mlp": (5000, 200), "transformer": (512, 256)}
        more, backend = {"device": "cuda"}, "inductor"
    configs = []
    for model, (n, width) in sizes.items():
        data = prose if model == "transformer" else images
        if preset == "gpu" and model.endswith(("vgg", "resnet")):
            data = images | {"dataset": scale.NATURAL["dataset"]}
        configs.append(Config(model, n_train=n, width=width, **data, **more))
    (first,) = (config for config in configs if config.model == "half-vgg")
    return [*configs, replace(first, backend=backend)]


EXPERIMENT = Experiment(
    name="throughput",
    summary="Steps and Hessian products a second, and what lower precision does to eigenvalues",
    function=run,
    grid=grid,
    depends_on=(*scale.EXPERIMENT.depends_on, "study.experiments.scale"),
    # An eigenvalue is off by a residual at most; mostly by its square.
    tolerances={"parameters": 0.0, "sharpness": 2 * ROUGH},
    part=part,
)
"""The networks whose speed is measured, as `results.compute` takes them."""


def _finished(vector: Tensor) -> None:
    """Wait until a vector is there: a GPU computes it when it likes."""
    float(vector[0])
