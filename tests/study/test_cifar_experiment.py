"""The experiment `cifar` and the tool that makes its data, on images of noise."""

import dataclasses

import make_cifar10_subset as tool
import numpy as np
import pytest

from flatminima import datasets, sweep
from study import results
from study.experiments import cifar

EXPERIMENT = results.experiment("cifar")


def noise(images, seed):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    return pixels, np.arange(images, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A FLATMINIMA_DATA whose subset of CIFAR-10 is noise."""
    arrays = {}
    for part, images in (("train", 200), ("test", 50)):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = noise(images, len(part))
    np.savez(tmp_path / datasets.CIFAR_SUBSET, **arrays)
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "SHA256", cifar.fingerprint(arrays))
    return tmp_path


@pytest.mark.parametrize("preset", ["ci", "default", "gpu"])
def test_every_preset_runs_at_toy_size(preset, folder):
    kinds = {config.model: config for config in EXPERIMENT.grid(preset)}
    assert set(kinds) == ({"mlp", "cnn"} if preset == "gpu" else {"mlp"})
    for config in kinds.values():
        assert (config.device == "cuda") == (preset == "gpu")
        assert config.dataset == "cifar10-subset"
        toy = dataclasses.replace(
            config, factor=1.5, n_train=40, width=8, small_rate=0.005, start_loss=0.4,
            target_loss=0.35, device="cpu",
        )  # fmt: skip
        values = EXPERIMENT.function(toy)
        assert values["reached"]
        assert set(values) == set(EXPERIMENT.tolerances)


def test_other_images_are_refused_and_no_images_are_said_to_be_missing(folder, monkeypatch):
    config = EXPERIMENT.grid("ci")[0]
    monkeypatch.setattr(cifar, "SHA256", "0" * 64)
    run = sweep.perform(EXPERIMENT.function, config)
    assert run.status == "failed"
    assert "SHA-256" in run.error
    (folder / datasets.CIFAR_SUBSET).unlink()
    run = sweep.perform(EXPERIMENT.function, config)
    assert run.status == "failed"
    assert "FLATMINIMA_DATA" in run.error


def test_fingerprint_tells_arrays_apart(folder):
    arrays = datasets.SOURCES[cifar.DATASET][0]()
    assert cifar.fingerprint(dict(reversed(arrays.items()))) == cifar.SHA256
    for name in arrays:
        altered = {**arrays, name: arrays[name].copy()}
        altered[name].flat[-1] ^= 1
        assert cifar.fingerprint(altered) != cifar.SHA256


def test_tool_takes_the_first_images_of_each_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "BATCH", 6)
    monkeypatch.setattr(tool, "KEPT", 2)
    whole = {}
    for part, images in (("train", 30), ("test", 6)):
        whole[f"x_{part}"], whole[f"y_{part}"] = noise(images, images)
    monkeypatch.setitem(datasets.SOURCES, "cifar10", (lambda: whole, datasets._CIFAR_CLASSES))
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))

    assert tool.main([]) == 1, "noise is not what the stored results were made with"
    monkeypatch.setattr(cifar, "SHA256", cifar.fingerprint(datasets.SOURCES[cifar.DATASET][0]()))
    assert tool.main([]) == 0
    arrays = datasets.SOURCES[cifar.DATASET][0]()
    first = [0, 1, 6, 7, 12, 13, 18, 19, 24, 25]
    for kind in "xy":
        assert np.array_equal(arrays[f"{kind}_train"], whole[f"{kind}_train"][first])
        assert np.array_equal(arrays[f"{kind}_test"], whole[f"{kind}_test"][:2])
