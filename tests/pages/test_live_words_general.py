"""What the live figures of general losses, noise and momentum say, against the library."""

import re

import numpy as np
import pytest
from test_live_controls import opened  # noqa: F401
from test_live_figures import book, driver, scripts  # noqa: F401
from test_live_words import starts, text

from flatminima.theory import averaged, instability, label_noise, manifold, quadratic
from flatminima.theory.scalar_network import ScalarNetwork, residual_imbalance_dynamics

pytestmark = pytest.mark.browser
network = ScalarNetwork(2, 1.0)
NAMES = {
    "Nesterov's method": ("nesterov", "momentum"),
    "gradient descent": ("gd", None),
    "the heavy ball": ("heavy_ball", "momentum"),
    "frozen Adam": ("adam", "beta1"),
}


def test_methods_say_which_thresholds_are_passed(opened):  # noqa: F811
    seen = set()
    for name, values, verdict in starts(figure := opened("methods")):
        stable, unstable = re.fullmatch(
            r"(.*?\.) (Unstable.*|None is unstable\.)", verdict
        ).groups()
        for words, (method, key) in NAMES.items():
            extra = {key: values["beta"]} if key else {}
            limit = float(quadratic.stability_threshold(method, 1.0, **extra))
            side = stable if values["z"] < limit else unstable
            assert f"{words} (threshold {text(limit)})" in side
            path = quadratic.iterate(method, [[values["z"]]], [1.0], 1.0, 40, **extra)
            # No start is so near a threshold that forty steps would not tell.
            assert (np.abs(path[-3:]).max() < 1) == (values["z"] < limit), (name, method)
            place = list(NAMES).index(words)
            np.testing.assert_allclose(
                figure.state(f"arms[{place}].x[40]"), path[-1, 0], rtol=1e-9, atol=1e-12
            )
        seen.add(sum(f"{words} (" in stable for words in NAMES))
    assert seen == {0, 1, 2, 3, 4}


def test_turn_says_to_which_ground_two_steps_lead(opened):  # noqa: F811
    grounds = {}
    for name, values, verdict in starts(figure := opened("turn")):
        first, second, slope = values["z"], values["second"], values["slope"]
        x, y = values["x"], 0.0
        hessian = [[first, slope * x], [slope * x, second]]
        v = np.linalg.eigh(hessian)[1][:, -1]
        points = []
        for _ in range(40):
            x, y = x - first * x - slope * x * y, y - second * y - slope * x**2 / 2
            points.append((x, y))
        status = figure.said()[0]
        assert status.startswith("Step 40 of 40")
        if slope == 0:
            assert verdict.startswith("The sharpness has no slope")
            assert ("grows for ever" in verdict) == (first > 2)
            grounds[name] = "none"
            continue
        angle = text(np.degrees(np.arctan2(*(v * np.sign(v[0]))[::-1])))
        assert f"v₁ turns by {angle}° at x = {text(values['x'])} and by −{angle}° at −x" in verdict
        moved = points[1][1]
        assert f"move y by {text(moved)}, to {'flatter' if moved < 0 else 'sharper'}" in verdict
        end = 0.0 if abs(y) < 1e-9 else y
        assert f"At the end y = {text(end)}" in verdict
        grounds[name] = "flatter" if moved < 0 else "sharper"
    assert grounds["Past the threshold"] == "flatter"
    assert grounds["Below it, uphill"] == "sharper"
    assert grounds["No slope, no rotation"] == "none"


def test_minima_say_where_the_law_sends_the_run_and_what_rotation_paid(opened):  # noqa: F811
    sides = set()
    for _, values, verdict in starts(figure := opened("minima")):
        kind = ("linear", "tanh")[values["net"]]
        at_one = [1.0, 1 / np.tanh(1.0)] if values["net"] else [1.0, 1.0]
        model = manifold.layered_network((1, 1, 1), [[1.0]], kind).with_minimum_at(at_one)
        start, eta = [values["a"], values["b"]], values["eta"]
        path = model.descend(start, eta, 100)
        levels = manifold.minimum_frame(model, model.minimum_near(path)).eigenvalues[:, 0]
        before, after = levels[[0, -1]]
        law = float(manifold.reflected_end(model, start, eta))
        words = ["above" if level > 2 / eta else "below" for level in (before, after)]
        assert verdict.startswith(
            f"From sharpness {text(before)}, {words[0]} 2/η = {text(2 / eta)}, to {text(after)}, "
            f"{words[1]} it; by reflection to {text(law)}."
        )
        moved = abs(before - after) > 1e-3 * before
        assert ("squared angles" in verdict) == moved
        if moved:
            paid = np.sum(manifold.turns_toward_flat(model, path)[:-1] ** 2)
            assert f"add up to {text(paid)}" in verdict
            assert f"has lost {text(np.log(before / after))}" in verdict
        sides.add(tuple(words))
        assert figure.said()[0].startswith(
            f"Step 100 of 100: the minimum ahead has sharpness {text(after)}"
        )
    assert sides == {("above", "below"), ("below", "below")}


def test_sphere_says_what_is_above_and_how_far_it_has_come(opened):  # noqa: F811
    matrices = np.array(
        [
            [[[1.3, 0], [0, 0.7]], [[0.5, 0.8], [0.8, -0.5]]],
            [[[1, 0], [0, 0]], [[0, 0], [0, 1]]],
            [[[1, 0], [0, -1]], [[0, 0], [0, 0]]],
        ]
    )
    ends = {}
    for name, values, verdict in starts(opened("sphere")):
        A, start = matrices[values["kind"]], np.array([values["g1"], values["g2"]])
        tiny = values["x"] * np.array([0.8, 0.6])
        path = averaged.sphere_dynamics(A, start, tiny, 1.0, 900)
        levels = np.linalg.eigvalsh(np.einsum("tk,kab->tab", path.position, A))
        above = ("Neither direction", "One direction", "Both directions")[np.sum(levels[0] > 0)]
        assert verdict.startswith(f"{above} began above 2/η")
        radius, far = path.radius[0], np.linalg.norm(path.position[-1])
        rests = levels[-1, -1] <= 1e-3 * radius
        assert ("at the end none is" in verdict) == rests
        if rests:
            assert (
                f"distance {text(far)} from the center, on a sphere of radius {text(radius)}"
                in verdict
            )
            off = float(re.search(r"up to ([\d.]+) % of it", verdict)[1])
            assert off == pytest.approx(100 * abs(far / radius - 1), rel=0.06)
        else:
            assert f"by {text(levels[-1, -1])}" in verdict
            lowered = averaged.stabilizing_direction(A) is not None
            assert ("no position lowers both" in verdict) != lowered
        ends[name] = rests
    assert ends == {
        "Both above": True,
        "One above": True,
        "Two mirrors": True,
        "None lowers both": False,
    }


def test_width_says_that_all_widths_are_one(opened):  # noqa: F811
    for name, values, verdict in starts(figure := opened("width")):
        level = values["factor"] * 20
        r, kappa = residual_imbalance_dynamics(0.05, np.sqrt(level**2 - 4), 1.0, 0.1, 60)
        before, after = np.hypot(kappa[[0, -1]], 2)
        assert f"from sharpness {text(before)} to {text(after)}, with 2/η = 20" in verdict
        assert f"The {values['width']} neurons" in verdict
        assert "the same in every step, but for rounding" in verdict
        np.testing.assert_allclose(figure.state("run.residual"), r, rtol=0, atol=1e-9)
        assert figure.state("apart") < 1e-9
        assert (after < before - 1) == (name != "Stable")


def test_noise_says_what_has_flattened(opened):  # noqa: F811
    kinds = {}
    for name, values, verdict in starts(figure := opened("noise")):
        product, sigma = values["product"], values["sigma"]
        runs = figure.script("return page.state().all.runs.map(({a, b}) => [[...a], [...b]])")
        spent, left = [], []
        for a, b in np.array(runs):
            r = a * b - 1
            xi = (a[:-1] - a[1:]) / (0.1 * b[:-1]) - r[:-1]
            spent.append([np.sum((0.1 * r[:-1]) ** 2), np.sum((0.1 * xi) ** 2)])
            kappa = np.abs(b**2 - a**2)
            left.append(kappa[-1] / kappa[0])
        residual, noise = np.mean(spent, axis=0)
        assert f"residual has spent {text(residual)}, the noise itself {text(noise)}" in verdict
        assert f"{text(100 * np.mean(left))} % of the imbalance is left" in verdict
        if product < 1:
            rate = label_noise.flattening_rate(20 * product, sigma, 0.1) / (0.1 * sigma) ** 2
            assert f"spends {text(float(rate) - 1)} where the noise spends 1" in verdict
            kappa = np.sqrt((20 * product) ** 2 - 4)
            told = float(re.search(r"equation says ([\d.]+) %", verdict)[1]) / 100
            steps = label_noise.steps_to_imbalance(told * kappa, kappa, 1.0, sigma, 0.1)
            # Three digits of the level are less than 0.2 % of it, and of the logarithm's fall of 1.
            assert float(steps) == pytest.approx(300, rel=0.01)
        else:
            assert "past 2/η" in verdict
            assert ("the instability, has done more" in verdict) == (residual > noise)
        kinds[name] = residual > noise
    assert kinds["Past it, little noise"]
    assert not kinds["Past it, much noise"]


def test_late_says_when_the_oscillation_comes(opened):  # noqa: F811
    delays = {}
    for name, values, verdict in starts(opened("late")):
        x, alpha, e = 10 ** values["power"], values["alpha"], values["e"]
        run = instability.coupled_dynamics(x, e, 1.0, alpha, 1.0, 300)
        there = 0.9 * np.sqrt(2 * alpha)
        edge = int(np.ceil(-e / alpha))
        came = np.abs(run.x[edge:]) >= there
        arrival = edge + int(np.argmax(came)) if came.any() else None
        if arrival is None:
            assert "has not yet come" in verdict
        elif arrival == edge:
            assert "there when the edge is reached" in verdict
        else:
            assert f"at step {arrival}, {arrival - edge} step" in verdict
            grown = x * np.concatenate([[1], np.cumprod(1 + e + alpha * np.arange(300))])
            predicted = edge + int(np.argmax(grown[edge:] >= there))
            assert f"by its growth along the gradient flow, at step {predicted}." in verdict
            assert f"then {text(e + alpha * arrival)} above the edge" in verdict
            assert f"gradient descent at {text(float(run.excess[arrival]))}." in verdict
        delays[name] = None if arrival is None else arrival - edge
    assert delays["Off the center"] == 0
    assert 0 < delays["A fast one"] < delays["A clean start"] < delays["A cleaner one"]
    assert delays["A clean start"] < delays["A slow passage"]
