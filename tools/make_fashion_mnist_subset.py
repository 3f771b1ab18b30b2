"""Make the embedded subset of Fashion-MNIST from the official idx files.

Usage: python tools/make_fashion_mnist_subset.py FOLDER_WITH_THE_FOUR_GZ_FILES [OUTPUT.npz]

The subset holds, of each of the ten classes, 500 training and 200 test images, drawn without
replacement by a fixed seed and kept in the official order. The same input gives the same arrays,
and with the same zlib the same bytes.
"""

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from flatminima import datasets
from flatminima._files import write_atomically

SEED = 20261124
PER_CLASS = {"train": 500, "test": 200}


def balanced_indices(labels: np.ndarray, per_class: int, generator: np.random.Generator):
    """Return the sorted positions of ``per_class`` examples of each class."""
    chosen = [
        generator.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a compressed npz archive whose bytes depend on the arrays alone."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            # A ZipInfo of its own carries the fixed date 1980-01-01, not the clock's.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, member.getvalue(), compresslevel=9)
    return archive.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that holds the official .gz files")
    parser.add_argument("output", type=Path, nargs="?", default=datasets.EMBEDDED)
    arguments = parser.parse_args()
    generator = np.random.default_rng(SEED)
    arrays = {}
    for part, per_class in PER_CLASS.items():
        images, labels = datasets.read_fashion_mnist(arguments.folder, part)
        chosen = balanced_indices(labels, per_class, generator)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images[chosen], labels[chosen]
    content = npz_bytes(arrays)
    write_atomically(arguments.output, content)
    print(f"{arguments.output}: {len(content):,} bytes")
    print(f"SHA-256 {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
