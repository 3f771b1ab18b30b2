"""What the live figures say in words, against what the library says of the same runs."""

import re

import numpy as np
import pytest
from browsing import set_viewport, settle
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from test_live_controls import media, opened  # noqa: F401
from test_live_figures import Figure, book, driver, scripts  # noqa: F401

from flatminima.theory import instability, maps, quadratic
from flatminima.theory.scalar_network import ScalarNetwork

pytestmark = pytest.mark.browser
network = ScalarNetwork(2, 1.0)


def text(number, digits=3):
    """A number as the pages write it."""
    return f"{float(f'{number:.{digits}g}'):g}".replace("-", "−")


def starts(figure):
    """Go through the presets, each to its end; yields name, values and verdict."""
    for button in figure.all(".pg-presets button"):
        figure.show(button)
        button.click()
        figure.end()
        yield button.text, figure.values(), figure.said()[1]


def test_threshold(opened):  # noqa: F811
    said = {}
    for name, values, verdict in starts(figure := opened("threshold")):
        path = quadratic.descend(np.diag([1.0, 0.3]), [values["x"], values["y"]], values["eta"], 20)
        np.testing.assert_allclose(figure.state("path"), path, rtol=1e-10, atol=1e-14)
        said[name] = verdict.split(":")[0]
        grows = abs(path[-1, 0]) > abs(path[0, 0]) * 1.001
        assert verdict.startswith("Unstable") == grows
        assert ("oscillating" in verdict) == (1 < values["eta"] < 2)
    assert list(said.values()) == [
        "Stable and monotone", "Stable and oscillating", "At the edge", "Unstable"
    ]  # fmt: skip


def test_bifurcation_is_dragged_past_the_threshold(opened):  # noqa: F811
    figure = opened("bifurcation")
    canvas = figure.all("canvas")[0]
    figure.show(canvas)
    seen = set()
    for share in (0.15, 0.4, 0.75):
        place = int((share - 0.5) * canvas.size["width"])
        ActionChains(figure.driver).move_to_element_with_offset(canvas, place, 0).click().perform()
        settle(figure.driver)
        values = figure.values()
        late = maps.orbit(maps.quartic(1.0, -1.0), values["x"], values["eta"], 4127, 128)
        period = int(maps.cycle_length(late))
        verdict = figure.said()[1]
        words = {0: "no period", 1: "settles on x = 0", 2: "a cycle of 2", 4: "a cycle of 4"}
        assert words[period] in verdict
        seen.add(period)
    assert {1, 2} <= seen


@pytest.mark.parametrize("name", ["start", "polarity", "reflection", "phase"])
def test_ends_of_the_network_of_two_weights(opened, name):  # noqa: F811
    figure = opened(name)
    seen = set()
    for _, values, verdict in starts(figure):
        a, b = figure.script("const {run} = page.state(); return [run.a[0], run.b[0]]")
        last = figure.state("run.last")
        run = network.descend([a, b], values["eta"], last + (1 if "iverged" in verdict else 0))
        seen.add(verdict.split(":")[0])
        if verdict.startswith("Diverged"):
            assert network.escape_margin([a, b], values["eta"]) < 0
            continue
        before, after = (float(network.minimum_sharpness(run.theta[t])) for t in (0, -1))
        assert f"from sharpness {text(before)} to {text(after)}" in verdict or "moving" in verdict
        if verdict.startswith("An instability") and "predicts" in verdict:
            law = instability.reflected_sharpness(before, values["eta"])
            assert f"predicts {text(float(law))}" in verdict
        if name == "start":
            assert f"minimum ahead {text(after)}, at the start {text(before)}" in figure.said()[0]
    assert len(seen) > 1


def test_polarity_says_to_which_side_v1_turns(opened):  # noqa: F811
    figure = opened("polarity")
    toward = set()
    for step in range(1, 30):
        figure.find(".pg-player input").send_keys(Keys.ARROW_RIGHT)
        settle(figure.driver)
        r, k, angle = figure.script(
            "const {run} = page.state(), t = page.at();"
            " return [run.residual[t], run.kappa[t], run.angle[t]]"
        )
        status = figure.said()[0]
        assert status.startswith(f"Step {step} of 50")
        resting = float(network.angle(network.at(0.0, k)))
        off = np.degrees(angle - resting)
        if abs(off) < 0.05:
            assert "as at the minimum ahead" in status
            continue
        # The theorem: toward the balanced diagonal where the output overshoots.
        assert (off > 0) == (r > 0)
        assert ("toward the balanced diagonal" in status) == (r > 0)
        assert ("away from the balanced diagonal" in status) == (r < 0)
        assert f"turned {text(abs(off), 2)}°" in status
        toward.add(r > 0)
    assert toward == {True, False}


def test_phase_says_what_the_map_shows(opened):  # noqa: F811
    figure = opened("phase")
    kinds = {}
    for name, values, verdict in starts(figure):
        start = network.at(0.01, np.sqrt(values["s"] ** 2 - 4))
        run = network.descend(start, values["eta"], 6000)
        settled = not run.diverged and abs(run.residual[-1]) * values["eta"] < 1e-9
        end = float(network.minimum_sharpness(run.theta[-1])) if settled else np.nan
        what = verdict.split("In the map this start ")[1]
        assert (what == "diverges.") == bool(run.diverged)
        assert (what == "does not settle.") == (not run.diverged and not settled)
        if settled:
            assert (what == "keeps its sharpness.") == (end > 0.98 * values["s"])
            assert (what == "ends next to the flattest.") == (end < 1.05 * 2)
        kinds[name] = what
    assert set(kinds.values()) == {
        "ends flatter.", "keeps its sharpness.", "ends next to the flattest.", "diverges.",
        "does not settle.",
    }  # fmt: skip


def test_reflection_runs_along_its_circle(opened):  # noqa: F811
    figure = opened("reflection")
    figure.end()
    eta = figure.values()["eta"]
    x, e, radius = figure.script(
        "const s = page.state(); return [[...s.residuals], [...s.excess], s.radius]"
    )
    edge = network.at(0.0, np.sqrt(4 / eta**2 - 4))
    c = float(network.stabilization(edge, eta))
    run = network.descend(
        figure.script("const {run} = page.state(); return [run.a[0], run.b[0]]"), eta, 80
    )
    np.testing.assert_allclose(np.abs(x), np.sqrt(c) * np.abs(run.residual), rtol=0, atol=1e-10)
    np.testing.assert_allclose(e, network.minimum_sharpness(run.theta) - 2 / eta, atol=1e-10)
    assert radius == pytest.approx(np.hypot(x[0], e[0]))
    # To second order the end lies 4/3 of the relative excess beyond the circle, as a part of its
    # radius (D8, at small eta y); twice the excess leaves room for the third.
    assert np.abs(np.hypot(x, e) / radius - 1).max() < 2 * (e[0] * eta / 2)
    assert e[-1] < 0 < e[0]


def test_portrait_says_which_way_the_orbit_goes(opened):  # noqa: F811
    figure = opened("portrait")
    ways = {}
    for name, values, verdict in starts(figure):
        run = instability.coupled_dynamics(
            values["x"], values["e"], 1.0, values["alpha"], values["beta"], 300, values["q"]
        )
        assert ("escapes" in verdict) == bool(run.diverged)
        if values["alpha"] and not run.diverged:
            kept = [
                e**2 + values["beta"] * x**2 / 2 - 2 * values["alpha"] * np.log(abs(x))
                for x, e in ((run.x[t], run.excess[t]) for t in (0, -1))
            ]
            assert ("outward" in verdict) == (kept[1] > kept[0])
            assert ("attracts" in verdict) == (values["q"] < -3 * values["beta"])
        ways[name] = next(
            w for w in ("outward", "inward", "changed its sign", "escapes") if w in verdict
        )
    assert ways["Sharpening"] == "outward"
    assert ways["Held by q"] == "inward"
    assert ways["One reflection"] == "changed its sign"


def test_adam_says_how_high_the_loss_rises(opened):  # noqa: F811
    figure = opened("adam")
    for name, _, verdict in starts(figure):
        for arm, words in (("free", "Adam peaks at loss"), ("held", "held it peaks at loss")):
            diverged = figure.state(f"{arm}.diverged")
            assert (words in verdict) != diverged
            if diverged:
                assert "diverges" in verdict
                continue
            high = max(figure.script(f"return [...page.state().{arm}.loss]"))
            if high > 1e-3:
                assert f"{words} {text(high)}" in verdict
        free, held = (figure.script(f"return [...page.state().{a}.loss]") for a in ("free", "held"))
        if name == "Past the threshold":
            assert max(held) > 10 * max(free)
        if name == "Below the threshold":
            assert figure.state("free.edge[0]") < 1


def test_arms_say_which_of_them_come_down(opened):  # noqa: F811
    figure = opened("arms")
    for name, _, verdict in starts(figure):
        arms = figure.script(
            """const {arms, on, eta, steps} = page.state();
            return on.map((n) => [n, arms[n].sharpness[steps] * eta / 2])"""
        )
        below = verdict.split("Above it")[0] if "Below" in verdict else ""
        for arm, end in arms:
            assert (arm in {"control", "across", "drift"}) == (end < 1), "as in the chapter"
            assert (f"({text(end)})" in below) == (end < 1)
        if name == "All arms":
            assert len(arms) == 5
    boxes = [b for b in figure.all("input[type=checkbox]") if b.is_selected()]
    for box in boxes:
        box.click()
    settle(figure.driver)
    assert figure.said()[1] == "Switch on an arm."


def test_network_is_trained_in_a_worker_at_the_rate_that_is_set(opened):  # noqa: F811
    figure = opened("network")
    figure.until(figure.rests)
    figure.find(".pg-primary").click()
    figure.until(lambda: figure.at() > 12)
    presets = figure.all(".pg-presets button")
    presets[1].click()
    changed = figure.at()
    figure.until(lambda: figure.at() > changed + 12)
    figure.find(".pg-primary").click()
    figure.until(figure.rests)
    etas = figure.script("return [...page.history().column('eta')]")
    assert list(dict.fromkeys(etas)) == [0.5, 0.25]
    sharpness = figure.script("return page.history().last('lambda1')")
    settle(figure.driver)
    assert "Stable: the sharpness is below" in figure.said()[0]
    assert sharpness < 8
    words = figure.all("canvas")[0].get_attribute("aria-label")
    assert re.search(r"threshold 8\b", words)


def test_less_motion_trains_more_slowly(driver, book):  # noqa: F811
    media(driver, prefers_reduced_motion="reduce")
    set_viewport(driver, 1440, 1200)
    figure = Figure(driver, book / "network.html")
    figure.until(figure.rests)
    figure.find(".pg-primary").click()
    figure.until(lambda: figure.at() >= 2)
    figure.find(".pg-primary").click()
    media(driver)
    assert figure.errors() == []
