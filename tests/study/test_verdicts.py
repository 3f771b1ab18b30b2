"""What a verdict is: what an interval decides, and what several verdicts say together."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flatminima.statistics import Interval
from study import claims
from study.claims import Effect, Evidence, MissingEvidenceError, verdicts


def effect(met: bool) -> Effect:
    return Effect("something", "1", met)


def test_verdict_follows_the_effects():
    assert verdicts.verdict([effect(True), effect(True)]) == verdicts.REPRODUCED
    assert verdicts.verdict([effect(True), effect(False)]) == verdicts.PARTLY
    assert verdicts.verdict([effect(False)]) == verdicts.NOT
    with pytest.raises(MissingEvidenceError, match="at least one"):
        verdicts.verdict([])


def test_an_effect_knows_whether_an_interval_decided_it():
    assert not effect(True).by_interval
    assert Effect("something", "1", claims.decided(Interval(1.0, 0.5, 1.5))).by_interval


def test_a_gain_is_judged_and_drawn_as_it_is_told():
    gain = claims.gained("something", Interval(0.004, -0.001, 0.009), joint=True)
    assert gain.value == "+0.4 [−0.1, +0.9] points"
    assert (gain.verdict, gain.joint) == (verdicts.UNDECIDED, True)
    assert (gain.unit, gain.interval) == (claims.ACCURACY, Interval(0.004, -0.001, 0.009))
    assert claims.gained("x", Interval(0.001, -0.001, 0.002)).verdict == verdicts.EXCLUDED
    assert claims.gained("x", Interval(-0.01, -0.02, -0.004), above=False).met


def test_a_fall_of_the_sharpness_is_drawn_below_zero():
    fall = claims.fallen("something", Interval(0.7, 0.5, 0.9))
    assert (fall.value, fall.verdict) == ("0.70 [0.50, 0.90]", verdicts.REPRODUCED)
    assert (fall.unit, fall.interval) == (claims.SHARPNESS, Interval(-0.7, -0.9, -0.5))


@pytest.mark.parametrize(
    ("low", "high", "smallest", "verdict"),
    [
        (0.001, 0.5, 0.3, verdicts.REPRODUCED),  # above zero, if perhaps not by much
        (-0.5, -0.001, 0.3, verdicts.CONTRADICTED),
        (-0.5, 0.29, 0.3, verdicts.EXCLUDED),
        (-0.5, 0.31, 0.3, verdicts.UNDECIDED),
        (-0.5, 0.29, None, verdicts.UNDECIDED),
        # Ends on the bound decide nothing, and neither does no width at all.
        (0.0, 0.5, None, verdicts.UNDECIDED),
        (-0.5, 0.0, None, verdicts.UNDECIDED),
        (0.0, 0.0, None, verdicts.UNDECIDED),
    ],
)
def test_an_interval_decides_by_the_side_it_lies_on(low, high, smallest, verdict):
    interval = Interval((low + high) / 2, low, high)
    assert claims.decided(interval, smallest=smallest) == verdict
    assert claims.decided(-interval, above=False, smallest=smallest) == verdict
    assert claims.decided(interval + 2, 2.0) == claims.decided(interval)


NUMBERS = st.integers(-64, 64).map(lambda n: n / 16)  # exact, so that shifts round nothing
SMALLEST = st.none() | st.integers(1, 32).map(lambda n: n / 16)


@st.composite
def nested(draw) -> tuple[Interval, Interval]:
    """An interval, and a wider one around it."""
    outer, low, high, last = sorted(draw(st.lists(NUMBERS, min_size=4, max_size=4)))
    return Interval((low + high) / 2, low, high), Interval((low + high) / 2, outer, last)


@given(nested(), NUMBERS, st.booleans(), SMALLEST)
def test_a_wider_interval_decides_no_more(pair, bound, above, smallest):
    narrow, wide = (claims.decided(i, bound, above=above, smallest=smallest) for i in pair)
    # What is contradicted is excluded too, so that a wider interval may say that instead.
    weaker = (verdicts.UNDECIDED, verdicts.EXCLUDED)
    allowed = {narrow, *weaker} if narrow == verdicts.CONTRADICTED else {narrow, weaker[0]}
    assert wide in allowed


@given(nested(), NUMBERS, SMALLEST)
def test_a_claim_and_its_opposite_are_never_both_reproduced(pair, bound, smallest):
    for interval in pair:
        up, down = (
            claims.decided(interval, bound, above=above, smallest=smallest)
            for above in (True, False)
        )
        assert (up == verdicts.REPRODUCED) == (down == verdicts.CONTRADICTED)
        # Without a smallest effect of interest nothing is excluded.
        assert smallest is not None or verdicts.EXCLUDED not in (up, down)


MANY = st.lists(st.sampled_from(claims.VERDICTS), max_size=7)


@given(MANY, st.randoms(use_true_random=False))
def test_several_verdicts_are_combined_in_any_order(several, random):
    mixed = random.sample(several, len(several))
    assert claims.combined(mixed) == claims.combined(several)


@given(MANY)
def test_what_is_not_tested_changes_no_verdict(several):
    assert claims.combined([*several, verdicts.UNTESTED]) == claims.combined(several)


@given(MANY)
@example([verdicts.REPRODUCED, verdicts.UNDECIDED])
def test_a_claim_is_reproduced_only_where_nothing_speaks_against_it(several):
    found = claims.combined(several)
    settled = set(several) - {verdicts.UNDECIDED, verdicts.UNTESTED}
    assert (found == verdicts.PARTLY) <= (verdicts.PARTLY in settled or len(settled) > 1)
    if found not in (verdicts.UNDECIDED, verdicts.UNTESTED):
        assert (found == verdicts.REPRODUCED) == (settled == {verdicts.REPRODUCED})
        open_ = several.count(verdicts.UNDECIDED)
        assert 2 * open_ < len(several) - several.count(verdicts.UNTESTED)


@pytest.mark.parametrize(
    ("several", "verdict"),
    [
        ((verdicts.REPRODUCED, verdicts.UNTESTED), verdicts.REPRODUCED),
        ((verdicts.REPRODUCED, verdicts.UNDECIDED), verdicts.UNDECIDED),
        ((verdicts.REPRODUCED, verdicts.REPRODUCED, verdicts.UNDECIDED), verdicts.REPRODUCED),
        ((verdicts.REPRODUCED, verdicts.UNDECIDED, verdicts.UNDECIDED), verdicts.UNDECIDED),
        ((verdicts.REPRODUCED, verdicts.NOT), verdicts.PARTLY),
        ((verdicts.REPRODUCED, verdicts.EXCLUDED), verdicts.PARTLY),
        ((verdicts.EXCLUDED, verdicts.CONTRADICTED), verdicts.EXCLUDED),
        ((verdicts.CONTRADICTED, verdicts.CONTRADICTED), verdicts.CONTRADICTED),
        ((verdicts.CONTRADICTED, verdicts.NOT), verdicts.NOT),
        ((verdicts.NOT, verdicts.NOT), verdicts.NOT),
        ((verdicts.UNDECIDED, verdicts.UNTESTED), verdicts.UNDECIDED),
        ((verdicts.UNTESTED,), verdicts.UNTESTED),
        ((), verdicts.UNTESTED),
    ],
)
def test_a_claim_is_judged_by_its_parts(several, verdict):
    assert claims.combined(several) == verdict


def test_every_verdict_can_be_reached():
    outcomes = [True, False, *(claims.decided(i, smallest=0.3) for i in (
        Interval(1, 0.5, 1.5), Interval(0, -1, 1), Interval(0, -0.1, 0.1), Interval(-1, -1.5, -0.5)
    ))]  # fmt: skip
    pairs = itertools.product([Effect("something", "1", o) for o in outcomes], repeat=2)
    untested = claims.judge(claims.Claim("new", 1, ("", ""), "", "", None), Evidence({}))
    found = {verdicts.verdict(pair) for pair in pairs} | {untested.verdict}
    assert found == set(claims.VERDICTS)


OUTCOMES = (verdicts.CONTRADICTED, verdicts.EXCLUDED, verdicts.UNDECIDED, verdicts.REPRODUCED)


@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4))
def test_what_needs_several_intervals_fails_with_any_of_them(outcomes):
    found = claims.every(*outcomes)
    assert found in outcomes
    assert (found == verdicts.REPRODUCED) == (set(outcomes) == {verdicts.REPRODUCED})
    assert (found == verdicts.CONTRADICTED) == (verdicts.CONTRADICTED in outcomes)
    assert (found == verdicts.UNDECIDED) <= (verdicts.EXCLUDED not in outcomes)
