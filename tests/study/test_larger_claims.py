"""The verdicts on other networks and on rotation against chance change with their evidence."""

import pyarrow as pa
import pytest

from study import claims, results
from study.claims import Evidence, verdicts
from study.experiments import rotation

BY_KEY = {claim.key: claim for claim in claims.CLAIMS}
TURNS = ("v1", "followed", "space")


def judged(key, name=None, change=None):
    """A claim by the stored runs, each row of one experiment changed."""

    def load(asked, preset):
        if preset != "default":
            raise results.MissingResultError(f"no {preset}")
        stored = results.load(asked, "default")
        if asked != name:
            return stored
        rows = [{**row, **change(row)} for row in stored.table.to_pylist()]
        return results.Result(pa.Table.from_pylist(rows), stored.provenance)

    return claims.judge(BY_KEY[key], Evidence({}, {}, load))


def without_episodes(row):
    """What the nulls of a run measured, in the place of its episodes."""
    found = {}
    for measure in TURNS:
        found[measure] = row[f"{measure}_stable"]
        found[f"{measure}_paired"] = row[f"{measure}_quiet"]
    return found | {"change": row["change_stable"]}


@pytest.mark.parametrize("measure", TURNS)
def test_turns_no_larger_than_those_of_the_nulls_are_not_reproduced(measure):
    finding = judged(f"episode-{measure}", "rotation", without_episodes)
    assert not any(effect.met for effect in finding.effects)
    assert finding.verdict == verdicts.UNDECIDED


def test_an_episode_that_does_not_flatten_contradicts():
    effects = judged("episode-flattens", "rotation", without_episodes).effects
    found = [e.verdict for e in effects if "an episode" in e.what]
    assert found[:2] == 2 * [verdicts.CONTRADICTED], (
        "the MLP and the CNN, with five and three seeds"
    )
    assert verdicts.REPRODUCED not in found
    assert {e.verdict for e in effects if "stable" in e.what} <= {
        verdicts.REPRODUCED, verdicts.UNDECIDED
    }  # fmt: skip


def test_a_direction_that_stays_is_no_exchange_and_a_random_one_none_either():
    stays = judged("episode-exchange", "rotation", lambda row: {"v1": row["v1"] and 0.0})
    assert stays.verdict == verdicts.PARTLY, "the share of the space is as it was"

    def random(row):
        if row["v1"] is None:
            return {}
        chance = (1 + 0.2 * (row["seed"] % 3 - 1)) / row["parameters"]
        return {"inside": rotation.LEADING * chance, "v1": 1 - chance * (1 + 0.1 * row["rate"])}

    assert not any(e.met for e in judged("episode-exchange", "rotation", random).effects)


def test_turns_that_do_not_depend_on_the_rate_are_no_trend():
    def alike(row):
        return {m: row[m] and 0.5 + 0.01 * row["seed"] for m in ("v1", "space")}

    assert not any(e.met for e in judged("episode-rates", "rotation", alike).effects)


def test_levels_apart_from_the_threshold_are_told():
    near = judged("edge-elsewhere")
    assert all(e.met for e in near.effects if "transformer" not in e.what)

    def lower(row):
        names = [name for name in ("level", "end_sharpness") if name in row]
        return {name: row[name] and 0.3 * row[name] for name in names}

    for name in ("larger", "rotation"):
        finding = judged("edge-elsewhere", name, lower)
        own = [e for e in finding.effects if ("transformer" in e.what) == (name == "rotation")]
        assert own
        assert {e.verdict for e in own} == {verdicts.CONTRADICTED}


def test_sharpening_that_does_not_grow_with_depth_is_told():
    assert judged("depth").verdict == verdicts.REPRODUCED

    def alike(row):
        return {"sharpening": 2.0 + 0.1 * ((7 * row["seed"] + 3 * row["depth"]) % 5)}

    assert judged("depth", "larger", alike).verdict != verdicts.REPRODUCED
