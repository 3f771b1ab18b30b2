"""Figures whose panels a phone shows one below the other: where they are cut, and that they are."""

from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from browsing import HTML, ROOT, chromium, set_viewport, settle
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image

from flatminima import plotting
from study.pages.panels import cuts


def drawn(count: int, high: float = 1.0, **options) -> Figure:
    """A figure of panels side by side, each with an axis of numbers up to ``high``."""
    figure = Figure(figsize=(3.25 * count, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, count, **options))
    for k, panel in enumerate(panels):
        panel.plot([0, 1], [0, high / 10**k], label="a line")
        panel.set(xlabel="step $t$", ylabel=r"sharpness, $\lambda_1$", title="title")
    return figure


def saved(figure: Figure, kind: str) -> bytes:
    """A figure as a notebook shows it."""
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=100)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plotting.use_style()
        yield


@pytest.mark.parametrize(("count", "high"), [(2, 1.0), (2, 12345.0), (3, 1e-3), (3, -0.05)])
def test_nothing_is_drawn_where_a_figure_is_cut(count, high):
    figure = drawn(count, high)
    edges = cuts(saved(figure, "svg").decode())
    assert len(edges) == count + 1
    assert (edges[0], edges[-1]) == (0, 1)
    assert min(np.diff(edges)) > 0.8 / count, "each has its part"
    pixels = np.asarray(Image.open(BytesIO(saved(figure, "png"))).convert("L"))
    blank = (pixels == 255).all(axis=0)
    for edge in edges[1:-1]:
        column = round(edge * pixels.shape[1])
        assert blank[column - 1 : column + 2].any(), "this picture rounds each place to a pixel"


def test_a_figure_whose_panels_share_something_stays_whole():
    shared, titled, legend, reaching = drawn(2, sharey=True), drawn(2), drawn(2), drawn(2)
    shared.axes[1].set(ylabel="", xlim=(0, 1))  # its first number stands to the left of its frame
    titled.suptitle("of both")
    legend.legend(*legend.axes[0].get_legend_handles_labels(), loc="outside lower center")
    reaching.axes[0].set_title("a title that is longer than its own panel is wide, by some words")
    rows = Figure()
    for panel in rows.subplots(2, 2).flat:
        panel.set_ylabel("y")
    for figure in (drawn(1), shared, titled, legend, reaching, rows):
        assert cuts(saved(figure, "svg").decode()) == []


PAGE = """<!DOCTYPE html><html lang="en"><head><title>One</title><script>
var DOCUMENTATION_OPTIONS = {{}};</script><style>{css}</style></head><body style="margin: 0">
<main class="bd-content"><div class="cell_output"><figure style="margin: 0">
<img src="a.svg" alt="Two panels of a line each" data-panels="{panels}"/>
<figcaption>Left: one.</figcaption></figure></div></main><script>{script}</script></body></html>"""


@pytest.mark.browser
def test_panels_stand_below_each_other_on_a_phone_alone(tmp_path):
    figure = saved(drawn(2), "svg")
    (tmp_path / "a.svg").write_bytes(figure)
    edges = cuts(figure.decode())
    static = ROOT / "chapters" / "_static"
    css, script = ((static / name).read_text(encoding="utf-8") for name in ("book.css", "book.js"))
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(css=css, script=script, panels=" ".join(map(str, edges))))
    with chromium() as driver:
        seen = {}
        for width in (1440, 390):
            set_viewport(driver, width, 900)
            driver.get(page.as_uri())
            settle(driver)
            seen[width] = driver.execute_script(
                """const box = (e) => { const b = e.getBoundingClientRect();
                    return [b.left, b.top, b.right, b.bottom]; };
                const all = (s) => [...document.querySelectorAll(s)].filter((e) => e.offsetParent);
                return {whole: all("figure > img").length, panels: all(".panel").map(box),
                    parts: all(".panel img").map(box), text: document.body.innerText,
                    said: all(".panels").map((e) => e.ariaLabel),
                    sideways: document.documentElement.scrollWidth}"""
            )
    assert (seen[1440]["whole"], seen[1440]["panels"]) == (1, [])
    phone = seen[390]
    assert phone["whole"] == 0
    assert phone["sideways"] == 390
    assert phone["said"] == ["Two panels of a line each"]
    assert phone["text"].split()[:2] == ["Left", "Right"], "as the caption calls them"
    (first, second), parts = phone["panels"], phone["parts"]
    assert first[3] <= second[1]
    for k, (frame, part) in enumerate(zip(phone["panels"], parts, strict=True)):
        assert (frame[0], frame[2]) == (0, 390)
        begins, ends = ((x - part[0]) / (part[2] - part[0]) for x in (frame[0], frame[2]))
        assert (begins, ends) == pytest.approx((edges[k], edges[k + 1]), abs=1e-3)
        assert frame[3] - frame[1] == pytest.approx(part[3] - part[1], abs=0.5), "its whole height"


@pytest.mark.book
def test_figures_of_the_book_are_cut():
    marked = 0
    for path in (HTML / "chapters").glob("*.html"):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for image in page.select("img[data-panels]"):
            drawing = (path.parent / image["src"]).read_text(encoding="utf-8")
            edges = list(map(float, image["data-panels"].split()))
            assert edges == pytest.approx(cuts(drawing), abs=1e-4)
            marked += 1
    assert marked > 20
