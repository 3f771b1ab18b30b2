"""The experiment `labels`: its pairs, its power, and that it and its claim can fail."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from study import claims, results
from study.claims import verdicts
from study.experiments import gain, labels, power

STORED = [preset for preset, name in results.stored() if name == "labels"]
PLACES = list(labels.SPREAD)


def test_every_value_has_a_tolerance_and_both_stretches_leave_from_the_same_weights():
    config = next(c for c in labels.grid("ci") if c.label_noise)
    small = {"n_train": 60, "width": 8, "start_loss": 0.5, "target_loss": 0.4, "large_steps": 60}
    values = labels.run(dataclasses.replace(config, **small))
    assert set(values) == set(labels.EXPERIMENT.tolerances)
    # The first probe of a stretch is at its start: eta lambda_1 / 2 is c there, to the tolerance of
    # that probe.
    assert values["highest-2"] > 0.98 * 2
    assert 0.98 * 0.5 < values["highest-0.5"] < 1
    assert values["rises-0.5"] == 0


def test_the_seeds_are_new_paired_and_as_many_as_the_spread_asks():
    used = {c.seed for c in gain.grid("default")}
    grid = labels.grid("default")
    for dataset, loss in PLACES:
        here = [c for c in grid if (c.dataset, c.loss) == (dataset, loss)]
        wrong, right = ({c.seed for c in here if c.label_noise == s} for s in (0.2, 0.0))
        assert wrong == right
        assert not wrong & used
        assert len(wrong) == power.seeds_needed(labels.SPREAD[dataset, loss])
    assert {c.device for c in labels.grid("gpu")} == {"cuda"}
    assert all(c.model == "tanh" and not c.pilot for c in grid)


def first_seeds(dataset, loss):
    """The seeds of `gain` that its pilot asked for, which is all that there was then."""
    counts = [power.FIRST.get((dataset, loss, share), gain.MOST) for share in (0.0, 0.2)]
    return range(min(counts))


@pytest.mark.skipif(("default", "gain") not in results.stored(), reason="needs the stored runs")
def test_the_spreads_are_those_of_the_first_seeds_of_the_gains():
    stored = results.load("gain", "default").where(pilot=False, model="tanh")
    found = labels.differences(stored)
    for dataset, loss in PLACES:
        # A seed without a pair would shift those after it.
        kept = found[f"{dataset}-{loss}"][: len(first_seeds(dataset, loss))]
        assert labels.SPREAD[dataset, loss] == pytest.approx(kept.std(ddof=1), abs=5e-7)


NOISE = np.random.default_rng(0).normal(0, 1e-3, (20, 2, 2))
NOISE -= NOISE.mean(axis=0)


def table(more, reached=lambda seed, share, c: True):
    """A stored result in which wrong labels add so much to a gain of 0.01."""
    rows = []
    for dataset, loss in PLACES:
        for seed in range(100, 120):
            for share in (0.0, 0.2):
                row = {"dataset": dataset, "loss": loss, "seed": seed, "label_noise": share}
                row |= {"status": "done"}
                for k, c in enumerate(labels.FACTORS):
                    there = reached(seed, share, c)
                    after = (
                        0.5
                        + k * (0.01 + (more if share else 0.0))
                        + NOISE[seed - 100, int(share > 0), k]
                    )
                    row |= {f"reached-{c:g}": there, f"accuracy-{c:g}": after if there else None}
                rows.append(row)
    return results.Result(pa.Table.from_pylist(rows), {"preset": "default", "devices": ["a CPU"]})


def test_effects_are_those_that_were_put_in():
    found = labels.effects(table(0.007))
    assert set(found) == {f"more-{dataset}-{loss}" for dataset, loss in PLACES}
    for value in found.values():
        assert value.value == pytest.approx(0.007, abs=1e-12)


def test_a_seed_that_misses_one_end_has_no_part():
    missing = table(0.007, lambda seed, share, c: not (seed == 103 and share and c == 2))
    assert {len(v) for v in labels.differences(missing).values()} == {19}
    few = table(0.007, lambda seed, share, c: seed < 102)
    assert not labels.effects(few), "two seeds make no interval"


def judged(stored):
    def load(name, preset):
        if (name, preset) != ("labels", "default"):
            raise results.MissingResultError(name)
        return stored

    claim = next(claim for claim in claims.CLAIMS if claim.key == "wrong-labels")
    return claims.judge(claim, claims.Evidence({}, load=load))


def test_the_claim_can_be_met_and_missed():
    assert judged(table(0.007)).verdict == verdicts.REPRODUCED
    assert judged(table(-0.007)).verdict == verdicts.CONTRADICTED
    assert judged(table(0.0)).verdict == verdicts.EXCLUDED
    assert len(judged(table(0.007)).effects) == 4
    assert not any(labels.predictions(table(-0.007)).values())


@pytest.mark.skipif("default" not in STORED, reason="needs the stored runs")
def test_the_stored_seeds_are_those_of_the_grid():
    stored = results.load("labels", "default")
    assert set(stored["seed"]) == {c.seed for c in labels.grid("default")}
