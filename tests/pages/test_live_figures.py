"""The live figures of the chapters: their arithmetic against the library's, and a small book.

The arithmetic runs in Node.js. In each of the 160 steps of a flow JavaScript and NumPy differ by
some ten roundings; where the sharpness is held at 2/eta, its rounding is divided by the time of a
step, a fortieth or more. TOLERANCE = 1e-10 is a million roundings, some ten times what this adds up
to at most.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bundle
import numpy as np
import pytest
import yaml
from browsing import HANGING, HTML, ROOT, chromium, set_viewport, settle
from bs4 import BeautifulSoup
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from flatminima.theory import central_flow as cf
from flatminima.theory.scalar_network import ScalarNetwork
from study.pages import notebooks

TOLERANCE = 1e-10
PLACE = re.compile(r'<div class="live-figure" data-figure="([\w-]+)"[^>]*>(.*?)</div>')
SCRIPT = (ROOT / "playground" / "src" / "pages" / "figures.js").read_text(encoding="utf-8")
NAMES = re.findall(r'"([\w-]+)":', SCRIPT[SCRIPT.index("mountFigures({") :])
"""The live figures, by their names in data-figure."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """The folder of the bundled scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    command = [sys.executable, ROOT / "tools" / "bundle.py", "--output", folder / "playground"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "playground"


# The arithmetic


LIBRARY = (
    "scalar", "central", "coupled", "phase", "adam", "interventions", "maps", "quadratic",
    "turn", "pair", "sphere", "wide", "late", "noise",
)  # fmt: skip


@pytest.fixture(scope="module")
def numerics(scripts):
    """Evaluate JavaScript on the bundled numerics, given arguments by name."""
    environment = bundle.node_environment()
    node = shutil.which("node", path=environment["PATH"])
    library = (scripts / "lib.js").read_text(encoding="utf-8")

    def evaluate(expression, **arguments):
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        source = f"""{library}
            const {{{", ".join(LIBRARY)}}} = UnstableByDesign;
            const {{{", ".join(plain)}}} = {json.dumps(plain)};
            // JSON has no NaN; typed arrays become lists.
            const plain = (k, v) => ArrayBuffer.isView(v) ? Array.from(v) : v;
            console.log(JSON.stringify({expression}, plain));"""
        result = subprocess.run(
            [node, "-"], input=source, capture_output=True, text=True, check=False, env=environment
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return evaluate


def test_gradient_of_the_sharpness_is_that_of_the_third_derivative(numerics):
    rng = np.random.default_rng(1)
    points, targets = rng.normal(size=(300, 2)) * 2, rng.normal(size=300)
    found = numerics(
        """points.map(([a, b], i) => [...central.gradient(a, b, targets[i]),
            ...central.sharpnessGradient(a, b, targets[i])])""",
        points=points,
        targets=targets,
    )
    for row, point, target in zip(found, points, targets, strict=True):
        gradient, hessian, third = cf.scalar_derivatives(ScalarNetwork(2, target))(point)
        values, vectors = np.linalg.eigh(hessian)
        v = vectors[:, -1]
        # Rounding turns v_1 by its size relative to the gap.
        scale = np.abs(third).max() * (values[-1] / (values[-1] - values[0]))
        np.testing.assert_allclose(row[:2], gradient, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(row[2:], third @ v @ v, rtol=0, atol=1e-13 * (1 + scale))


@pytest.mark.parametrize("oscillating", [True, False])
def test_flows_are_those_of_the_library(numerics, oscillating):
    rng = np.random.default_rng(2)
    steps, substeps, cases = 20, 8, []
    for _ in range(40):
        eta, y = rng.uniform(0.2, 0.7), rng.uniform(0.3, 1.2)
        network = ScalarNetwork(2, y)
        # Around the edge: below it, and beyond it, where the flow is brought to it at once.
        sharpness = rng.uniform(0.85, 1.25) * 2 / eta
        imbalance = np.sqrt(max(0.1, sharpness**2 - 4 * y**2))
        cases.append((eta, y, network.at(rng.uniform(-0.9, 0.5) * y, imbalance).tolist()))
    found = numerics(
        """cases.map(([eta, y, start]) =>
            central.centralFlow({start, y, eta, steps, substeps, oscillating}))""",
        cases=cases,
        steps=steps,
        substeps=substeps,
        oscillating=oscillating,
    )
    held = 0
    for flow, (eta, y, start) in zip(found, cases, strict=True):
        path = cf.central_flow(
            cf.scalar_derivatives(ScalarNetwork(2, y)), start, eta, steps, substeps, oscillating
        )
        theta = np.stack([flow["a"], flow["b"]], axis=-1)[::substeps]
        np.testing.assert_allclose(theta, path.theta, rtol=TOLERANCE, atol=TOLERANCE)
        sharpness = np.array(flow["sharpness"])[::substeps]
        np.testing.assert_allclose(sharpness, path.sharpness, rtol=TOLERANCE)
        variance = np.array(flow["variance"])[::substeps]
        scale = path.variance.max()
        np.testing.assert_allclose(variance, path.variance, rtol=TOLERANCE, atol=TOLERANCE * scale)
        held += path.variance[1:].max() > 1e-3
    assert held > 10 if oscillating else held == 0


def test_radius_of_reflection_is_that_of_the_law(numerics):
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(30):
        eta, y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 1.5)
        network = ScalarNetwork(2, y)
        ahead = rng.uniform(0.8, 1.4) * 2 / eta
        a, b = network.at(rng.normal() * 0.3, np.sqrt(max(0.01, ahead**2 - 4 * y**2)))
        found = numerics("central.reflectionRadius(a, b, y, eta)", a=a, b=b, y=y, eta=eta)
        excess = network.minimum_sharpness([a, b]) - 2 / eta
        law = excess > 0 and eta * y < 1
        seen.add(law)
        if not law:
            assert found is None
            continue
        edge = network.at(0.0, np.sqrt(4 / eta**2 - 4 * y**2))
        c = network.stabilization(edge, eta)
        assert found == pytest.approx(np.sqrt(excess**2 + c * network.residual([a, b]) ** 2))
    assert seen == {True, False}


def test_points_on_the_edge_have_its_sharpness(numerics):
    levels, places, y = [1.5, 3.0, 6.0], np.linspace(-2, 2, 81), 0.8
    found = numerics(
        "levels.map((level) => places.map((a) => central.edge(a, y, level)))",
        levels=levels,
        places=places,
        y=y,
    )
    network, count = ScalarNetwork(2, y), 0
    for level, row in zip(levels, found, strict=True):
        for a, b in zip(places, row, strict=True):
            if b is None:
                # There is none: up the line a = const. the sharpness begins above the level.
                heights = np.linspace(1e-6, 4, 400)
                line = np.stack([np.full_like(heights, a), heights], axis=-1)
                assert network.sharpness(line).min() > level * (1 - 1e-3)
                continue
            count += 1
            assert b > 0
            assert network.sharpness([a, b]) == pytest.approx(level, rel=1e-12)
    assert count > 100


# The places in the chapters


def places():
    """(page, name of the figure, what is read without scripts) for each place in a chapter."""
    found = []
    for path in sorted((ROOT / "chapters").glob("*.*")):
        if path.suffix == ".md":
            texts = [path.read_text(encoding="utf-8")]
        elif path.suffix == ".ipynb":
            cells = notebooks.cells(path)
            texts = [notebooks.source(c) for c in cells if c["cell_type"] == "markdown"]
        else:
            continue
        for text in texts:
            found += [(path.stem, *place) for place in PLACE.findall(text)]
            assert text.count("live-figure") == len(PLACE.findall(text)), path.name
    return found


def test_places_name_a_figure_and_say_what_stands_there():
    found = places()
    assert {name for _, name, _ in found} == set(NAMES)
    for page, name, fallback in found:
        assert len(fallback) > 80, (page, name)


def named_figures(page: Path) -> set[str]:
    """The labels of the figures of a page, given without its ending."""
    if page.with_suffix(".md").exists():
        return set(re.findall(r"^:name: (\S+)$", page.with_suffix(".md").read_text(), re.MULTILINE))
    cells = notebooks.cells(page.with_suffix(".ipynb"))
    return {c["metadata"].get("mystnb", {}).get("figure", {}).get("name") for c in cells}


def test_a_figure_that_is_at_rest_is_one_of_the_chapter():
    named = 0
    for page, _, fallback in places():
        figures = named_figures(ROOT / "chapters" / page)
        for still in re.findall(r'href="#([\w-]+)"', fallback):
            assert still in figures, page
            named += 1
    assert named >= len(NAMES) - 1, "of each but the first, which is beside its figure"


def test_a_figure_that_is_folded_because_a_live_one_repeats_it_is_one_of_the_chapter():
    folded = 0
    for page in (ROOT / "chapters").glob("*.ipynb"):
        for still in re.findall(r'data-still=\\"([\w-]+)\\"', page.read_text(encoding="utf-8")):
            assert still in named_figures(page.with_suffix("")), page.name
            folded += 1
    assert folded


@pytest.mark.book
def test_only_pages_with_a_figure_load_its_script():
    pages = {page for page, _, _ in places()}
    for path in (HTML / "chapters").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert ("playground/figures.js" in text) == (path.stem in pages), path.name
        assert ('class="live-figure"' in text) == (path.stem in pages), path.name


# A small book


FALLBACK = "Here stands a live figure, which needs JavaScript; another one beside it is still."
CELL = f'Text.\n\n<div class="live-figure" data-figure="central-flow" data-a="0.3">{FALLBACK}</div>'


@pytest.fixture(scope="module")
def book(scripts, tmp_path_factory) -> Path:
    """A book of a page without a figure, one with it and one notebook with it, by our settings."""
    folder = tmp_path_factory.mktemp("book")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    # The other parts of the extension write pages about the whole book.
    extensions = config["sphinx"]["extra_extensions"]
    config["sphinx"]["extra_extensions"] = [e for e in extensions if e != "study.pages"]
    config["sphinx"]["local_extensions"] = {"one_part": "."}
    (folder / "one_part.py").write_text(
        "from study.pages import scripts\n\n\ndef setup(app):\n    scripts.register(app)\n"
    )
    static = folder / "chapters" / "_static"
    shutil.copytree(ROOT / "chapters/_static", static, ignore=shutil.ignore_patterns("playground"))
    shutil.copytree(scripts, static / "playground")
    shutil.copy(ROOT / "chapters/references.bib", folder / "chapters")
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    pages = ["b", "c", *NAMES]
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: chapters/a\nchapters:\n"
        + "".join(f"- file: chapters/{page}\n" for page in pages)
    )
    for name in NAMES:
        place = CELL.replace('"central-flow" data-a="0.3"', f'"{name}"')
        (folder / "chapters" / f"{name}.md").write_text(f"# One\n\n{place}\n")
    (folder / "chapters/a.md").write_text("# Without\n\nThe words live-figure alone.\n")
    (folder / "chapters/b.md").write_text(f"# With\n\n{CELL}\n\nMore text.\n")
    cell = {"cell_type": "markdown", "id": "one", "metadata": {}, "source": f"# Cells\n\n{CELL}"}
    notebook = {
        "cells": [cell],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "chapters/c.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder, "-W", "-q"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "_build" / "html" / "chapters"


@pytest.mark.parametrize(("name", "holds"), [("a", False), ("b", True), ("c", True)])
def test_pages_get_the_script_only_with_a_figure(book, name, holds):
    text = (book / f"{name}.html").read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    script = page.select("script[src*='playground/figures.js']")
    assert len(script) == len(page.select("link[href*='playground.css']")) == holds
    assert all(tag.has_attr("defer") for tag in script), "the page does not wait for it"
    assert "playground/scalar.js" not in text
    found = page.select(".live-figure[data-figure=central-flow]")
    assert [tag.get_text() for tag in found] == [FALLBACK] * holds


@pytest.fixture(scope="module")
def driver():
    with chromium() as browser:
        yield browser


class Figure:
    """The live figure of a page that was opened from the disk."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri())
        self.until(lambda: self.script("return root?.dataset.ready === 'true'"))
        self.script("document.documentElement.style.scrollBehavior = 'auto'")
        settle(driver)

    def values(self):
        return self.script("return page.values()")

    def state(self, name):
        return self.script(f"return page.state().{name}")

    def script(self, body, *arguments):
        root = "const root = document.querySelector('.live-figure'), page = root?.playground;"
        return self.driver.execute_script(root + body, *arguments)

    def until(self, condition):
        return WebDriverWait(self.driver, HANGING, 0.05).until(lambda _: condition())

    def find(self, selector):
        return self.driver.find_element("css selector", f".live-figure {selector}")

    def all(self, selector):
        return self.driver.find_elements("css selector", f".live-figure {selector}")

    def at(self):
        return self.script("return page.at()")

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def pictures(self):
        settle(self.driver)
        return self.script("return [...root.querySelectorAll('canvas')].map((c) => c.toDataURL())")

    def show(self, element):
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)

    def rests(self):
        """Whether nothing is being computed."""
        return not self.script("return page.busy?.() ?? false")

    def touch(self, canvas, *places):
        """Put a finger on a picture, at a place in shares of its width and height, and move it."""
        self.show(canvas)
        send = self.driver.execute_cdp_cmd
        send("Emulation.setTouchEmulationEnabled", {"enabled": True})
        left, top, width, height = self.script(
            """const b = arguments[0].getBoundingClientRect();
            return [b.left, b.top, b.width, b.height]""",
            canvas,
        )
        for i, (x, y) in enumerate(places):
            point = {"x": left + x * width, "y": top + y * height}
            kind = "touchMove" if i else "touchStart"
            send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        send("Emulation.setTouchEmulationEnabled", {"enabled": False})
        settle(self.driver)

    def end(self):
        """Go to the end by the slider."""
        self.find(".pg-player input").send_keys(Keys.END)
        settle(self.driver)

    def said(self):
        verdict = self.all(".pg-verdict")  # a run that goes on has none
        return self.find(".pg-status").text, verdict[0].text if verdict else ""

    def errors(self):
        """Browsers refuse the theme's icon fonts to pages from a disk; nothing else may fail."""
        severe = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        return [message for message in severe if ".woff2" not in message]


@pytest.fixture
def figure(driver, book):
    set_viewport(driver, 1440, 1200)
    found = Figure(driver, book / "c.html")
    yield found
    assert found.errors() == []


@pytest.mark.browser
class TestFigure:
    def test_its_words_say_where_the_three_are_and_what_came_out(self, figure):
        assert figure.script("return page.values()") == {"eta": 0.4, "a": 0.3, "b": 2.2}
        status, verdict = figure.said()
        assert status.startswith("Step 0 of ")
        assert verdict == "", "the reader says first what will happen"
        figure.end()
        status, verdict = figure.said()
        network, eta, steps = ScalarNetwork(2, 1.0), 0.4, figure.script("return page.state().steps")
        path = cf.central_flow(cf.scalar_derivatives(network), [0.3, 2.2], eta, steps, 16)
        end = network.descend([0.3, 2.2], eta, steps).theta[-1]
        ahead = float(network.minimum_sharpness([0.3, 2.2]))
        for text in (f"Step {steps} of {steps}", f"central flow {path.sharpness[-1]:.3g}"):
            assert text in status
        assert f"Gradient flow ends at sharpness {ahead:.3g}, above 2/η = 5" in verdict
        assert "central flow ends on it" in verdict
        # The page's run starts a thousandth beside this one.
        told = float(re.search(r"Gradient descent ends at ([\d.]+)", verdict)[1])
        assert told == pytest.approx(float(network.minimum_sharpness(end)), abs=0.01)
        assert told < 5 < ahead, "mirrored"
        words = " ".join(c.get_attribute("aria-label") for c in figure.all("canvas"))
        assert "The threshold 2/η is 5" in words

    def test_start_is_dragged_and_time_is_scrubbed(self, figure):
        plane, sharp = figure.all("canvas")
        figure.show(plane)
        ActionChains(figure.driver).move_to_element_with_offset(plane, -60, -40).click().perform()
        settle(figure.driver)
        values = figure.script("return page.values()")
        assert values != {"eta": 0.4, "a": 0.3, "b": 2.2}
        assert figure.script("return page.state().start") == [values["a"], values["b"]]
        steps = figure.script("return page.state().steps")
        assert figure.at() == steps, "the whole motion follows the finger"
        figure.show(sharp)
        ActionChains(figure.driver).move_to_element(sharp).click().perform()
        assert 0.3 * steps < figure.at() < 0.7 * steps
