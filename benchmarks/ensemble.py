"""Throughput of an ensemble against the same runs one after another.

``python benchmarks/ensemble.py [--device cuda] [--members 16]`` prints, for each case, the median
seconds of both, taken in turn, and the ratio one by one / ensemble: above 1 the ensemble is faster.
"""

import argparse
import platform
import statistics
import time

import torch

from flatminima import datasets, ensemble, models, training

CASES = {
    "MLP 784-32-32-10, n = 200": (lambda **o: models.mlp([784, 32, 32, 10], **o), 200),
    "MLP 784-32-32-10, n = 1000": (lambda **o: models.mlp([784, 32, 32, 10], **o), 1000),
    "CNN (8, 16), n = 200": (lambda **o: models.cnn([8, 16], "tanh", **o), 200),
}


def seconds(function, device):
    """Wall time of a call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(build, n, device, members, steps, repeats):
    """Median seconds (one by one, ensemble) over rounds in which the two take turns."""
    data = datasets.load("fashion-mnist-subset", n_train=n, n_test=10)
    inputs, targets = data.x_train.to(device), data.y_train.to(device)
    rates = [0.01 + 0.001 * i for i in range(members)]

    def one_by_one():
        for seed, rate in enumerate(rates):
            model = build(seed=seed, device=device)
            training.gradient_descent(
                model, inputs, targets, learning_rate=rate, steps=steps, progress=False
            )

    def together():
        group = [build(seed=seed, device=device) for seed in range(members)]
        ensemble.train(group, inputs, targets, learning_rates=rates, steps=steps, progress=False)

    for warm_up in (one_by_one, together):
        warm_up()
    rounds = [(seconds(one_by_one, device), seconds(together, device)) for _ in range(repeats)]
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the name of the cases to time")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that PyTorch can use")
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    print(f"{options.device} ({name}), {threads} threads, torch {torch.__version__}; ", end="")
    print(f"{options.members} members, {options.steps} steps, median of {options.repeats}")
    print(f"{'case':30} {'one by one':>11} {'ensemble':>11} {'ratio':>7}")
    for case, (build, n) in CASES.items():
        if options.only not in case:
            continue
        alone, group = measure(
            build, n, options.device, options.members, options.steps, options.repeats
        )
        print(f"{case:30} {alone:10.3f}s {group:10.3f}s {alone / group:7.2f}")


if __name__ == "__main__":
    main()
