r"""Five eigenpairs from nothing at equal accuracy, beside the peers; and the price of a product.

Every method is tuned first: it gets its cheapest setting that meets the accuracy from each of the
random starts that will be timed. The timed runs then take turns, in a new random order in each
round, so that whatever else the machine does falls on all of them alike, and only the ratio of
seconds within a round is kept. Accuracy is checked in the timed runs too.
"""

import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.workloads import Problem
from flatminima.theory import rotation

K, VALUE_ERROR, ANGLE = 5, 1e-3, 1e-2


def errors(result: peers.Pairs, exact: peers.Pairs) -> tuple[float, float]:
    """Largest relative error of an eigenvalue; largest principal angle of the leading subspace."""
    value = float(np.max(np.abs(result[0] / exact[0] - 1)))
    return value, float(rotation.principal_angles(result[1].numpy(), exact[1].numpy()).max())


def good(error: tuple[float, float]) -> bool:
    return error[0] <= VALUE_ERROR and error[1] <= ANGLE


def rounds_of(method, rounds: int) -> int:
    """pyhessian, half a minute a run, takes part in the first round alone."""
    return 1 if method is peers.pyhessian else rounds


def tune(point: Problem, method, exact: peers.Pairs, rounds: int):
    """The cheapest setting that is accurate from the start of every round; None if none is."""
    for setting in peers.SETTINGS[method]:
        seeds = range(rounds_of(method, rounds))
        if all(good(errors(method(point, K, setting, seed), exact)) for seed in seeds):
            return setting
    return None


def cold(point: Problem, rounds: int) -> dict:
    """The five largest eigenpairs from nothing, by every method at equal accuracy."""
    values, vectors = peers.reference(point, K + 1)[:2]
    exact = values[:K], vectors[:K]
    settings = {method: tune(point, method, exact, rounds) for method in peers.SETTINGS}
    seconds = {method: [] for method in settings}
    error = {method: [] for method in settings}
    products = {method: [] for method in settings}
    order = np.random.default_rng(0)
    for seed in range(rounds):
        for i in order.permutation(len(settings)):
            method = list(settings)[i]
            if seed >= rounds_of(method, rounds):
                continue
            setting = settings[method]
            setting = peers.SETTINGS[method][-1] if setting is None else setting
            start = time.perf_counter()
            result = method(point, K, setting, seed)
            seconds[method].append(time.perf_counter() - start)
            error[method].append(errors(result, exact))
            products[method].append(result[2])
    table = {}
    for method, setting in settings.items():
        ratios = [a / b for a, b in zip(seconds[method], seconds[peers.flatminima], strict=False)]
        table[peers.NAMES[method]] = {
            "setting": setting,
            "accurate_rounds": sum(good(e) for e in error[method]),
            "value_error": max(e[0] for e in error[method]),
            "angle": max(e[1] for e in error[method]),
            "products": products[method],
            "ratios": ratios,
            "ratio": float(np.median(ratios)),
        }
    return {"eigenvalues": values.tolist(), "methods": table}


def product_cost(point: Problem, rounds: int) -> dict:
    """Time and floating-point operations of a Hessian product against a gradient."""
    operator = point.hessian()
    row = torch.randn(1, operator.shape[0], generator=torch.Generator().manual_seed(0))
    tasks = {
        "gradient": lambda: torch.autograd.grad(point.loss(), point.parameters),
        "product": lambda: operator.matmat(row),
    }
    seconds = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    flops = {}
    for name, task in tasks.items():
        with FlopCounterMode(display=False) as counter:
            task()
        flops[name] = counter.get_total_flops()
    ratios = np.array(seconds["product"]) / np.array(seconds["gradient"])
    return {
        "ratio": float(np.median(ratios)),
        "flops": flops,
        "flop_ratio": flops["product"] / flops["gradient"],
        "parameters": operator.shape[0],
    }
