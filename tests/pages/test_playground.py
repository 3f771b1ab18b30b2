"""The playgrounds: their arithmetic against the library's, and every control in a real browser.

Equality. JavaScript and NumPy do the same IEEE operations, in the same order where the functions
are written alike; sums, square roots of sums (hypot), logarithms and arc tangents may differ by
a few units in the last place, 2^-53 each. TOLERANCE = 1e-12 is some thousand of these, relative to
the largest term of the sum in question.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from browsing import HANGING, HTML, ROOT, chromium, served, set_viewport, settle
from bs4 import BeautifulSoup
from frame_cost import LONGEST_FRAME, frame_in_loops
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from flatminima import plotting
from flatminima.theory import instability, label_noise, maps, quadratic
from flatminima.theory.scalar_network import ScalarNetwork

TOLERANCE = 1e-12
PLAYGROUNDS = {
    "scalar": "playground",
    "quadratic": "playground_quadratic",
    "maps": "playground_maps",
}
"""Name of a playground -> the page that holds it."""

in_a_browser = [pytest.mark.book, pytest.mark.browser]
every_playground = pytest.mark.parametrize("name", PLAYGROUNDS)


# The sources and their bundle


def bundle(*arguments, **environment):
    command = [sys.executable, str(ROOT / "tools" / "bundle.py"), *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_types_are_right():
    result = bundle("--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_bundle_is_reproducible_and_made_once(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert bundle("--output", first).returncode == 0
    # The second without a system's Node.js: that of requirements.txt stands beside Python.
    made = bundle("--output", second, PATH=str(tmp_path))
    assert made.returncode == 0, made.stderr
    files = {path.name: path.read_bytes() for path in first.iterdir()}
    assert {f"{name}.js" for name in (*PLAYGROUNDS, "lib")} <= files.keys()
    assert {path.name: path.read_bytes() for path in second.iterdir()} == files
    assert "Mike Bostock" in files["licenses.txt"].decode()

    (first / "scalar.js").write_text("kept")
    assert bundle("--output", first).returncode == 0
    assert (first / "scalar.js").read_text() == "kept", "nothing has changed since"
    assert bundle("--output", first, "--force").returncode == 0
    assert (first / "scalar.js").read_bytes() == files["scalar.js"]


def test_bundling_says_what_is_missing(tmp_path):
    # A Python without Node.js beside it, and none on the PATH.
    lonely = tmp_path / "bin" / "python"
    lonely.parent.mkdir()
    lonely.symlink_to(sys.executable)
    code = (
        f"import sys; sys.executable = {str(lonely)!r}\n"
        f"sys.path.insert(0, {str(ROOT / 'tools')!r}); import bundle; bundle.node_environment()"
    )
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode != 0
    assert "requirements.txt" in result.stderr


def test_colors_are_those_of_the_figures():
    sheet = (ROOT / "chapters" / "_static" / "playground.css").read_text(encoding="utf-8")
    light = sheet[: sheet.index('html[data-theme="dark"]')]
    colors = dict(re.findall(r"--pg-(\w+): (#\w{6});", light))
    named = {name: value.lower() for name, value in plotting.COLORS.items() if name in colors}
    assert {name: colors[name] for name in named} == named
    assert len(named) >= 7


def test_sources_load_nothing_from_elsewhere():
    for path in (ROOT / "playground" / "src").rglob("*.js"):
        assert not re.search(r"https?://|\bfetch\(|importScripts", path.read_text("utf-8")), path


# The browser


@pytest.fixture(scope="module")
def driver():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site():
    assert HTML.is_dir(), "build the book first: make book"
    with served(HTML) as address:
        yield address


@pytest.fixture
def numerics(driver):
    """Evaluate JavaScript on the bundled numerics, given arguments by name."""
    driver.get("about:blank")
    source = (HTML / "_static" / "playground" / "lib.js").read_text(encoding="utf-8")
    driver.execute_script(source + "\nglobalThis.UnstableByDesign = UnstableByDesign;")

    def evaluate(expression, **arguments):
        # JSON has no NaN and no infinity; typed arrays become lists.
        script = f"""
            const given = arguments[0];
            const {{{", ".join(arguments)}}} = given;
            const {{scalar, instability, quadratic, maps}} = UnstableByDesign;
            const plain = (v) => typeof v === "number" ? (Number.isFinite(v) ? v : String(v))
                : v === null || typeof v !== "object" ? v
                : Array.isArray(v) || ArrayBuffer.isView(v) ? Array.from(v, plain)
                : Object.fromEntries(Object.entries(v).map(([k, w]) => [k, plain(w)]));
            return JSON.stringify(plain({expression}));
        """
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        text = driver.execute_script(script, plain)
        return _numbers(json.loads(text))

    return evaluate


def _numbers(value):
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return np.array([_numbers(v) for v in value])
    return value if isinstance(value, bool) else float(value)


def assert_equal(measured, expected, scale=0.0):
    """Equal to TOLERANCE times the values, or times ``scale`` where terms have cancelled."""
    expected = np.asarray(expected, dtype=float)
    np.testing.assert_allclose(
        np.asarray(measured, dtype=float), expected, rtol=TOLERANCE, atol=TOLERANCE * scale
    )


class Page:
    """One playground, opened."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get("about:blank")
        driver.get(address)
        self.ready()

    def ready(self):
        self.until(lambda: self.script("return root?.dataset.ready === 'true'"))
        settle(self.driver)
        # The theme scrolls smoothly, and a click would miss what is still on its way.
        self.script("document.documentElement.style.scrollBehavior = 'auto'")

    def until(self, condition):
        return WebDriverWait(self.driver, HANGING, 0.05).until(lambda _: condition())

    def script(self, body, *arguments):
        root = "const root = document.querySelector('.playground'), page = root?.playground;"
        return self.driver.execute_script(root + body, *arguments)

    def values(self):
        return self.script("return page.values()")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, f".playground {selector}")

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, f".playground {selector}")

    def button(self, label):
        found = [b for b in self.all("button") if b.text == label]
        assert len(found) == 1, f"{len(found)} buttons are called {label}"
        return found[0]

    def show(self, element):
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)

    def click(self, label):
        element = self.button(label)
        self.show(element)
        element.click()

    def end(self):
        """Go to the end of the run, where the page says what came out."""
        self.find(".pg-player > [type=range]").send_keys(Keys.END)
        self.frame()

    def frame(self):
        """Wait until what has changed is drawn."""
        self.frames(2)

    def frames(self, count):
        """Wait for frames, in each of which what plays takes a step forward."""
        self.driver.execute_async_script(
            """
            const done = arguments[1];
            let left = arguments[0];
            const next = () => left-- > 0 ? requestAnimationFrame(next) : done();
            next();
            """,
            count,
        )

    def pictures(self):
        self.frame()
        return self.script("return [...root.querySelectorAll('canvas')].map((c) => c.toDataURL())")

    def descriptions(self):
        self.frame()
        return [c.get_attribute("aria-label") for c in self.all("canvas")]

    def errors(self):
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]

    def press(self, *keys):
        """Press keys wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def touch(self, canvas, *places, lift=True):
        """Put a finger on a picture, at a place in shares of its width and height, and move it."""
        self.show(canvas)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        box = self.script(
            "const b = arguments[0].getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]",
            canvas,
        )
        for i, (x, y) in enumerate(places):
            point = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
            kind = "touchMove" if i else "touchStart"
            event = {"type": kind, "touchPoints": [point]}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
        if lift:
            event = {"type": "touchEnd", "touchPoints": []}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
        self.frame()


def work_through_by_keyboard(page, at, settled):
    """Reach each control of a playground by the tabulator and use it, by keys alone.

    Args:
        page: the playground, as opened.
        at: () -> the step that is shown.
        settled: () -> None, waits until what was asked for has been done.

    Returns:
        The keys of the controls that moved.
    """
    page.script("document.activeElement?.blur(); root.querySelector('button').focus()")
    moved, used = set(), 0
    while True:
        inside, tag, kind, text, key = page.script(
            """const e = document.activeElement;
            return [root.contains(e), e.tagName, e.type, e.textContent,
                e.closest('[data-key]')?.dataset.key ?? null]"""
        )
        if not inside:
            break
        used += 1
        if tag == "BUTTON" and text == "Play":
            page.press(Keys.ENTER)
            assert page.button("Pause")
            page.until(lambda: at() > 0)
            page.press(Keys.SPACE)
            assert page.button("Play")
        elif tag == "BUTTON" and text == "Step":
            settled()
            before = at()
            page.press(Keys.ENTER)
            page.until(lambda before=before: at() == before + 1)
        elif tag == "BUTTON" and text == "Reset":
            page.press(Keys.SPACE)
            settled()
            assert at() == 0
        elif tag == "BUTTON" and text == "Copy link":
            page.press(Keys.ENTER)
            page.until(lambda: page.find(".pg-copied").text)
        elif text.startswith("Save as"):
            page.press(Keys.ENTER)
        elif text == "Keep this run":
            page.press(Keys.ENTER)  # nothing is kept of a run that has not begun
        elif tag == "BUTTON":
            page.press(Keys.SPACE)
            pressed = [b.text for b in page.all("[aria-pressed=true]")]
            assert pressed == [text], "a preset"
        elif key is None:
            before = at()
            page.press(Keys.ARROW_RIGHT)
            assert at() == before + 1, "the slider of the step"
        else:
            ahead, back = (
                (Keys.ARROW_RIGHT, Keys.ARROW_LEFT) if kind == "range"
                else (Keys.ARROW_UP, Keys.ARROW_DOWN)
            )  # fmt: skip
            before = page.values()[key]
            page.press(ahead)
            if page.values()[key] == before:  # it stood at its end
                page.press(back)
            assert page.values()[key] != before, (key, kind)
            moved.add((key, kind))
        settled()
        page.press(Keys.TAB)
    shown = page.script(
        """return [...root.querySelectorAll('button, input, select')]
            .filter((e) => e.checkVisibility()).length"""
    )
    assert used == shown, "the tabulator stays in the playground until its last control"
    return moved


@pytest.fixture
def open_page(driver, site):
    def open_at(name, state="", base=None):
        set_viewport(driver, 1280, 1000)
        driver.get_log("browser")
        address = f"{base or site}/chapters/{PLAYGROUNDS[name]}.html{state and '#' + state}"
        return Page(driver, address)

    return open_at


# The arithmetic


class TestNumerics:
    pytestmark = in_a_browser

    def test_functions_of_a_point(self, numerics):
        rng = np.random.default_rng(1)
        theta = rng.normal(size=(400, 2)) * 10 ** rng.uniform(-2, 1, size=(400, 1))
        y = rng.normal(size=400) * 2
        y[:40] = 0
        theta[:20, 1] = theta[:20, 0]  # balanced, and at y = 0 next to the saddle
        theta[0] = 0
        measured = numerics(
            """theta.map(([a, b], i) => [scalar.residual(a, b, y[i]), scalar.kappa(a, b),
                ...scalar.eigenvalues(a, b, y[i]), scalar.sharpness(a, b, y[i]),
                scalar.angle(a, b, y[i]), scalar.escapeMargin(a, b, y[i], 0.3),
                ...scalar.step(a, b, y[i], 0.3, 0.1 * i)])""",
            theta=theta,
            y=y,
        )
        for row, point, target, i in zip(measured, theta, y, range(400), strict=True):
            network = ScalarNetwork(2, target)
            scale = np.sum(point**2) + abs(target) + point[0] ** 2 * point[1] ** 2
            assert row[0] == network.residual(point)
            assert row[1] == network.kappa(point)
            assert_equal(row[2:4], network.eigenvalues(point))
            assert row[4] == row[2]
            assert_equal(row[5], network.angle(point))
            assert_equal(row[6], network.escape_margin(point, 0.3), 4 + scale)
            scaled = 0.3 * (network.residual(point) + 0.1 * i)
            assert_equal(row[7:], point - scaled * point[::-1], np.abs(point).max() * (1 + scaled))

    def test_points_of_given_residual_and_imbalance(self, numerics):
        rng = np.random.default_rng(2)
        r, kappa, y = rng.normal(size=(3, 300)) * 10 ** rng.uniform(-3, 1, size=(3, 300))
        y[:30] = 0
        kappa[20:40] = 0
        r[35:45] = -y[35:45]  # output zero
        measured = numerics(
            """r.map((v, i) => [...scalar.at(v, kappa[i], y[i]),
                scalar.angleAt(v, kappa[i], y[i]), scalar.minimumSharpness(kappa[i], y[i])])""",
            r=r,
            kappa=kappa,
            y=y,
        )
        for row, v, k, target in zip(measured, r, kappa, y, strict=True):
            network = ScalarNetwork(2, target)
            point = network.at(v, k)
            assert_equal(row[:2], point)
            # The angle as a function of residual and imbalance is Theorem D3, not a function of
            # the library: it must be the angle at that point, up to the rounding of both inputs.
            size = np.hypot(k, 2 * (target + 2 * v))
            rounding = (abs(k) + abs(target) + abs(v)) / size if size else np.inf
            if rounding < 1e3:
                turn = np.abs(row[2] - network.angle(point)) % np.pi
                assert min(turn, np.pi - turn) <= TOLERANCE * rounding
            assert_equal(row[3], np.hypot(k, 2 * target))

    def test_whole_runs_agree_to_the_last_bit(self, numerics):
        # The same products and differences in the same order: chaos and escape included.
        rng = np.random.default_rng(3)
        kinds = set()
        for case in range(40):
            y = rng.normal() if case else 0.0
            eta = 10 ** rng.uniform(-1.5, 0)
            sharpness = rng.uniform(0.5, 5) / eta
            network = ScalarNetwork(2, y)
            floor = min(sharpness, 2 * abs(y))
            start = network.at(0.1 * rng.normal(), np.sqrt(sharpness**2 - floor**2))
            noise = 0.3 if case % 2 else None
            run = network.descend(start, eta, 150, noise, rng if noise else None)
            xi = np.zeros(150) if run.noise is None else run.noise
            js = numerics(
                "scalar.descend({start, y, eta, steps: 150, noise})",
                start=start,
                y=y,
                eta=eta,
                noise=xi,
            )
            assert np.array_equal(js["a"], run.theta[:, 0], equal_nan=True)
            assert np.array_equal(js["b"], run.theta[:, 1], equal_nan=True)
            assert js["diverged"] == run.diverged
            finite = ~np.isnan(run.theta[:, 0])
            assert js["last"] == np.flatnonzero(finite)[-1]
            with np.errstate(over="ignore"):
                for key, values in [
                    ("residual", run.residual),
                    ("kappa", run.kappa),
                    ("sharpness", run.sharpness),
                    ("angle", run.angle),
                    ("minimumSharpness", np.hypot(run.kappa, 2 * y)),
                ]:
                    assert_equal(js[key][finite], values[finite])
                    assert np.isnan(js[key][~finite]).all()
            kinds.add((bool(run.diverged), noise is not None))
        assert kinds == {(False, False), (False, True), (True, False), (True, True)}

    def test_budget_and_shares(self, numerics):
        rng = np.random.default_rng(4)
        for _ in range(30):
            eta = 10 ** rng.uniform(-2, 0)
            r, xi = rng.normal(size=(2, 60)) * 1.5 / eta
            js = numerics(
                """({budget: instability.instabilityBudget(r, eta),
                    factor: instability.logImbalanceFactor(r, eta),
                    shares: instability.splitFlattening(r, xi, eta)})""",
                r=r,
                xi=xi,
                eta=eta,
            )
            for t in (1, 2, 17, 59):
                assert_equal(js["budget"][t], instability.instability_budget(r[:t], eta))
                factors = np.abs(np.log(np.abs(1 - (eta * r[:t]) ** 2)))
                expected = instability.log_imbalance_factor(r[:t], eta)
                assert_equal(js["factor"][t], expected, factors.sum())
                shares = label_noise.split_flattening(r[:t], xi[:t], eta)
                for key in ("residual", "noise", "cross"):
                    scale = 2 * np.sum(np.abs(eta**2 * r[:t] * xi[:t]))
                    assert_equal(js["shares"][key][t], getattr(shares, key), scale)
            assert js["budget"][0] == js["factor"][0] == js["shares"]["cross"][0] == 0

    def test_reflected_sharpness(self, numerics):
        rng = np.random.default_rng(5)
        eta = 10 ** rng.uniform(-2, 0.3, size=200)
        before = rng.uniform(1.5, 4.5, size=200) / eta
        y = rng.uniform(-0.99, 0.99, size=200) / eta
        js = numerics(
            """eta.map((e, i) => [instability.reflectedSharpness(before[i], e),
                instability.reflectedSharpness(before[i], e, y[i])])""",
            eta=eta,
            before=before,
            y=y,
        )
        assert_equal(js[:, 0], instability.reflected_sharpness(before, eta), (4 / eta).max())
        for i in range(200):
            expected = instability.reflected_sharpness(before[i], eta[i], y[i])
            square = (eta[i] * y[i]) ** 2
            scale = (4 + 8 / (1 - square)) / eta[i]
            assert_equal(js[i, 1], expected, scale)
        assert np.isnan(numerics("instability.reflectedSharpness(3, 1, 1)"))

    def test_methods_on_a_quadratic(self, numerics):
        # The same products and sums in the same order: equal to the last bit.
        rng = np.random.default_rng(7)
        for method, key in [("gd", None), ("heavy_ball", "momentum"), ("nesterov", "momentum")]:
            for _ in range(20):
                lambdas, start = 10 ** rng.uniform(-2, 1, size=2), rng.normal(size=2)
                eta, beta = rng.uniform(0.05, 4.5) / lambdas.max(), rng.uniform(0, 0.99)
                extra = {} if key is None else {key: beta}
                js = numerics(
                    """({path: quadratic.iterate(method, lambdas, start, eta, 80, beta),
                        loss: quadratic.loss(lambdas, start),
                        companion: lambdas.map((v) => quadratic.companion(method, v, eta, beta)),
                        radius: lambdas.map((v) =>
                            quadratic.spectralRadius(method, v, eta, beta)),
                        turns: lambdas.map((v) => quadratic.turns(method, v, eta, beta)),
                        threshold: quadratic.stabilityThreshold(method, eta, beta),
                        best: quadratic.bestLearningRate(lambdas)})""",
                    method=method,
                    lambdas=lambdas,
                    start=start,
                    eta=eta,
                    beta=beta,
                )
                path = quadratic.iterate(method, lambdas, start, eta, 80, **extra)
                assert np.array_equal(js["path"], path)
                assert_equal(js["loss"], quadratic.loss(lambdas, start))
                assert_equal(js["best"], quadratic.best_learning_rate(lambdas))
                threshold = quadratic.stability_threshold(method, eta, **extra)
                assert_equal(js["threshold"], threshold)
                matrices = quadratic.companion_matrix(method, lambdas, eta, **extra)
                p, q = matrices[:, 0, 0], -matrices[:, 0, 1]
                # p and q are sums of terms of the order of 1 + eta lambda.
                scale = 2 + 2 * eta * lambdas.max()
                assert_equal(js["companion"], np.stack([p, q], -1), scale)
                discriminant = p**2 - 4 * q
                assert np.array_equal(js["turns"] == 1, discriminant < 0)
                # Next to a double root a rounding of p moves the roots by its root: there
                # their relative error is EPS scale^2 / |discriminant|, at most 1e-13 here.
                clear = np.abs(discriminant) > 0.01 * scale**2
                radii = quadratic.spectral_radius(matrices)
                assert_equal(js["radius"][clear], radii[clear], scale)

    def test_maps_of_one_variable(self, numerics):
        # Orbits to the last bit, chaotic ones and those that escape included.
        rng = np.random.default_rng(8)
        outcomes = set()
        for case in range(40):
            c, skew = (1, -1)[case % 2], rng.uniform(-1, 1) * (case % 4 < 2)
            eta, start = rng.uniform(0.1, 4), rng.uniform(-1, 1)
            loss = maps.Wide() if case % 5 == 0 else maps.quartic(1.0, c, skew)
            source = "maps.wide" if case % 5 == 0 else "maps.quartic(1, c, skew)"
            js = numerics(
                f"""(() => {{ const loss = {source}; return {{
                    x: maps.orbit(loss, start, eta, 300),
                    late: maps.orbit(loss, start, eta, 300, 70),
                    values: [0, 1, 2].map((k) => [-1.3, -0.2, 0, 0.7].map((x) => loss(x, k))),
                    period: maps.cycleLength(maps.orbit(loss, start, eta, 2000, 128), 32, 1e-6),
                    multiplier: maps.multiplier(loss, [start, -0.3, 0.8], eta),
                    cycle: maps.periodTwoOrbit(1, c, eta)}}; }})()""",
                c=c,
                skew=skew,
                eta=eta,
                start=start,
            )
            orbit = maps.orbit(loss, start, eta, 300)
            assert np.array_equal(js["x"], orbit.x, equal_nan=True)
            assert np.array_equal(js["late"], orbit.x[-70:], equal_nan=True)
            points = np.array([-1.3, -0.2, 0, 0.7])
            expected = [loss.derivative(points, k) for k in range(3)]
            # Derivatives are sums of terms of the order of 1.
            assert_equal(js["values"], expected, 10)
            late = maps.orbit(loss, start, eta, 2000, 128)
            assert js["period"] == maps.cycle_length(late)
            factors = 1 - eta * loss.derivative(np.array([start, -0.3, 0.8]), 2)
            terms = np.prod(np.abs(factors) + 1 + 10 * eta)
            assert_equal(js["multiplier"], maps.multiplier(loss, [start, -0.3, 0.8], eta), terms)
            assert_equal(js["cycle"], maps.period_two_orbit(1.0, c, eta), 1.0)
            outcomes.add((bool(late.diverged), int(js["period"]) > 0))
        assert outcomes == {(False, True), (False, False), (True, False)}

    def test_random_numbers_are_standard_normal_and_repeat(self, numerics):
        count = 20_000
        z = numerics("UnstableByDesign.random.normal(count, 7)", count=count)
        assert np.array_equal(z, numerics("UnstableByDesign.random.normal(count, 7)", count=count))
        other = numerics("UnstableByDesign.random.normal(count, 8)", count=count)
        # Each statistic has standard deviation 1, so that 5 is passed once in a million times.
        root = np.sqrt(count)
        assert abs(z.mean()) * root < 5
        assert abs((z**2).mean() - 1) / np.sqrt(2) * root < 5
        assert abs((z**4).mean() - 3) / np.sqrt(96) * root < 5
        assert abs((z[1:] * z[:-1]).mean()) * root < 5
        assert abs((z * other).mean()) * root < 5


# Every playground


class TestEveryPlayground:
    pytestmark = in_a_browser

    @every_playground
    def test_only_its_page_loads_it(self, name):
        for page in (HTML / "chapters").glob("*.html"):
            scripts = f"playground/{name}.js" in page.read_text(encoding="utf-8")
            assert scripts == (page.stem == PLAYGROUNDS[name]), page.name

    @every_playground
    def test_says_what_stands_there_without_scripts(self, name):
        text = (HTML / "chapters" / f"{PLAYGROUNDS[name]}.html").read_text(encoding="utf-8")
        fallback = BeautifulSoup(text, "html.parser").select_one(".playground .pg-fallback")
        assert len(fallback.get_text(" ", strip=True)) > 80

    @every_playground
    def test_no_errors_when_served(self, open_page, name):
        page = open_page(name)
        for control in page.all("input[type=range]"):
            control.send_keys(Keys.ARROW_RIGHT)
        page.frame()
        assert page.errors() == []

    @every_playground
    def test_works_from_a_disk(self, open_page, name):
        page = open_page(name, base=HTML.as_uri())
        before = page.values()
        control = page.find(".pg-control input[type=range]")
        control.send_keys(Keys.ARROW_RIGHT)
        changed = page.values()
        assert changed != before
        page.until(lambda: page.script("return location.hash") != "")
        page.driver.refresh()
        page.ready()
        assert page.values() == changed
        # Browsers refuse the theme's icon fonts to pages from a disk; nothing else may fail.
        assert [e for e in page.errors() if ".woff2" not in e] == []

    @every_playground
    def test_every_slider_moves_by_keyboard_and_mouse_and_field(self, open_page, name):
        page = open_page(name)
        keys = page.script(
            """return [...root.querySelectorAll('.pg-control')]
                .filter((c) => c.querySelector('input[type=range]')).map((c) => c.dataset.key)"""
        )
        assert set(keys) <= set(page.values())
        for key in keys:
            control = f".pg-control[data-key={key}]"
            slider, field = (
                page.find(f"{control} [type=range]"),
                page.find(f"{control} [type=number]"),
            )
            label = page.find(f"{control} label")
            assert label.get_attribute("for") == slider.get_attribute("id")
            assert label.text
            assert label.text in field.get_attribute("aria-label")

            low, high = (float(field.get_attribute(edge)) for edge in ("min", "max"))
            slider.send_keys(Keys.HOME)
            assert page.values()[key] == pytest.approx(low)
            slider.send_keys(Keys.ARROW_RIGHT)
            after = page.values()[key]
            assert low < after < high
            assert float(field.get_attribute("value")) == after
            assert slider.get_attribute("aria-valuetext")
            slider.send_keys(Keys.END)
            assert page.values()[key] == pytest.approx(high)

            page.show(slider)
            ActionChains(page.driver).move_to_element_with_offset(slider, 7, 0).click().perform()
            middle = page.values()[key]
            assert low < middle < high

            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(repr(after))
            assert page.values()[key] == after
            # What is out of range is marked while typed, changes nothing, and moves to the edge.
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys("-9e9")
            assert field.get_attribute("aria-invalid") == "true"
            assert page.values()[key] == after
            field.send_keys(Keys.TAB)
            assert page.values()[key] == low
            assert float(field.get_attribute("value")) == page.values()[key]
            page.script("location.hash = ''")
            page = open_page(name)

    @every_playground
    def test_every_control_works_by_keyboard_alone(self, open_page, name):
        page = open_page(name)
        moved = work_through_by_keyboard(page, lambda: page.script("return page.at()"), page.frame)
        assert {key for key, _ in moved} == set(page.values())
        kinds = page.script(
            """return [...root.querySelectorAll('[data-key] :is(input, select)')]
                .map((e) => [e.closest('[data-key]').dataset.key, e.type])"""
        )
        assert moved == {tuple(pair) for pair in kinds}
        assert page.errors() == []

    @every_playground
    def test_address_keeps_the_state(self, open_page, name):
        page = open_page(name)
        for control in page.all(".pg-control [type=range]"):
            control.send_keys(Keys.PAGE_UP)
        values = page.values()
        page.click("Copy link")
        assert page.until(lambda: page.find(".pg-copied").text)
        state = page.script("return location.hash.slice(1)")
        page.end()
        pictures, descriptions = page.pictures(), page.descriptions()

        again = open_page(name, state)
        assert again.values() == values
        assert again.script("return page.at()") == 0, "a link leads to the question"
        again.end()
        again.until(lambda: again.descriptions() == descriptions)
        assert again.pictures() == pictures
        # Another link to the open page, as a reader may paste it.
        key = next(iter(values))
        again.script("location.hash = arguments[0]", "")
        again.script("location.hash = arguments[0]", f"{key}={values[key]}")
        again.until(lambda: again.values()[key] == values[key])

    @every_playground
    def test_begins_at_the_question(self, open_page, name):
        page = open_page(name)
        facts = page.find(".pg-table")
        assert page.script("return page.at()") == 0
        assert page.find(".pg-verdict").text == ""
        assert not facts.is_displayed()
        page.end()
        assert page.find(".pg-verdict").text
        assert facts.is_displayed()
        page.find(".pg-presets button").click()
        page.frame()
        assert page.script("return page.at()") == 0
        assert page.find(".pg-verdict").text == ""
        page.find(".pg-control [type=range]").send_keys(Keys.ARROW_RIGHT)
        assert page.script("return page.at()") > 0, "a control shows the whole run"

    @every_playground
    def test_plots_come_first_and_the_bar_stays_on_a_phone(self, open_page, name):
        page = open_page(name)
        set_viewport(page.driver, 390, 844)
        page.frame()
        first = page.script(
            """const top = (s) => root.querySelector(s).getBoundingClientRect().top;
            return [top(".pg-bar"), top("canvas"), top(".pg-side")]"""
        )
        assert first == sorted(first)
        for share in (0.3, 0.6, 0.9):
            bar, header = page.script(
                """const box = root.getBoundingClientRect();
                scrollTo(0, scrollY + box.top + arguments[0] * (box.height - 400));
                const bar = root.querySelector(".pg-stays").getBoundingClientRect();
                return [[bar.top, bar.bottom],
                    document.querySelector(".bd-header-article").getBoundingClientRect().bottom]""",
                share,
            )
            assert 0 <= bar[0] <= max(header, 0) + 1, "below the head of the page, or at the top"
            assert bar[1] < 844 / 3, "two thirds are left for what it moves"
        for control in (".pg-primary", "[data-key=eta] [type=range]"):
            assert page.find(f".pg-stays {control}").is_displayed()

    @every_playground
    def test_saves_numbers_and_pictures(self, open_page, name, tmp_path):
        page = open_page(name)
        page.end()
        allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
        page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
        for kind in ("JSON", "PNG"):
            page.click(f"Save as {kind}")
            path = tmp_path / f"{name}.{kind.lower()}"
            page.until(path.exists)
        saved = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert saved["settings"] == page.values()
        assert saved["run"]["eta"] == page.values()["eta"]
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    @every_playground
    def test_strange_addresses_do_no_harm(self, open_page, name):
        plain = open_page(name).values()
        for state in ("what-to-look-for", "eta=&s=abc&constructor=1", "=&&=3"):
            page = open_page(name, state)
            assert page.values() == plain
            assert page.errors() == []
        limits = open_page(name, "&".join(f"{key}=1e300" for key in plain))
        for key, value in limits.values().items():
            field = f".pg-control[data-key={key}] [type=number]"
            for found in limits.all(field):
                assert value == float(found.get_attribute("max"))
        assert limits.errors() == []

    @every_playground
    @pytest.mark.parametrize("width", [320, 375, 768])
    def test_fits_narrow_screens(self, open_page, name, width):
        page = open_page(name)
        set_viewport(page.driver, width, 800)
        page.frame()
        assert page.script("return document.documentElement.scrollWidth") <= width
        outside = page.script(
            """return [...root.querySelectorAll('*')].filter((e) => {
                const box = e.getBoundingClientRect();
                return box.width > 1 && (box.left < -0.5 || box.right > innerWidth + 0.5);
            }).map((e) => e.outerHTML.slice(0, 100))"""
        )
        assert outside == []
        small = page.script(
            """return [...root.querySelectorAll('button, input, select')]
                .filter((e) => !e.hidden).filter((e) => {
                const box = e.getBoundingClientRect();
                return box.height < 24 || box.width < 24;
            }).map((e) => e.outerHTML.slice(0, 100))"""
        )
        assert small == [], "targets for fingers have at least 24 pixels"

    @every_playground
    def test_pictures_are_sharp_and_follow_the_theme(self, open_page, name):
        page = open_page(name)
        light = page.pictures()
        page.script("document.documentElement.dataset.theme = 'dark'")
        dark = page.pictures()
        assert all(a != b for a, b in zip(light, dark, strict=True))
        page.script("document.documentElement.dataset.theme = 'light'")
        assert page.pictures() == light

        set_viewport(page.driver, 1280, 1000, ratio=2)
        page.find(".pg-control input[type=range]").send_keys(Keys.HOME)
        page.frame()
        sizes = page.script(
            "return [...root.querySelectorAll('canvas')].map((c) => [c.width, c.clientWidth])"
        )
        assert all(abs(pixels - 2 * width) <= 2 for pixels, width in sizes)

    @every_playground
    def test_says_its_state_in_words(self, open_page, name):
        page = open_page(name)
        before = page.descriptions()
        assert all(len(text) > 40 for text in before)
        assert page.script(
            "return [...root.querySelectorAll('canvas')].every((c) => c.role === 'img')"
        )
        said = page.find(".pg-status").text
        assert len(said) > 20
        page.find(".pg-control [type=range]").send_keys(Keys.PAGE_UP)
        assert page.descriptions() != before
        page.until(lambda: page.find(".pg-status").text != said)
        aloud = page.find("[aria-live=polite]")
        page.until(lambda: aloud.get_attribute("textContent") == page.find(".pg-status").text)

    @every_playground
    def test_focus_can_be_seen_on_every_control(self, open_page, name):
        page = open_page(name)
        controls = page.script(
            """return [...root.querySelectorAll('button, input, select')]
                .filter((e) => !e.hidden).map((e) => e.outerHTML)"""
        )
        page.script("root.querySelector('button, input, select').focus()")
        reached = []
        for _ in controls:
            state = page.script(
                """const e = document.activeElement;
                return [e.outerHTML, root.contains(e), getComputedStyle(e).outlineStyle]"""
            )
            if not state[1]:
                break
            reached.append(state)
            ActionChains(page.driver).send_keys(Keys.TAB).perform()
        assert len(reached) == len(controls), "each is reached by the tabulator, in order"
        assert all(style != "none" for _, _, style in reached[1:])

    @every_playground
    def test_a_frame_takes_little_work(self, open_page, name):
        page = open_page(name)
        slider = page.find(".pg-control [type=range]")
        assert frame_in_loops(page.driver, slider, frames=30, rounds=5) < LONGEST_FRAME


# The network of depth two


class TestScalar:
    pytestmark = in_a_browser

    @pytest.fixture
    def page(self, open_page):
        return open_page("scalar")

    def state(self, page, *keys):
        return page.script(
            "const s = page.state(); return arguments[0].map((k) => s[k])", list(keys)
        )

    @pytest.mark.parametrize(
        ("preset", "outcome", "words"),
        [
            ("Stable", "settled", "Stable"),
            ("One instability", "settled", "An instability"),
            ("Goldilocks", "settled", "An instability"),
            ("Past √2", "settled", "An instability"),
            ("Period two", "period two", "Period two"),
            ("Label noise", "noisy", "never rests"),
            ("Diverges", "diverged", "Diverged"),
        ],
    )
    def test_presets_do_what_they_say(self, page, preset, outcome, words):
        page.click(preset)
        page.end()
        assert self.state(page, "outcome") == [outcome]
        assert words in page.find(".pg-verdict").text
        assert page.button(preset).get_attribute("aria-pressed") == "true"
        pressed = page.all("[aria-pressed=true]")
        assert len(pressed) == 1
        eta, y, start, swing = page.script(
            """const s = page.state(), finite = [...s.run.residual].filter(Number.isFinite);
            return [s.eta, s.y, s.start, Math.max(...finite.map((r) => Math.abs(s.eta * r)))]"""
        )
        end, last = page.script(
            "const s = page.state(); return [s.run.minimumSharpness[s.run.last], s.run.last]"
        )
        claims = {
            "Stable": eta * start < 2,
            "One instability": eta * end < 2 < eta * start and swing < 1,
            # Within a percent of the flattest minimum, which is where the zone has its bottom.
            "Goldilocks": end < 1.01 * 2 * abs(y),
            "Past √2": swing > np.sqrt(2),
            "Period two": eta * abs(y) > 1,
            "Label noise": eta * start < 2 and end < start / 2,
            "Diverges": last < 80,
        }
        assert claims[preset]

    def test_the_run_shown_is_the_library_s(self, page):
        for preset in ("One instability", "Goldilocks", "Period two"):
            page.click(preset)
            page.end()
            values = page.values()
            a, b = page.script("const {run} = page.state(); return [[...run.a], [...run.b]]")
            network = ScalarNetwork(2, values["y"])
            start = max(values["s"], network.flattest_sharpness)
            kappa = np.sqrt(
                (start - network.flattest_sharpness) * (start + network.flattest_sharpness)
            )
            point = network.at(values["r"], kappa)
            assert_equal([a[0], b[0]], point)
            run = network.descend([a[0], b[0]], values["eta"], int(values["steps"]))
            assert np.array_equal(np.stack([a, b], -1), run.theta)
            shown = page.find(".pg-facts").text
            end = f"{float(f'{np.hypot(run.kappa[-1], 2 * network.target):.3g}'):g}"
            assert f"The same after {int(values['steps'])} steps {end} " in shown

    def test_play_pause_step_and_reset(self, page):
        at = lambda: page.script("return page.at()")  # noqa: E731
        last = self.state(page, "run")[0]["last"]
        assert at() == 0
        page.frames(20)
        assert at() == 0, "nothing moves by itself"
        page.click("Step")
        page.click("Step")
        assert at() == 2
        page.frame()
        assert page.find(".pg-status").text.startswith("Step 2 of")
        page.click("Play")
        page.until(lambda: at() >= 5)
        page.button("Pause").send_keys(Keys.ENTER)
        stopped = at()
        assert 5 <= stopped < last
        page.frames(25)
        assert at() == stopped
        page.button("Play").send_keys(Keys.SPACE)
        page.until(lambda: at() == last)
        assert page.button("Play"), "it stops at the end"
        page.click("Play")
        page.until(lambda: 0 < at() < last)
        page.click("Reset")
        assert at() == 0

    def test_step_is_set_by_slider_and_by_dragging_over_a_picture(self, page):
        at = lambda: page.script("return page.at()")  # noqa: E731
        slider = page.find(".pg-player > [type=range]")
        slider.send_keys(Keys.HOME)
        slider.send_keys(Keys.ARROW_RIGHT)
        assert at() == 1
        assert slider.get_attribute("aria-valuetext") == "step 1 of 80"
        pictures = page.all(".pg-wide canvas")
        assert len(pictures) == 2
        for canvas in pictures:
            page.show(canvas)
            chain = ActionChains(page.driver).move_to_element(canvas).click_and_hold()
            chain.perform()
            pressed = at()
            assert 30 < pressed < 50
            ActionChains(page.driver).move_by_offset(60, 0).release().perform()
            dragged = at()
            assert dragged > pressed
            ActionChains(page.driver).move_by_offset(-100, 0).perform()
            assert at() == dragged, "let go"

    def test_step_is_set_by_a_finger(self, page):
        at = lambda: page.script("return page.at()")  # noqa: E731
        set_viewport(page.driver, 375, 800)
        page.frame()
        for canvas in page.all(".pg-wide canvas"):
            page.touch(canvas, (0.5, 0.5))
            touched = at()
            assert 25 < touched < 50
            page.touch(canvas, (0.5, 0.5), (0.6, 0.5), (0.8, 0.5))
            assert at() > touched + 10

    def test_every_step_lies_on_the_curve_of_its_imbalance(self, page):
        page.click("Past √2")
        worst = page.script(
            """const {run, y} = page.state();
            return Math.max(...run.residual.map((r, t) => {
                const turn = Math.abs(run.angle[t]
                    - Math.atan2(2 * (y + 2 * r), run.kappa[t]) / 2);
                return Math.min(turn, Math.PI - turn);
            }))"""
        )
        assert worst < 1e-12

    def test_sharpness_is_raised_to_the_flattest_minimum(self, open_page):
        page = open_page("scalar", "y=3&s=2")
        assert self.state(page, "start", "floor", "k") == [6, 6, 0]
        assert "raised" in page.find(".pg-control[data-key=s] .pg-hint").text

    def test_the_escape_margin_tells_what_becomes_of_a_run(self, page):
        rng = np.random.default_rng(6)
        seen = set()
        for _ in range(30):
            eta, y = rng.uniform(0.05, 1.5), rng.uniform(-1, 1)
            state = f"eta={eta}&y={y}&s={rng.uniform(2, 5) / eta}&r={rng.uniform(-2, 2)}&steps=1000"
            page.script("location.hash = arguments[0]", state)
            page.until(lambda eta=eta: page.values()["eta"] == eta)
            outcome, margin = self.state(page, "outcome", "margin")
            assert (outcome == "diverged") == (margin < 0)
            seen.add(outcome)
        assert "diverged" in seen
        assert len(seen) > 1


# The quadratic


class TestQuadratic:
    pytestmark = in_a_browser

    @pytest.mark.parametrize(
        ("preset", "stable", "words"),
        [
            ("Below 1/λ₁", True, "monotone"),
            ("Between 1/λ₁ and 2/λ₁", True, "oscillating"),
            ("Best step", True, "oscillating"),
            ("At 2/λ₁", False, "for ever"),
            ("Past 2/λ₁", False, "Unstable"),
            ("Heavy ball past 2/λ₁", True, "heavy ball"),
            ("Nesterov below 2/λ₁", False, "Nesterov"),
        ],
    )
    def test_presets_do_what_they_say(self, open_page, preset, stable, words):
        page = open_page("quadratic")
        page.click(preset)
        page.end()
        assert words in page.find(".pg-verdict").text
        assert page.button(preset).get_attribute("aria-pressed") == "true"
        values = page.values()
        radii, edge, losses = page.script(
            "const s = page.state(); return [s.radii, s.edge, s.losses]"
        )
        assert (max(radii) < 1) == stable == (values["eta"] < edge)
        assert (losses[-1] < 1e-2 * losses[0]) == stable
        if preset == "Heavy ball past 2/λ₁":
            assert values["eta"] * values["lambda"] > 2
        if preset == "Nesterov below 2/λ₁":
            assert values["eta"] * values["lambda"] < 2
        if preset == "Best step":
            low, high = values["ratio"] * values["lambda"], values["lambda"]
            best, rate = quadratic.best_learning_rate([high, low])
            # The slider has two decimals.
            assert abs(values["eta"] - best) <= 0.005
            assert max(radii) == pytest.approx(rate, abs=0.005 * high)

    def test_method_is_chosen_by_keyboard_and_by_address(self, open_page):
        page = open_page("quadratic")
        select = page.find("select")
        label = page.find(".pg-control[data-key=method] label")
        assert label.get_attribute("for") == select.get_attribute("id")
        select.send_keys(Keys.ARROW_DOWN)
        assert page.script("return page.state().method") == "heavy_ball"
        assert page.values()["method"] == 1
        page = open_page("quadratic", "method=2&eta=1")
        assert page.script("return page.state().method") == "nesterov"
        # A method that does not exist leaves the one that is set.
        assert open_page("quadratic", "method=7").values()["method"] == 0
        assert open_page("quadratic", "method=1.5").values()["method"] == 0

    def test_start_and_learning_rate_are_dragged(self, open_page):
        page = open_page("quadratic")
        plane, factor = page.all("canvas")[:2]
        page.show(plane)
        before = page.values()
        ActionChains(page.driver).move_to_element_with_offset(plane, 40, 30).click().perform()
        after = page.values()
        assert after["x"] != before["x"]
        assert after["y"] < 0 < after["x"], "to the right of the middle, and below it"
        assert page.script("return page.state().path[0]") == [after["x"], after["y"]]
        ActionChains(page.driver).move_to_element(factor).click_and_hold().perform()
        middle = page.values()["eta"]
        ActionChains(page.driver).move_by_offset(50, 0).perform()
        assert page.values()["eta"] > middle
        # The axis ends some pixels before the picture does.
        beyond = factor.size["width"] // 2 - 5
        ActionChains(page.driver).move_by_offset(beyond - 50, 0).perform()
        ActionChains(page.driver).release().perform()
        edge = page.values()["eta"]
        assert edge == 2.5, "held at the end of the axis"

    def test_start_and_learning_rate_are_dragged_by_a_finger(self, open_page):
        page = open_page("quadratic")
        set_viewport(page.driver, 375, 800)
        page.frame()
        plane, factor = page.all("canvas")[:2]
        page.touch(plane, (0.75, 0.3))
        first = page.values()
        assert first["x"] > 0 < first["y"]
        # Once a finger has moved along, it may go anywhere.
        page.touch(plane, (0.75, 0.3), (0.6, 0.3), (0.3, 0.3), (0.3, 0.7))
        last = page.values()
        assert last["x"] < 0 > last["y"]
        assert page.script("return page.state().path[0]") == [last["x"], last["y"]]
        page.touch(factor, (0.5, 0.5), (0.6, 0.5))
        part = page.values()["eta"]
        page.touch(factor, (0.5, 0.5), (0.6, 0.5), (0.8, 0.5))
        assert page.values()["eta"] > part

    def test_play_and_step(self, open_page):
        page = open_page("quadratic")
        page.click("Reset")
        page.click("Step")
        assert page.script("return page.at()") == 1
        page.click("Play")
        page.until(lambda: page.script("return page.at()") == 30)
        assert page.button("Play")


# The maps


class TestMaps:
    pytestmark = in_a_browser

    @pytest.mark.parametrize(
        ("preset", "period"),
        [
            ("Settles", 1),
            ("Period two", 2),
            ("Broken symmetry", 2),
            ("Period four", 4),
            ("Chaos", 0),
            ("Island in chaos", 4),
            ("Wide valley", 2),
            ("Steeper far away", 0),
        ],
    )
    def test_presets_do_what_they_say(self, open_page, preset, period):
        page = open_page("maps")
        page.click(preset)
        assert page.button(preset).get_attribute("aria-pressed") == "true"
        found, settled, multiplier = page.script(
            "const s = page.state(); return [s.period, s.settled, String(s.multiplier)]"
        )
        assert found == period
        values = page.values()
        loss = [maps.quartic(1.0, -1.0), maps.quartic(1.0, 1.0), maps.Wide()][values["loss"]]
        late = maps.orbit(loss, values["x"], values["eta"], 4127, 128)
        assert (not settled) == late.diverged == (preset == "Steeper far away")
        if period:
            assert maps.cycle_length(late) == period
            assert abs(float(multiplier)) < 1
        if settled:
            assert np.array_equal(settled, late.x)
        if preset == "Broken symmetry":
            mirrored = open_page("maps", f"eta={values['eta']}&x={-values['x']}")
            other = mirrored.script("return page.state().settled.slice(-2)")
            # Mirror images, not the same cycle.
            assert sorted(np.negative(other)) == sorted(settled[-2:])
            assert sorted(other) != sorted(settled[-2:])

    def test_the_diagram_is_the_library_s(self, open_page):
        page = open_page("maps")
        dust = page.script("return page.points()")
        for start, points in zip([0.1, -0.1], dust, strict=True):
            etas = np.array(points["etas"]).reshape(-1, 60)
            assert etas.shape == (480, 60), "no orbit leaves the picture"
            expected = maps.bifurcation_diagram(
                maps.quartic(1.0, -1.0), etas[:, 0], [start], settle=600, keep=60
            )
            assert np.array_equal(np.array(points["xs"]).reshape(-1, 60), expected.x[:, 0].T)

    def test_learning_rate_is_dragged_along_the_diagram(self, open_page):
        page = open_page("maps")
        canvas = page.all("canvas")[0]
        page.show(canvas)
        ActionChains(page.driver).move_to_element(canvas).click_and_hold().perform()
        middle = page.values()["eta"]
        # The axis runs from 1.5 to 4; its middle lies a little right of the picture's.
        assert 2.5 < middle < 2.75
        ActionChains(page.driver).move_by_offset(100, 20).perform()
        dragged = page.values()["eta"]
        assert dragged > middle
        ActionChains(page.driver).release().perform()
        # Held and moved in one chain: the driver forgets between two that a button is down.
        chain = ActionChains(page.driver).move_to_element(canvas).click_and_hold()
        chain.move_by_offset(-450, 0).perform()
        assert page.values()["eta"] == 1.5, "held at the end of the axis"
        page.until(lambda: "eta=1.5" in page.script("return location.hash"))

    def test_the_diagram_follows_a_finger_and_lets_it_scroll(self, open_page):
        page = open_page("maps")
        set_viewport(page.driver, 375, 800)
        page.frame()
        canvas = page.all("canvas")[0]
        page.touch(canvas, (0.5, 0.5))
        middle = page.values()["eta"]
        assert 2.4 < middle < 3
        page.touch(canvas, (0.5, 0.5), (0.6, 0.5), (0.8, 0.5))
        dragged = page.values()["eta"]
        assert dragged > middle + 0.5
        # A finger that goes up the page wants to read on: the page moves, and nothing else.
        page.show(canvas)
        before = page.script("return scrollY")
        page.touch(canvas, (0.3, 0.7), (0.3, 0.5), (0.3, 0.2), (0.3, -0.2), (0.3, -0.4))
        assert page.script("return scrollY") > before + 20
        assert page.values()["eta"] == dragged

    def test_start_is_dragged_in_the_map_and_on_the_loss_by_a_finger(self, open_page):
        page = open_page("maps")
        set_viewport(page.driver, 375, 800)
        page.frame()
        for canvas in page.all("canvas")[1:3]:
            page.touch(canvas, (0.8, 0.5))
            right = page.values()["x"]
            page.touch(canvas, (0.8, 0.5), (0.6, 0.5), (0.3, 0.5))
            assert page.values()["x"] < 0 < right

    def test_start_is_dragged_in_the_map_and_on_the_loss(self, open_page):
        page = open_page("maps")
        for canvas in page.all("canvas")[1:3]:
            page.show(canvas)
            ActionChains(page.driver).move_to_element_with_offset(canvas, 60, 0).click().perform()
            right = page.values()["x"]
            ActionChains(page.driver).move_to_element_with_offset(canvas, -60, 0).click().perform()
            assert page.values()["x"] < 0 < right

    def test_the_mean_drifts_against_the_skew(self, open_page):
        page = open_page("maps")
        for skew in (-0.5, 0.5):
            page = open_page("maps", f"eta=2.1&skew={skew}")
            settled = page.script("return page.state().settled")
            assert np.sign(np.mean(settled)) == -np.sign(skew)
