"""Real data sets, each checked against its SHA-256 before a single image is used.

The default is a subset of Fashion-MNIST that comes with the repository, so nothing is downloaded.
The full sets are read from the folder named by the environment variable FLATMINIMA_DATA, or else
from a cache, into which they are fetched from their official homes when they are missing, or from
the address that the variable of MIRROR_VARIABLE holds.

Example:
    >>> data = load(n_train=100, n_test=20)
    >>> data.x_train.shape, data.classes[data.y_train[0]]
    (torch.Size([100, 1, 28, 28]), 'bag')
"""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flatminima._progress import bar
from flatminima._validation import a_path, instance_of, one_of, positive_int, shown

__all__ = [
    "CIFAR_SUBSET",
    "EMBEDDED",
    "FOLDER_VARIABLE",
    "MIRROR_VARIABLE",
    "SOURCES",
    "CorruptDataError",
    "DataUnavailableError",
    "Dataset",
    "load",
    "one_hot",
    "read_fashion_mnist",
]

EMBEDDED = resources.files("flatminima") / "data" / "fashion_mnist_subset.npz"
"""The subset of Fashion-MNIST in the repository; tools/make_fashion_mnist_subset.py made it."""
_EMBEDDED_SHA256 = "03b14c87337c8eec4bba5ad074b3d1c209797c2865952722c502280e7715f29d"

FOLDER_VARIABLE = "FLATMINIMA_DATA"
"""The environment variable that names the folder of a user's own data."""
MIRROR_VARIABLE = "FLATMINIMA_MIRROR"
"""Address that replaces the official homes, for a local mirror; the checksums stay the same."""

_FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class DataUnavailableError(RuntimeError):
    """The data are neither here nor to be fetched; the message says what to do about it."""


class CorruptDataError(ValueError):
    """A file is not what its checksum says. It is left as it is, for its owner to look at."""


@dataclass(frozen=True)
class _RemoteFile:
    """A file with an official home, a folder's address with a slash at the end."""

    name: str
    home: str
    sha256: str
    content_sha256: str | None = None
    """Of what a .gz file unpacks to: a copy packed in another way, as Linux distributions ship it,
    is as good. None: only sha256 counts."""


_FASHION_HOME = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
# Of each file, and of what it unpacks to.
_FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
# The binary version: the one for Python holds pickles, and nothing foreign is unpickled here.
_CIFAR_FILE = _RemoteFile(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CIFAR_SUBSET = "cifar10_subset.npz"
"""The file in that folder that ``"cifar10-subset"`` stands for."""

LARGEST = 200 * 2**20
"""Bytes of the largest file that is fetched or unpacked before its checksum is known."""
LARGEST_OWN = 2**31
"""Bytes of the arrays of your own, unpacked."""
LONGEST = 3600.0
"""Seconds that a download may take; the server may be silent for PATIENCE of them."""
PATIENCE = 30

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, ready for training.

    Images are float32 (n, channels, height, width), standardized as `load` says, the test images
    with the numbers of training; labels are int64 (n,).

    Example:
        >>> data = load(n_train=20, n_test=10)
        >>> data.pixels(data.x_train).shape
        torch.Size([20, 1, 28, 28])
    """

    name: str
    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: Tensor
    std: Tensor
    """(channels,), like the mean: of the pixel values in [0, 1], over all training images."""

    def pixels(self, images: Tensor) -> Tensor:
        """Undo the standardization: (n, channels, height, width) pixel values in [0, 1]."""
        channels = len(self.std)
        fits = isinstance(images, Tensor) and images.shape[-3:-2] == (channels,)
        if not fits or images.is_complex():
            raise ValueError(
                f"images must be a real tensor (n, {channels}, height, width), got {shown(images)}"
            )
        return (images * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)


def load(
    name: str = "fashion-mnist-subset",
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set, or a class-balanced random part of it.

    Pixel values are scaled to [0, 1]; then the mean of each channel over the whole training set is
    subtracted and its standard deviation divided out, so that a part is scaled as the whole is.

    Args:
        name: ``"fashion-mnist-subset"`` (embedded: 5,000 + 2,000 images, 1 x 28 x 28),
            ``"fashion-mnist"`` (60,000 + 10,000), ``"cifar10"`` (50,000 + 10,000, 3 x 32 x 32), or
            ``"cifar10-subset"`` (your own ``cifar10_subset.npz`` in FLATMINIMA_DATA).
        n_train: number of training images, all for None. The counts of two classes differ by one
            at most, as far as each class has enough.
        n_test: the same for the test images.
        seed: of the random choice and its order; without a choice the order of the files is kept.

    ValueError for an unknown name or more images than there are; CorruptDataError, a ValueError
    too, for a file unlike its checksum or format; DataUnavailableError if a file is not to be had.
    """
    read, classes = SOURCES[one_of("name", name, SOURCES)]
    seed = positive_int("seed", seed, minimum=0)
    wanted = {"train": n_train, "test": n_test}
    for part, number in wanted.items():
        wanted[part] = None if number is None else positive_int(f"n_{part}", number)
    arrays = read()
    pixels = arrays["x_train"].reshape(*arrays["x_train"].shape[:2], -1)
    mean = torch.tensor(pixels.mean((0, 2)) / 255, dtype=torch.float32)
    std = torch.tensor(pixels.std((0, 2)) / 255, dtype=torch.float32)
    if not bool((std > 0).all()):
        constant = torch.nonzero(std == 0).flatten().tolist()
        raise CorruptDataError(
            f"{name}: a channel must vary, but of {len(std)} these do not: {constant}"
        )
    parts = {}
    for offset, (part, number) in enumerate(wanted.items()):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if number is not None:
            generator = np.random.default_rng([seed, offset])
            chosen = _balanced(labels, number, f"n_{part}", generator)
            images, labels = images[chosen], labels[chosen]
        scaled = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
        parts[f"x_{part}"] = (scaled - mean[:, None, None]) / std[:, None, None]
        parts[f"y_{part}"] = torch.from_numpy(labels.astype(np.int64))
    return Dataset(name=name, classes=classes, mean=mean, std=std, **parts)


def one_hot(labels: Tensor, classes: int = 10, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the (n, classes) one-hot rows of labels (n,), whole numbers from 0 to classes - 1.

    Example:
        >>> one_hot(torch.tensor([2, 0]), 3)
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    classes = positive_int("classes", classes, maximum=10**6)
    instance_of("dtype", dtype, torch.dtype)
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(
            f"labels must be a tensor of whole numbers from 0 to {classes - 1}, got {shown(labels)}"
        )
    return functional.one_hot(labels.long(), classes).to(dtype)


def read_fashion_mnist(folder: Path | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the ``"train"`` or ``"test"`` part of the full Fashion-MNIST.

    The official .gz files are in the folder; for None they are searched, and fetched, as by `load`.
    Images are uint8 (n, 1, 28, 28) and labels uint8 (n,).
    """
    stem = {"train": "train", "test": "t10k"}[one_of("part", part, ("train", "test"))]
    folder = None if folder is None else a_path("folder", folder)

    def read(kind: str, dimensions: int) -> np.ndarray:
        name = f"{stem}-{kind}-idx{dimensions}-ubyte.gz"
        file = _RemoteFile(name, _FASHION_HOME, *_FASHION_SHA256[name])
        return _idx(_content(file, folder), dimensions)

    return read("images", 3)[:, None], read("labels", 1)


def _balanced(
    labels: np.ndarray, number: int, name: str, generator: np.random.Generator
) -> np.ndarray:
    """Positions of ``number`` examples, spread evenly over the classes, in random order."""
    if number > len(labels):
        raise ValueError(f"{name} must be at most the {len(labels)} images there are, got {number}")
    order = generator.permutation(len(labels))
    # The rank of each example within its class: taking the lowest ranks first takes turns.
    ranks = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ranks[members] = np.arange(len(members))
    return generator.permutation(order[np.argsort(ranks[order], kind="stable")][:number])


def _folder() -> Path | None:
    """The folder of the user's own data, or None."""
    value = os.environ.get(FOLDER_VARIABLE)
    if not value:
        return None
    folder = a_path(FOLDER_VARIABLE, value)
    # Unlike Path.is_dir, this is false too for what may not be looked at.
    if not os.path.isdir(folder):
        raise DataUnavailableError(f"{FOLDER_VARIABLE} must name a folder, got {shown(value)}")
    return folder


def _content(file: _RemoteFile, folder: Path | None = None) -> bytes:
    """The checked content of a file (unpacked, for a .gz with a content_sha256)."""
    own = _folder() if folder is None else folder
    if own is not None and os.path.isfile(own / file.name):
        return _checked(file, own / file.name)
    if folder is not None:
        raise DataUnavailableError(f"there is no {file.name} in {folder}")
    cache = Path(_pooch().os_cache("flatminima"))
    kept = cache / file.name
    return _checked(file, kept if os.path.isfile(kept) else _fetch(file, cache))


def _checked(file: _RemoteFile, path: Path) -> bytes:
    """The content of a file that is what it should be; CorruptDataError, and no change, if not."""
    content, expected = _bytes(path), file.content_sha256 or file.sha256
    if file.content_sha256 is not None:
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise _corrupt(path, f"it does not unpack ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise _corrupt(path, f"its SHA-256 is {found}, not {expected}")
    return content


def _bytes(path: Path) -> bytes:
    """What a file holds, unless it is larger than any that is known."""
    try:
        if path.stat().st_size > LARGEST_OWN:
            raise _corrupt(path, f"it has more than {LARGEST_OWN} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataUnavailableError(
            f"{path} cannot be read ({error}). Name another folder, which holds the file, in the "
            f"environment variable {FOLDER_VARIABLE}"
        ) from error


def _corrupt(path: Path, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path} is truncated or altered: {what}. It was left in place; remove it to try again."
    )


def _pooch() -> ModuleType:
    """What fetches files; who has them all needs neither it nor what it needs."""
    with warnings.catch_warnings():
        # In a notebook without widgets tqdm, which pooch imports, asks for them. Plain text does.
        warnings.simplefilter("ignore")
        try:
            import pooch
        except ImportError as error:
            raise DataUnavailableError(
                f"{error.name} is missing, which fetches data: install it, or put the files into a "
                f"folder and name that folder in the environment variable {FOLDER_VARIABLE}"
            ) from error
    return pooch


def _fetch(file: _RemoteFile, cache: Path) -> Path:
    """Fetch a file into the cache: under a temporary name first, and kept only if it is right."""
    import urllib3

    home = os.environ.get(MIRROR_VARIABLE) or file.home
    try:
        # What a fetch left behind that was killed.
        for left in cache.glob("tmp*"):
            if left.stat().st_mtime < time.time() - 2 * LONGEST:
                left.unlink()
        _pooch().retrieve(
            home.rstrip("/") + "/" + file.name,
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=cache,
            downloader=_download,
        )
    except (OSError, urllib3.exceptions.HTTPError) as error:  # those of requests are OSErrors
        raise DataUnavailableError(
            f"{file.name} could not be fetched from {home} into {cache} ({error}). Without a "
            f"network, put the file from {file.home} into a folder and name that folder in the "
            f"environment variable {FOLDER_VARIABLE}, or use the embedded data set "
            "'fashion-mnist-subset'."
        ) from error
    except ValueError as error:
        raise CorruptDataError(
            f"{file.name} as fetched from {home} does not match its SHA-256 {file.sha256}; "
            f"nothing was kept ({error})"
        ) from error
    return cache / file.name


def _download(url: str, output: str, pooch: object) -> None:
    """For pooch: fetch a file as it is, within LARGEST bytes and LONGEST seconds."""
    import requests

    ended: list[Exception | None] = []
    end = time.monotonic() + LONGEST
    too_much = requests.exceptions.RequestException(
        f"it is larger than {LARGEST} bytes, or takes longer than {LONGEST:g} s"
    )

    def receive() -> None:
        as_it_is = {"Accept-Encoding": "identity"}
        with (
            open(output, "wb") as kept,
            requests.get(url, stream=True, timeout=PATIENCE, headers=as_it_is) as response,
            bar(desc=Path(url).name, unit="B", unit_scale=True, leave=False) as display,
        ):
            response.raise_for_status()
            while block := response.raw.read1(2**16, decode_content=False):
                kept.write(block)
                display.update(len(block))
                if kept.tell() > LARGEST or time.monotonic() > end:
                    raise too_much

    def fetch() -> None:
        try:
            ended.append(receive())
        except Exception as error:
            ended.append(error)

    # Not waited for: a server may send one byte at a time of what precedes the content, too.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(LONGEST)
    for error in ended or [too_much]:
        if error is not None:
            raise error


def _idx(content: bytes, dimensions: int) -> np.ndarray:
    """The array of an official idx file: four bytes, as many big-endian sizes as it has dimensions,
    and its bytes."""
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _embedded() -> Arrays:
    if not EMBEDDED.is_file():
        raise DataUnavailableError(
            f"{EMBEDDED} is missing: it is part of the installed library; install that again"
        )
    return _npz(EMBEDDED, _checked(_RemoteFile(EMBEDDED.name, "", _EMBEDDED_SHA256), EMBEDDED))


def _npz(path: Path, content: bytes) -> Arrays:
    """Read the four arrays of an npz archive, without pickle, and check their shapes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_OWN:
                raise _corrupt(path, f"its arrays have more than {LARGEST_OWN} bytes")
            if archive.testzip():
                raise _corrupt(path, f"the checksum of {archive.testzip()} does not fit")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    except CorruptDataError:
        raise
    except Exception as error:
        # A damaged header makes NumPy raise what Python's own parser does, among others.
        raise _corrupt(path, f"not an npz file of images ({error})") from error
    shape = arrays["x_train"].shape[1:]
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        wrong = images.dtype != np.uint8 or images.ndim != 4 or not images.size
        wrong = wrong or images.shape[1:] != shape or shape[0] not in (1, 3)
        if wrong or labels.shape != images.shape[:1]:
            raise CorruptDataError(
                f"{path}: x_{part} must be uint8 (n, channels, height, width), of 1 or 3 channels "
                f"and one size for training and test, and y_{part} (n,); got {images.dtype} "
                f"{images.shape} and {labels.shape}"
            )
        if labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
            raise CorruptDataError(f"{path}: y_{part} must hold the class numbers 0 to 9")
    return arrays


def _fashion_mnist() -> Arrays:
    return {
        f"{key}_{part}": array
        for part in ("train", "test")
        for key, array in zip("xy", read_fashion_mnist(None, part), strict=True)
    }


def _cifar10() -> Arrays:
    """Parse the records of CIFAR-10's binary version: a label byte, then 3072 pixel bytes."""
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    arrays = {}
    with tarfile.open(fileobj=io.BytesIO(_content(_CIFAR_FILE)), mode="r:gz") as archive:
        batches = {Path(m.name).stem: archive.extractfile(m).read() for m in archive if m.isfile()}
    for part in names:
        raw = b"".join(batches[name] for name in names[part])
        records = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
        arrays[f"y_{part}"] = records[:, 0]
        arrays[f"x_{part}"] = records[:, 1:].reshape(-1, 3, 32, 32)
    return arrays


def _cifar10_subset() -> Arrays:
    folder = _folder()
    path = folder / CIFAR_SUBSET if folder else None
    if path is None or not os.path.isfile(path):
        raise DataUnavailableError(
            f"put a file {CIFAR_SUBSET} with the uint8 arrays x_train, y_train, x_test and y_test "
            f"into a folder and name that folder in {FOLDER_VARIABLE}"
        )
    return _npz(path, _bytes(path))


SOURCES: dict[str, tuple[Callable[[], Arrays], tuple[str, ...]]] = {
    "fashion-mnist-subset": (_embedded, _FASHION_CLASSES),
    "fashion-mnist": (_fashion_mnist, _FASHION_CLASSES),
    "cifar10": (_cifar10, _CIFAR_CLASSES),
    "cifar10-subset": (_cifar10_subset, _CIFAR_CLASSES),
}
"""Name of a data set -> (the function that reads its arrays, the names of its classes)."""
