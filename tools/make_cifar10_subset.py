"""Make the subset of CIFAR-10 that the experiment ``cifar`` uses from the official archive.

Usage: FLATMINIMA_DATA=folder python tools/make_cifar10_subset.py [OUTPUT.npz]

The archive is read from that folder, or fetched from its home, and checked. The subset holds the
first 1,000 images of each of the five training batches and of the test batch, in their order.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from make_fashion_mnist_subset import npz_bytes

from flatminima import datasets
from flatminima._files import write_atomically
from study.experiments import cifar

BATCH, KEPT = 10_000, 1_000


def first_of_each_batch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first KEPT of every BATCH examples."""
    chosen = {}
    for name in ("x_train", "y_train", "x_test", "y_test"):
        positions = np.arange(len(arrays[name]))
        chosen[name] = arrays[name][positions % BATCH < KEPT]
    return chosen


def main(arguments: list[str] | None = None) -> int:
    folder = Path(os.environ.get(datasets.FOLDER_VARIABLE) or ".")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", default=folder / datasets.CIFAR_SUBSET)
    options = parser.parse_args(arguments)
    arrays = first_of_each_batch(datasets.SOURCES["cifar10"][0]())
    write_atomically(options.output, npz_bytes(arrays))
    found = cifar.fingerprint(arrays)
    print(f"{options.output}: SHA-256 of the arrays {found}")
    if found != cifar.SHA256:
        print(f"the stored results were made with {cifar.SHA256}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
