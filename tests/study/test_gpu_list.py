"""The list of runs for a lent machine: what it needs, its order, its end, and its tables."""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import time

import lent_examples
import numpy as np
import pyarrow as pa
import pytest
import torch
from lent_examples import Config

from flatminima import datasets
from flatminima.curvature import EmpiricalRisk
from study import ROOT, lent, results
from study.experiments import interventions, scale, throughput


def needs(*packages):
    """The distributions that some need, themselves among them."""
    found, waiting = set(), list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found.add(name)
            try:
                required = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [re.match(r"[\w.-]+", r)[0] for r in required if "extra ==" not in r]
    return found


def entries_of(distributions):
    """What some distributions have in the folder of installed packages."""
    for name in distributions:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.parts[0] not in ("..", "__pycache__"):
                place = file.locate().parents[len(file.parts) - 1] / file.parts[0]
                yield file.parts[0], place


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The list at toy size, made where there is nothing but PyTorch and NumPy: folder, output."""
    site, folder = (tmp_path_factory.mktemp(name) for name in ("site", "runs"))
    for name, place in dict(entries_of(needs("torch", "numpy"))).items():
        (site / name).symlink_to(place)
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "FLATMINIMA_RUNS": str(folder)}
    options = {"capture_output": True, "text": True, "cwd": site, "env": environment}
    # Without the installed packages, and so are the processes that it starts.
    python = [sys.executable, "-S"]
    for missing in ("scipy", "pyarrow", "pooch", "requests", "tqdm", "matplotlib"):
        absent = subprocess.run([*python, "-c", f"import {missing}"], check=False, **options)
        assert "ModuleNotFoundError" in absent.stderr, missing
    command = ["-m", "study.experiments", "--preset", "ci", "--minutes", "20"]
    done = subprocess.run([*python, *command], check=False, **options)
    assert done.returncode == 0, done.stderr
    return folder / "list", done.stdout


def test_the_list_needs_nothing_but_torch_and_numpy(bare):
    _, said = bare
    listed = lent.entries("ci")
    runs = sum(len(entry.configs) for entry in listed)
    assert f"{runs} runs made, {runs} are stored, 0 of the list are left" in said
    for entry in listed:
        (line,) = [line for line in said.splitlines() if line.startswith(f"{entry.name}: ")]
        assert line.count("done in") == len(entry.configs), line


def test_what_is_made_is_not_made_again(bare):
    folder, _ = bare
    before = (folder / "runs.sqlite").stat().st_mtime_ns
    said = []
    counts = lent.work("ci", 1, folder=folder, say=said.append)
    runs = sum(len(entry.configs) for entry in lent.entries("ci"))
    assert (counts["before"], counts["now"], counts["left"]) == (runs, runs, 0)
    assert said == []
    assert (folder / "runs.sqlite").stat().st_mtime_ns == before


def test_tables_are_made_at_home(bare, tmp_path):
    folder, _ = bare
    speed, found = lent.tabulate("ci", [folder], out=tmp_path)
    again = results.load("scale", "ci", folder=tmp_path)
    assert again.table.equals(found.table)
    assert set(found["status"]) == {"done"}
    assert "left" not in found.provenance
    assert set(found["study"]) == set(scale.STUDIES)
    measured = set(found.columns) - {f.name for f in dataclasses.fields(scale.Config)}
    assert measured - set(scale.TOLERANCES) == {*results.OWN}
    for name in throughput.PRECISIONS:
        for what in ("steps", "products", "eigenvalue_error", "product_error"):
            values = speed[f"{what}_{name}"]
            if name == "tf32":
                assert np.isnan(values).all(), "no processor has it"
            else:
                assert all(np.all(np.isfinite(v)) for v in values)
    assert np.all(speed["product_error_float32"] < 1e-4)
    assert np.all(speed["product_error_bfloat16"] > 1e-4)
    assert np.isfinite(speed["steps_compiled"]).sum() == 1


def test_a_table_of_part_of_the_list_says_what_is_left(bare, tmp_path):
    folder, _ = bare
    codes = json.loads((folder / lent.CODES).read_text(encoding="utf-8"))
    part = tmp_path / "part"
    part.mkdir()
    for file in folder.glob("runs.sqlite*"):
        (part / file.name).write_bytes(file.read_bytes())
    codes["scale"]["version"] = "of another day"
    codes.pop("throughput")
    (part / lent.CODES).write_text(json.dumps(codes), encoding="utf-8")
    (found,) = lent.tabulate("ci", [part], out=tmp_path / "results")
    assert found.provenance["name"] == "scale"
    assert found.provenance["code"] == "of another day"
    assert found.provenance["revision"] is None
    with pytest.raises(ValueError, match="there is no run of throughput"):
        lent.tabulate("ci", [part], ["throughput"], out=tmp_path / "results")
    with pytest.raises(FileNotFoundError):
        lent.tabulate("ci", [tmp_path], out=tmp_path / "results")


# The end of the time, with runs that take as long as they say


@pytest.fixture
def listing(monkeypatch, tmp_path):
    """Work off a list of these configs for some seconds; the counts, the lines, and the seconds."""

    def work(configs, seconds, **options):
        example = lent_examples.experiment(*configs)
        monkeypatch.setattr(results, "experiment", lambda name: example)
        said, began = [], time.monotonic()
        options = {"folder": tmp_path / "runs", "say": said.append, **options}
        counts = lent.work("ci", seconds / 60, ["example"], **options)
        return counts, said, time.monotonic() - began

    return work


def test_the_time_cuts_the_list_and_what_has_ended_is_kept(listing, tmp_path):
    configs = [Config("quick", c, 0) for c in (0.5, 2.0)] + [Config("endless", 0.5, 0, 600.0)]
    configs.append(Config("after", 0.5, 0))
    listing(configs[:2], 600)
    counts, said, took = listing(configs, 10)
    assert (counts["before"], counts["now"], counts["left"]) == (2, 2, 2)
    assert said == ["example endless seed 0: given up, the time is up"]
    assert took < 300, "on a busy machine, too, far from the 600 s of the run"
    # What was given up is nobody's; without it the list goes on where it was.
    rest = [config for config in configs if config.kind != "endless"]
    counts, said, _ = listing(rest, 600)
    assert (counts["before"], counts["now"], counts["left"]) == (2, 3, 0)
    assert len(said) == 1
    assert said[0].startswith("example after seed 0: 0.5 done in ")
    (found,) = lent.tabulate("ci", [tmp_path / "runs"], ["example"], out=tmp_path / "results")
    assert found["kind"].tolist() == ["quick", "quick", "after"]
    listing(configs, 600e-9)
    (found,) = lent.tabulate("ci", [tmp_path / "runs"], ["example"], out=tmp_path / "results")
    assert found.provenance["left"] == 1


def test_no_time_makes_nothing(listing):
    counts, said, _ = listing([Config("quick", 0.5, 0)], 0)
    assert counts == {"before": 0, "now": 0, "left": 1}
    assert said == []


def test_what_will_not_fit_is_not_begun_and_what_fits_is(listing):
    first = [Config("slow", c, 0, 1.5) for c in (0.5, 2.0)]
    listing(first, 600)
    second = [Config("slow", c, 1, 1.5) for c in (0.5, 2.0)]
    quick = [Config("quick", 0.5, 1)]
    # Of the pair either run would fit into what is left, and the two will not.
    counts, said, _ = listing([*first, *second, *quick], 2.9)
    assert re.fullmatch(r"example slow seed 1: 3 s will not fit into [0-3] s", said[0])
    assert counts["now"] in (2, 3)
    counts, said, _ = listing([*first, *second, *quick], 600)
    assert counts["left"] == 0


def test_a_run_that_fails_is_told_and_not_repeated_unless_asked(listing):
    broken, fine = Config("broken", 0.5, 0), Config("quick", 0.5, 0)
    counts, said, _ = listing([broken, fine], 600)
    assert (counts["now"], counts["left"]) == (2, 0)
    assert "failed" in said[0]
    assert "RuntimeError: it does not work" in said[0]
    assert listing([broken, fine], 600)[1] == []
    _, said, _ = listing([broken, fine], 600, retry_failed=True)
    assert len(said) == 1
    assert "it does not work" in said[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_begun(listing, tmp_path):
    with pytest.raises(RuntimeError, match="needs a GPU"):
        listing([Config("quick", 0.5, 0, device="cuda")], 600)
    assert not (tmp_path / "runs").exists()


def test_runs_whose_data_are_missing_are_passed_over(monkeypatch):
    def absent(*_, **__):
        raise datasets.DataUnavailableError("nowhere")

    monkeypatch.setattr(datasets, "load", absent)
    lent._missing.cache_clear()
    assert lent._missing("cifar10-subset") == "its data are missing: nowhere"
    assert lent._missing("prose") == ""
    lent._missing.cache_clear()


# The order


@pytest.mark.parametrize("preset", ["ci", "default", "gpu"])
def test_what_is_compared_is_made_together(preset):
    found = lent.entries(preset)
    grids = [results.experiment(name).grid(preset) for name in lent.LISTED]
    assert [c for entry in found for c in entry.configs] == list(itertools.chain(*grids))
    for entry in found:
        if entry.experiment.name == "scale":
            (study,) = {config.study for config in entry.configs}
            factors = tuple(config.factor for config in entry.configs)
            assert factors == scale.FACTORS.get(study, (scale.STABLE, scale.UNSTABLE))
            assert len({config.seed for config in entry.configs}) == 1
    assert len({entry.name for entry in found}) == len(found)


def test_the_list_is_in_the_order_of_its_worth():
    found = lent.entries("gpu")
    assert {config.device for entry in found for config in entry.configs} == {"cuda"}
    kinds = [(e.experiment.name, e.configs[0]) for e in found]
    parts = [(c.study, c.model) if name == "scale" else name for name, c in kinds]
    order = list(dict.fromkeys(parts))
    assert order == [
        "throughput",
        ("flatness", scale.VGG),
        ("edge", scale.VGG),
        ("rotation", scale.VGG),
        ("interventions", scale.VGG),
        ("flatness", scale.RESNET),
        ("edge", scale.RESNET),
        ("flatness", "mlp"),
        ("edge", "transformer"),
        ("flatness", "vgg"),
    ]
    first = [c for name, c in kinds if name == "scale" and (c.study, c.model) == parts[6]]
    assert {c.n_train for c in first} == {5000}
    for loss in scale.LOSSES:
        assert [c.seed for c in first if c.loss == loss][:5] == list(range(5))


def test_the_transformer_of_the_gpu_has_a_million_parameters_or_more():
    (config,) = {
        c
        for c in scale.grid("gpu")
        if c.model == "transformer" and c.seed == 0 and c.factor == scale.NEAR
    }
    risk, _ = scale.problem(dataclasses.replace(config, device="cpu"))
    assert 1e6 < risk.size < 1e7


# The experiments of the list


@pytest.fixture(scope="module")
def settled():
    config = throughput.grid("ci")[0]
    return config, *throughput.settled(config)[:2]


def test_a_precision_ends_with_its_block(settled):
    _, risk, _ = settled
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for name in throughput.PRECISIONS:
        with throughput.precision(name, risk) as same:
            assert [flag.allow_tf32 for flag in flags] == [name == "tf32"] * 2
            assert (same is risk) == (name != "bfloat16")
            assert all(a is b for a, b in zip(same.parameters, risk.parameters, strict=True))
        assert [flag.allow_tf32 for flag in flags] == before


def test_lower_precision_is_in_the_products_too():
    x = torch.full((1, 1), 1 + 2**-12)
    risk = EmpiricalRisk(torch.nn.Linear(1, 1, bias=False), "mse", (x, 0 * x))
    with throughput.precision("bfloat16", risk) as rough:
        # Eight bits of mantissa leave 1 of this input, and of its square, the Hessian.
        assert throughput.products(rough, torch.ones(1, 1)).tolist() == [[1.0]]
    exact = throughput.products(risk, torch.ones(1, 1)).item()
    assert exact == pytest.approx((1 + 2**-12) ** 2, rel=1e-6)


def test_without_a_compiler_the_plain_model_will_do():
    config = throughput.grid("ci")[-1]
    values = throughput.run(dataclasses.replace(config, backend="no_such_backend"))
    assert values["steps_compiled"] is values["compile_seconds"] is None
    assert "no_such_backend" in values["compile_error"]
    assert values["steps_float32"] > 0
    assert throughput.part(config)["parameters"] == values["parameters"]


SEEDS = range(4)


def planted(flat=0.7, level=1.05, turn=3.0, within=0.05, across=0.95):
    """A table in which the unstable runs differ by these factors, or keep these shares."""
    rows = []
    base = {"model": "half-vgg", "loss": "mse", "status": "done"}
    for seed, small in itertools.product(SEEDS, (0, 1)):
        noise = 1 + 0.01 * seed + 0.003 * small * seed
        where = base | {"seed": seed, "factor": (scale.STABLE, scale.UNSTABLE)[small]}
        value = (1.0, flat)[small] * noise
        row = {"study": "flatness", "reached": True, "sharpness": value, "test_accuracy": 0.4}
        rows.append(where | row)
        row = {
            "study": "rotation",
            "space_turn": (0.1, 0.1 * turn)[small] * noise,
            "dimension": 2.0,
        }
        rows.append(where | row)
        where["factor"] = scale.FACTORS["edge"][small]
        rows.append(
            where | {"study": "edge", "level": 2 * level * noise / 0.1, "learning_rate": 0.1}
        )
    for seed in SEEDS:
        kept = {"stable": 0.0, "descent": 1.0, "within": within, "across": across}
        row = base | {"study": "interventions", "seed": seed, "factor": 1.5}
        for arm, share in kept.items():
            value = np.exp(-share * (0.4 + 0.01 * seed))
            row |= {f"reached_{arm}": True, f"sharpness_{arm}": value}
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return results.Result(pa.table({n: [row.get(n) for row in rows] for n in names}), {})


def test_planted_effects_are_found_and_their_absence_too():
    found = scale.effects(planted())
    assert found["flatter-half-vgg-mse"].value == pytest.approx(np.log(0.7), abs=0.02)
    assert found["within-half-vgg-mse"].value == pytest.approx(0.05)
    held = scale.predictions(planted())
    assert set(held) == {f"{what}-half-vgg-mse" for what in ("flatter", "level", "turns", "across")}
    assert all(held.values())
    for what, absent in {
        "flatter": {"flat": 1.0},
        "level": {"level": 1.4},
        "turns": {"turn": 1.0},
        "across": {"within": 0.5},
    }.items():
        now = scale.predictions(planted(**absent))
        assert [name for name, value in now.items() if not value] == [f"{what}-half-vgg-mse"]
    assert not scale.predictions(planted(across=0.5))["across-half-vgg-mse"]


def test_what_has_too_few_seeds_or_half_a_pair_is_left_out():
    whole = planted()
    assert scale.effects(whole.where(seed=1)) == {}
    assert not any(n.startswith("flatter") for n in scale.effects(whole.where(factor=scale.STABLE)))
    assert interventions.ARMS.keys() >= {"within", "across"}
