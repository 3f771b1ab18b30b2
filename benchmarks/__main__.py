r"""Run the benchmark: ``python -m benchmarks`` (``make bench`` does, in its own environment).

Every method is tuned first: it gets its cheapest setting that meets the accuracy from each of the
random starts that will be timed. The timed runs then take turns, in a new random order in each
round, so that whatever else the machine does falls on all of them alike; medians are over rounds,
and the ratio is the median over rounds of the ratio within a round. Accuracy is checked in the
timed runs too.
"""

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import followers, peers
from benchmarks.workloads import WORKLOADS, Problem, Workload, checkpoints, problem
from flatminima._files import write_atomically
from flatminima.theory import rotation

ROOT = Path(__file__).resolve().parents[1]
K, VALUE_ERROR, ANGLE = 5, 1e-3, 1e-2
PACKAGES = ("torch", "numpy", "scipy", "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings")


def errors(result: peers.Pairs, exact: peers.Pairs) -> tuple[float, float]:
    """Largest relative error of an eigenvalue; largest principal angle of the leading subspace."""
    value = float(np.max(np.abs(result[0] / exact[0] - 1)))
    return value, float(rotation.principal_angles(result[1].numpy(), exact[1].numpy()).max())


def good(error: tuple[float, float]) -> bool:
    return error[0] <= VALUE_ERROR and error[1] <= ANGLE


def tune(point: Problem, method, exact: peers.Pairs, rounds: int):
    """The cheapest setting that is accurate from the start of every round; None if there is none.

    pyhessian, a minute a run, is tuned on the first start only.
    """
    seeds = range(1 if method is peers.pyhessian else rounds)
    for setting in peers.SETTINGS[method]:
        if all(good(errors(method(point, K, setting, seed), exact)) for seed in seeds):
            return setting
    return None


def cold(point: Problem, rounds: int) -> dict:
    """The five largest eigenpairs from nothing, by every method at equal accuracy."""
    values, vectors = peers.reference(point, K + 1)
    exact = values[:K], vectors[:K]
    settings = {method: tune(point, method, exact, rounds) for method in peers.SETTINGS}
    seconds = {method: [] for method in settings}
    error = {method: [] for method in settings}
    order = np.random.default_rng(0)
    for seed in range(rounds):
        for i in order.permutation(len(settings)):
            method = list(settings)[i]
            setting = settings[method]
            setting = peers.SETTINGS[method][-1] if setting is None else setting
            start = time.perf_counter()
            result = method(point, K, setting, seed)
            seconds[method].append(time.perf_counter() - start)
            error[method].append(errors(result, exact))
    table = {}
    ours = np.array(seconds[peers.flatminima])
    for method, setting in settings.items():
        table[peers.NAMES[method]] = {
            "setting": setting,
            "reached_accuracy_in_tuning": setting is not None,
            "accurate_rounds": sum(good(e) for e in error[method]),
            "value_error": max(e[0] for e in error[method]),
            "angle": max(e[1] for e in error[method]),
            "seconds": seconds[method],
            "median_seconds": float(np.median(seconds[method])),
            "ratio": float(np.median(np.array(seconds[method]) / ours)),
        }
    return {"eigenvalues": values.tolist(), "methods": table}


def product_cost(point: Problem, rounds: int) -> dict:
    """Time and floating-point operations of a Hessian product against a gradient."""
    operator = point.hessian()
    row = torch.randn(1, operator.shape[0], generator=torch.Generator().manual_seed(0))
    tasks = {"gradient": point.gradient, "product": lambda: operator.matmat(row)}
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
        "seconds": {name: float(np.median(s)) for name, s in seconds.items()},
        "fastest_seconds": {name: float(np.min(s)) for name, s in seconds.items()},
        "ratio": float(np.median(ratios)),
        "flops": flops,
        "flop_ratio": flops["product"] / flops["gradient"],
        "parameters": operator.shape[0],
    }


def tracking(workload: Workload, state: dict, steps: int, check_every: int) -> dict:
    """Follow the five largest eigenpairs over steps of gradient descent at the edge.

    All followers see the same points, in a new random order at each. Kept is a summary: the runs
    themselves are 30,000 numbers.
    """
    point = problem(workload, state)
    names = list(followers.FOLLOWERS)
    follow = [make(K) for make in followers.FOLLOWERS.values()]
    table = {name: {"products": [], "seconds": [], "checks": []} for name in names}
    loss = []
    order = np.random.default_rng(0)
    for step in range(steps):
        exact = None
        if step % check_every == check_every - 1:
            exact = peers.reference(point, K)
        for i in order.permutation(len(names)):
            row = table[names[i]]
            start = time.perf_counter()
            operator = point.hessian()
            values, vectors, products = follow[i](operator)
            row["seconds"].append(time.perf_counter() - start)
            row["products"].append(products)
            if exact is not None:
                row["checks"].append([step, *errors((values, vectors), exact)])
            if i == 0:
                loss.append(operator.loss)
        point.descend()
    return {
        "steps": steps,
        "rising_steps": int(np.sum(np.diff(loss) > 0)),
        "methods": {name: summary(row, table[names[0]]) for name, row in table.items()},
    }


def summary(row: dict, ours: dict) -> dict:
    """What is kept of a follower's run: its products and errors, and its time over that of ours.

    The first step of all is a search from nothing, and left out.
    """
    products, seconds = row["products"][1:], np.array(row["seconds"][1:])
    _, values, angles = zip(*row["checks"], strict=True)
    return {
        "median_products": float(np.median(products)),
        "mean_products": float(np.mean(products)),
        "most_products": max(products),
        "median_seconds": float(np.median(seconds)),
        "ratio": float(np.median(seconds / np.array(ours["seconds"][1:]))),
        "checks": len(values),
        "value_error": max(values),
        "angle": max(angles),
    }


def machine(threads: int) -> dict:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "niceness": os.nice(0),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cold_table(results: dict) -> list[str]:
    lines = [
        f"Five largest eigenpairs from nothing: eigenvalues to {VALUE_ERROR:g}, relative, subspace",
        f"to {ANGLE:g} rad. The ratio is the time over that of flatminima in the same round.",
        "",
        "| workload | method | setting | median s | ratio | accurate rounds |",
        "| :-- | :-- | :-- | --: | --: | --: |",
    ]
    for name, points in results.items():
        for label, data in points.items():
            for method, row in data["methods"].items():
                setting = "none was enough" if row["setting"] is None else f"{row['setting']:g}"
                lines.append(
                    f"| {name}, {label} | {method} | {setting} | {row['median_seconds']:.3f} | "
                    f"{row['ratio']:.2f} | {row['accurate_rounds']}/{len(row['seconds'])} |"
                )
    return lines


def product_table(results: dict) -> list[str]:
    lines = ["| workload | product / gradient: time | FLOPs |", "| :-- | --: | --: |"]
    for name, row in results.items():
        lines.append(f"| {name} | {row['ratio']:.2f} | {row['flop_ratio']:.2f} |")
    return lines


def tracking_table(results: dict) -> list[str]:
    lines = [
        "Five largest eigenpairs followed along gradient descent, each step solved to a residual",
        f"of {followers.TOLERANCE:g}, relative. The ratio is the time over that of EigenTracker at "
        "the same step.",
        "",
        "| workload | method | steps (raising the loss) | products a step: median | mean | most | "
        "ratio | largest value error | largest angle |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, data in results.items():
        for method, row in data["methods"].items():
            lines.append(
                f"| {name} | {method} | {data['steps']} ({data['rising_steps']}) | "
                f"{row['median_products']:g} | {row['mean_products']:.1f} | "
                f"{row['most_products']} | {row['ratio']:.2f} | {row['value_error']:.1e} | "
                f"{row['angle']:.1e} |"
            )
    return lines


PARTS = {"cold": cold_table, "product": product_table, "tracking": tracking_table}


def measure(part: str, workload: Workload, states: dict, options: argparse.Namespace) -> dict:
    if part == "cold":
        return {
            label: cold(problem(workload, state), options.rounds) for label, state in states.items()
        }
    if part == "product":
        return product_cost(problem(workload, states["edge"]), 15 * options.rounds)
    return tracking(workload, states["edge"], options.tracking_steps, check_every=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tracking-steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {part: {} for part in options.parts}
    for workload in WORKLOADS:
        print(f"{workload.name}: training", flush=True)
        states = checkpoints(workload)
        for part in options.parts:
            print(f"{workload.name}: {part}", flush=True)
            results[part][workload.name] = measure(part, workload, states, options)
    for part, values in results.items():
        made = machine(options.threads)
        record = {"machine": made, "rounds": options.rounds, "results": values}
        record["workloads"] = {w.name: w.summary for w in WORKLOADS}
        heading = (
            f"{made['processor']}, {made['threads']} thread(s), niceness {made['niceness']}, "
            f"{made['date']}"
        )
        text = "\n".join([heading, "", *PARTS[part](values)]) + "\n"
        content = json.dumps(record, indent=1) + "\n"
        write_atomically(options.folder / f"{part}.json", content.encode())
        write_atomically(options.folder / f"{part}.md", text.encode())
        print(text)


if __name__ == "__main__":
    main()
