"""datasets: the embedded images, the checks of every file, and the fetch, from a local server."""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import os
import tarfile
import threading
import time
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from flatminima import datasets
from flatminima._files import write_atomically
from flatminima.datasets import CorruptDataError, DataUnavailableError, _RemoteFile
from study import ROOT

CONTENT = bytes(range(256)) * 400
PACKED = gzip.compress(CONTENT, mtime=0)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def embedded():
    return datasets.load()


# --- what is loaded -------------------------------------------------------------------------


def test_embedded_subset_is_balanced_standardized_and_real(embedded):
    assert embedded.x_train.shape == (5000, 1, 28, 28)
    assert embedded.x_test.shape == (2000, 1, 28, 28)
    assert embedded.x_train.dtype == torch.float32
    assert embedded.y_train.dtype == torch.int64
    assert torch.bincount(embedded.y_train).tolist() == [500] * 10
    assert torch.bincount(embedded.y_test).tolist() == [200] * 10
    # 3.9 million float32 numbers: their mean is 0 and their standard deviation 1 to rounding.
    assert abs(embedded.x_train.double().mean()) < 1e-6
    assert abs(embedded.x_train.double().std() - 1) < 1e-6
    # Images of one class resemble each other more than images of another: the nearest class mean
    # finds the class far above the 10 % of guessing (99.9 % sure above 12.2 % for 2,000 guesses).
    means = torch.stack([embedded.x_train[embedded.y_train == c].mean(0) for c in range(10)])
    distances = torch.cdist(embedded.x_test.flatten(1), means.flatten(1))
    assert (distances.argmin(1) == embedded.y_test).double().mean() > 0.122


def test_pixels_undoes_the_standardization(embedded):
    raw = np.load(datasets.EMBEDDED, allow_pickle=False)["x_train"][:50]
    pixels = embedded.pixels(embedded.x_train[:50]) * 255
    # Two float32 roundings of numbers up to 255 / std, std > 0.1.
    assert np.abs(pixels.numpy() - raw).max() < 2 * 2550 * 2.0**-24 * 4


@pytest.mark.parametrize("number", [10, 999, 1000, 5000])
def test_a_part_is_balanced_within_one_and_has_no_image_twice(embedded, number):
    part = datasets.load(n_train=number, n_test=20, seed=3)
    counts = torch.bincount(part.y_train, minlength=10)
    assert counts.sum() == number
    assert counts.max() - counts.min() <= 1
    assert len(torch.unique(part.x_train.flatten(1), dim=0)) == number
    assert len(part.x_test) == 20


def test_the_seed_decides_the_part():
    first, again, other = (datasets.load(n_train=100, n_test=10, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.x_train, again.x_train)
    assert not torch.equal(first.x_train, other.x_train)


def test_one_hot():
    rows = datasets.one_hot(torch.tensor([2, 0]), 3)
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0]]


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mnist"}, ["mnist", "fashion-mnist-subset"]),
        ({"n_train": 5001}, ["n_train", "5001", "5000"]),
        ({"n_test": 2001}, ["n_test", "2001", "2000"]),
        ({"n_train": 0}, ["n_train", "0"]),
        ({"n_train": 1.5}, ["n_train", "1.5"]),
        ({"seed": -1}, ["seed", "-1"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError) as error:
        datasets.load(**arguments)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_embedded_file_is_refused_and_left(damage, tmp_path, monkeypatch):
    good = datasets.EMBEDDED.read_bytes()
    bad = {"truncated": good[:-1000], "altered": good[:-1] + b"!", "empty": b""}[damage]
    path = tmp_path / "fashion_mnist_subset.npz"
    path.write_bytes(bad)
    monkeypatch.setattr(datasets, "EMBEDDED", path)
    with pytest.raises(CorruptDataError, match="SHA-256"):
        datasets.load()
    assert path.read_bytes() == bad


def test_a_missing_embedded_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "EMBEDDED", tmp_path / "absent.npz")
    with pytest.raises(DataUnavailableError, match="install that again"):
        datasets.load()


# --- a user's own npz -----------------------------------------------------------------------


def npz(**changes):
    arrays = {
        "x_train": np.zeros((20, 3, 32, 32), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((10, 3, 32, 32), np.uint8),
        "y_test": np.arange(10),
    }
    arrays["x_train"][:, :, 0, 0] = 255  # a channel without variation has no scale
    stream = io.BytesIO()
    np.savez_compressed(stream, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def load_npz(content, tmp_path, monkeypatch):
    (tmp_path / "cifar10_subset.npz").write_bytes(content)
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))
    return datasets.load("cifar10-subset")


def test_own_npz(tmp_path, monkeypatch):
    data = load_npz(npz(), tmp_path, monkeypatch)
    assert data.x_train.shape == (20, 3, 32, 32)
    assert data.classes[0] == "airplane"


@pytest.mark.parametrize(
    "content",
    [
        b"not an archive",
        npz()[:-300],
        npz(y_test=None),
        npz(x_train=np.zeros((20, 3, 32, 32))),
        npz(y_train=np.arange(7)),
        npz(y_test=np.full(10, 11)),
        npz(y_test=np.array([{}] * 10, dtype=object)),  # would have to be unpickled
        npz(y_train=np.arange(20) % 10 - 5),
        npz(x_train=np.zeros((0, 3, 32, 32), np.uint8), y_train=np.zeros(0, int)),
        npz(x_train=np.zeros((20, 3, 0, 32), np.uint8)),
        npz(x_test=np.zeros((10, 3, 28, 28), np.uint8)),
        npz(x_test=np.zeros((10, 1, 32, 32), np.uint8)),
        npz(x_train=np.zeros((20, 32, 32, 3), np.uint8), x_test=np.zeros((10, 32, 32, 3), "u1")),
        npz(y_train=np.arange(20.0) % 10),
        npz(y_train=np.arange(20) % 2 == 0),
        npz(y_train=np.arange(20)[:, None] % 10),
        npz(y_test=np.full(10, 2**64 - 1, np.uint64)),
        npz(x_train=np.array(0, np.uint8)),
        zipped({f"folder/{name}.npy": npy(np.zeros(1)) for name in ("x_train", "y_train")}),
        zipped({"x_train.npy": npy(np.zeros(1)).replace(b"(1,)", b"(9999999999999999,)")}),
        b"PK\x05\x06" + bytes(18),
    ],
    ids=[
        "garbage",
        "truncated",
        "missing",
        "dtype",
        "lengths",
        "labels",
        "pickle",
        "negative",
        "none",
        "empty",
        "sizes",
        "channels",
        "channels last",
        "fractions",
        "truth values",
        "column",
        "huge label",
        "no axes",
        "folder",
        "huge array",
        "hollow",
    ],
)
def test_corrupt_npz_is_refused_and_left(content, tmp_path, monkeypatch):
    with pytest.raises(CorruptDataError, match="cifar10_subset"):
        load_npz(content, tmp_path, monkeypatch)
    assert (tmp_path / "cifar10_subset.npz").read_bytes() == content


def test_arrays_in_any_order_of_memory_and_of_one_class_load(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 3, 8, 6), dtype=np.uint8)
    plain = npz(x_train=images, x_test=images[:10], y_train=np.zeros(20, "u1"))
    expected = load_npz(plain, tmp_path, monkeypatch)
    turned = np.asfortranarray(images), np.moveaxis(np.moveaxis(images, 1, -1).copy(), -1, 1)
    for same in turned:
        content = npz(x_train=same, x_test=same[:10], y_train=np.zeros(20, ">i8"))
        data = load_npz(content, tmp_path, monkeypatch)
        assert torch.equal(data.x_train, expected.x_train)
        assert torch.equal(data.y_train, expected.y_train)
    assert len(datasets.load("cifar10-subset", n_train=3).x_train) == 3


def test_a_channel_that_does_not_vary_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CorruptDataError, match=r"a channel must vary, .* \[0, 1, 2\]"):
        load_npz(npz(x_train=np.full((20, 3, 32, 32), 7, np.uint8)), tmp_path, monkeypatch)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "LARGEST_OWN", 50_000)
    assert len(npz()) < 50_000
    with pytest.raises(CorruptDataError, match="more than 50000 bytes"):
        load_npz(npz(), tmp_path, monkeypatch)


@pytest.mark.search
def test_an_archive_with_flipped_bits_is_read_as_it_was_or_refused(
    tmp_path, monkeypatch, generator
):
    content = npz()
    good = load_npz(content, tmp_path, monkeypatch)
    for _ in range(100):
        bits = np.frombuffer(content, np.uint8).copy()
        bits[generator.integers(len(bits))] ^= 1 << generator.integers(8)
        try:
            read = load_npz(bits.tobytes(), tmp_path, monkeypatch)
        except CorruptDataError:
            continue
        assert torch.equal(read.x_train, good.x_train)
        assert torch.equal(read.y_test, good.y_test)


def test_missing_folder_and_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataUnavailableError, match="FLATMINIMA_DATA"):
        datasets.load("cifar10-subset")
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))
    with pytest.raises(DataUnavailableError, match=r"cifar10_subset\.npz"):
        datasets.load("cifar10-subset")
    monkeypatch.setenv("FLATMINIMA_DATA", "x" * 5000)
    with pytest.raises(DataUnavailableError, match="must name a folder"):
        datasets.load("cifar10-subset")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLATMINIMA_DATA", "~")
    with pytest.raises(DataUnavailableError, match=r"cifar10_subset\.npz"):
        datasets.load("cifar10-subset")


# --- the fetch ------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serves one file well, altered, cut off, packed, without end, slowly, or not at all."""

    def do_GET(self):
        folder = self.path.split("/")[1]
        self.server.requests += 1
        if folder == "absent":
            self.send_error(404)
            return
        if folder in ("silent", "garbage", "closed"):
            time.sleep(1.0 if folder == "silent" else 0.0)
            with contextlib.suppress(OSError):
                self.wfile.write(b"\0\xff" * 100 if folder == "garbage" else b"")
            return
        if folder in ("circular", "file"):
            self.send_response(302)
            self.send_header("Location", self.path if folder == "circular" else "file:///etc/hosts")
            self.end_headers()
            return
        body = {
            "altered": PACKED[:-1] + b"!",
            "page": b"<html>Please log in</html>",
            "longer": PACKED + b"tail",
        }.get(folder, PACKED)
        self.send_response(204 if folder == "nothing" else 200)
        if folder in ("endless", "slow", "dripping", "chunks"):
            if folder == "chunks":
                self.send_header("Transfer-Encoding", "chunked")
            if folder == "dripping":
                self.flush_headers()
                self.wfile.write(b"X-Long: ")
            else:
                self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(2**16) if folder == "endless" else b"0")
                    time.sleep(0 if folder == "endless" else 0.05)
            return
        if folder == "bomb":
            body = gzip.compress(bytes(2**24))
            self.send_header("Content-Encoding", "gzip")
        length = len(body) // 2 if folder == "shorter" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if folder == "broken" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    """Return a function: the content of a file fetched from a folder of the server."""
    cache = tmp_path / "cache"
    monkeypatch.delenv("FLATMINIMA_DATA", raising=False)
    monkeypatch.delenv("FLATMINIMA_MIRROR", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: cache)
    home = f"http://127.0.0.1:{server.server_address[1]}"

    def content(folder):
        file = _RemoteFile("x.gz", f"{home}/{folder}/", sha256(PACKED), sha256(CONTENT))
        return datasets._content(file)

    content.cache = cache
    content.server = server
    return content


def test_good_file_is_fetched_once_and_kept(remote):
    before = remote.server.requests
    assert remote("good") == CONTENT
    assert remote("good") == CONTENT
    assert remote.server.requests == before + 1
    assert os.listdir(remote.cache) == ["x.gz"]


WRONG = ("altered", "page", "longer", "shorter", "nothing", "bomb")


@pytest.mark.parametrize("folder", WRONG)
def test_another_file_is_refused_and_not_kept(remote, folder):
    """Packed by the server it is another file too, and is not unpacked."""
    with pytest.raises(CorruptDataError, match="does not match its SHA-256"):
        remote(folder)
    assert not any(remote.cache.iterdir())


FAILING = (
    "broken", "absent", "endless", "slow", "dripping", "chunks", "silent", "garbage", "closed",
    "circular", "file",
)  # fmt: skip


@pytest.mark.parametrize("folder", FAILING)
def test_failed_fetch_says_what_to_do_and_leaves_nothing(remote, folder, monkeypatch):
    monkeypatch.setattr(datasets, "LARGEST", 2**20)
    monkeypatch.setattr(datasets, "LONGEST", 1.0)
    monkeypatch.setattr(datasets, "PATIENCE", 0.3)
    with pytest.raises(DataUnavailableError, match="FLATMINIMA_DATA"):
        remote(folder)
    assert not any(remote.cache.iterdir())
    assert remote("good") == CONTENT  # and the next try succeeds


def test_the_homes_are_spoken_to_in_secret():
    homes = {datasets._FASHION_HOME, datasets._CIFAR_FILE.home}
    assert all(home.startswith("https://") for home in homes)


def test_what_a_killed_fetch_left_behind_is_removed(remote):
    remote.cache.mkdir()
    for name, age in (("tmpold", 3 * datasets.LONGEST), ("tmpnew", 0)):
        (remote.cache / name).touch()
        os.utime(remote.cache / name, 2 * (time.time() - age,))
    remote("good")
    assert sorted(os.listdir(remote.cache)) == ["tmpnew", "x.gz"]


def test_a_cache_that_cannot_be_used_says_what_to_do(remote, tmp_path, monkeypatch):
    remote.cache.touch()
    with pytest.raises(DataUnavailableError, match="FLATMINIMA_DATA"):
        remote("good")
    remote.cache.unlink()
    assert remote("good") == CONTENT

    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataUnavailableError, match="FLATMINIMA_DATA"):
        remote("good")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(remote, monkeypatch):
    monkeypatch.setattr(datasets, "LARGEST", 2**20)
    remote.cache.mkdir()
    (remote.cache / "x.gz").write_bytes(gzip.compress(bytes(2**26)))
    tracemalloc.start()
    with pytest.raises(CorruptDataError, match="left in place"):
        remote("good")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_no_server_says_what_to_do(remote, monkeypatch):
    monkeypatch.setenv("FLATMINIMA_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DataUnavailableError, match="Without a network"):
        remote("good")


@pytest.mark.parametrize("mirror", ["nonsense", "ftp://127.0.0.1", "http://[", "http://*.x"])
def test_an_address_that_is_none_says_what_to_do(remote, monkeypatch, mirror):
    monkeypatch.setenv("FLATMINIMA_MIRROR", mirror)
    with pytest.raises(DataUnavailableError, match="could not be fetched from"):
        remote("good")


def test_a_mirror_without_a_name_is_none(remote, monkeypatch):
    monkeypatch.setenv("FLATMINIMA_MIRROR", "")
    assert remote("good") == CONTENT


@pytest.mark.parametrize(
    "damage",
    [
        PACKED[:-50],
        PACKED[:-1] + b"!",
        gzip.compress(b"other", mtime=0),
        b"",
        PACKED + b"tail",
        PACKED + PACKED,
    ],
    ids=["truncated", "altered", "another file", "empty", "longer", "twice"],
)
def test_damaged_cached_file_is_refused_left_and_not_fetched_again(remote, damage):
    remote.cache.mkdir()
    (remote.cache / "x.gz").write_bytes(damage)
    before = remote.server.requests
    with pytest.raises(CorruptDataError, match="left in place"):
        remote("good")
    assert (remote.cache / "x.gz").read_bytes() == damage
    assert remote.server.requests == before


def test_own_folder_comes_first_and_another_packing_is_as_good(remote, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "x.gz").write_bytes(gzip.compress(CONTENT, compresslevel=1))
    monkeypatch.setenv("FLATMINIMA_DATA", str(own))
    before = remote.server.requests
    assert remote("absent") == CONTENT
    assert remote.server.requests == before


def test_mirror_replaces_the_home(remote, monkeypatch):
    monkeypatch.setenv(
        "FLATMINIMA_MIRROR", f"http://127.0.0.1:{remote.server.server_address[1]}/good"
    )
    assert remote("absent") == CONTENT


# --- the formats ----------------------------------------------------------------------------


def test_idx():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    assert np.array_equal(datasets._idx(header + images.tobytes(), 3), images)


def test_cifar10_binary_records(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    records = {f"data_batch_{i}": generator.integers(0, 10, (4, 3073)) for i in range(1, 6)}
    records["test_batch"] = generator.integers(0, 10, (3, 3073))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, values in records.items():
            content = values.astype(np.uint8).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    packed = stream.getvalue()
    file = _RemoteFile(datasets._CIFAR_FILE.name, "http://127.0.0.1:9/", sha256(packed))
    monkeypatch.setattr(datasets, "_CIFAR_FILE", file)
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))
    (tmp_path / file.name).write_bytes(packed)
    data = datasets.load("cifar10")
    assert data.x_train.shape == (20, 3, 32, 32)
    assert data.y_train[4:8].tolist() == records["data_batch_2"][:, 0].tolist()
    expected = records["test_batch"][1, 1:].reshape(3, 32, 32)
    assert np.abs((data.pixels(data.x_test[1]) * 255).numpy() - expected).max() < 1e-3


def test_subset_can_be_made_again(tmp_path, monkeypatch):
    folder = os.environ.get("FLATMINIMA_DATA", "/usr/share/datasets/fashion-mnist")
    if not (Path(folder) / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs the official Fashion-MNIST files in FLATMINIMA_DATA")
    spec = importlib.util.spec_from_file_location(
        "make_subset", ROOT / "tools" / "make_fashion_mnist_subset.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = tmp_path / "made.npz"
    monkeypatch.setattr("sys.argv", ["make", folder, str(output)])
    assert module.main() == 0
    with np.load(output) as made, np.load(datasets.EMBEDDED) as kept:
        assert sorted(made) == sorted(kept)
        assert all(np.array_equal(made[name], kept[name]) for name in kept)


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
