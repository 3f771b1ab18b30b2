"""The figure of the start page: one instability of the smallest deep network, and its numbers.

It is drawn from a run of the library each time the page is built, as in the chapter on polarity. A
directive draws it, not a cell, because the start page is no notebook: it is to be read before
anything is run, and a page with cells would open with what Colab and JupyterLab need.
"""

from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxRole

from flatminima import plotting
from flatminima._files import write_atomically
from flatminima.theory.scalar_network import ScalarNetwork, ScalarTrajectory
from study.pages import citing
from study.pages.drawn import DrawnFigure

RATE, EXCESS, STEPS = 0.4, 1.2, 60
SHOWN = slice(0, 41)
SIZES = {"wide": (9.6, 2.8), "narrow": (4.0, 7.6)}
PREVIEW = (12, 6.3)
"""Size in hundreds of pixels of the picture for shared links, as the services ask for it."""
PREVIEW_FILE = "_static/preview.png"


@cache
def run(excess: float = EXCESS) -> ScalarTrajectory:
    """Gradient descent from next to a minimum whose sharpness is ``excess`` times 2 / eta."""
    network = ScalarNetwork(depth=2, target=1.0)
    kappa = np.sqrt((excess * 2 / RATE) ** 2 - 4)
    return network.descend(network.at(residual=0.01, kappa=kappa), RATE, STEPS)


def numbers(trajectory: ScalarTrajectory | None = None) -> dict[str, str]:
    """What the caption says of the run, by name.

    Raises:
        ValueError: if the run does not show what the caption says it does.
    """
    shown = trajectory or run()
    scaled, angle = shown.sharpness * RATE / 2, np.degrees(shown.angle)
    rises = np.abs(shown.residual).max() / np.abs(shown.residual[0])
    if shown.diverged or not scaled[-1] < 1 < scaled[0] or rises < 2 or angle[-1] <= angle[0]:
        raise ValueError("the run of the opening figure must be unstable, turn and end flatter")
    degrees = {"low": angle.min(), "high": angle.max(), "first": angle[0], "last": angle[-1]}
    found = {"before": f"{scaled[0]:.2f}", "after": f"{scaled[-1]:.2f}", "rate": f"{RATE:g}"}
    return found | {name: f"{value:.0f}" for name, value in degrees.items()}


def draw(path: Path, layout: str) -> None:
    """Draw the trajectory with v_1, the angle of v_1 and the sharpness, as SVG.

    The layout is ``"wide"``, side by side, or ``"narrow"``, one above the other for a phone.
    """
    numbers()
    plotting.use_style()
    with mpl.rc_context({"font.size": 11, "axes.labelsize": 11, "legend.fontsize": 10}):
        figure = Figure(figsize=SIZES[layout], layout="constrained")
        shape, ratios = ((1, 3), "width_ratios") if layout == "wide" else ((3, 1), "height_ratios")
        plane, angle, sharpness = figure.subplots(*shape, **{ratios: [1.25, 1, 1]})
        _fill(plane, angle, sharpness)
        points = run().theta
        for point, name, shift in ((points[0], "start", (-44, 8)), (points[-1], "end", (16, -5))):
            plane.annotate(name, point, shift, textcoords="offset points", fontsize=10)
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomically(path, drawn.getvalue())


def _fill(plane, angle, sharpness) -> None:
    """Draw the three panels of the run."""
    plotting.plot_trajectory(plane, run(), SHOWN)
    plotting.plot_sharpness_and_angle((sharpness, angle), run(), RATE, SHOWN)
    sharpness.set_xlabel("step $t$")
    angle.set_title("$v_1$ turns")
    sharpness.set_title("the sharpness falls")


def draw_preview(path: Path) -> None:
    """Draw what services show where a page of the book is shared: its title and this figure."""
    plotting.use_style()
    title, subtitle = citing.title().split(": ")
    sizes = {"axes.titlesize": 19, "axes.labelsize": 17, "legend.fontsize": 14, "font.size": 16}
    with mpl.rc_context(sizes | {"xtick.labelsize": 14, "ytick.labelsize": 14}):
        figure = Figure(figsize=PREVIEW, layout="constrained")
        figure.get_layout_engine().set(rect=(0.02, 0.02, 0.96, 0.7), w_pad=0.15)
        figure.text(0.04, 0.86, title, fontsize=46)
        figure.text(0.04, 0.775, subtitle[0].upper() + subtitle[1:], fontsize=25, color="#444444")
        plane, angle, sharpness = figure.subplots(1, 3, width_ratios=[1.45, 1, 1])
        _fill(plane, angle, sharpness)
        angle.get_legend().remove()  # it names a line that the picture can do without
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=100, metadata={"Software": None})
    write_atomically(path, drawn.getvalue())


class OpeningFigure(DrawnFigure):
    """The figure of the start page: alive where scripts run, and else at rest."""

    kind = "opening"

    def draw(self, path: Path, layout: str) -> None:
        draw(path, layout)
        self.env.note_dependency(__file__)


class OpeningNumber(SphinxRole):
    """A number of the run in the opening figure."""

    def run(self):
        return [nodes.Text(numbers()[self.text].replace("-", "−"))], []


def write_preview(app, exception) -> None:
    """Write the picture for shared links beside the pages."""
    if not exception and app.builder.format == "html":
        draw_preview(Path(app.outdir, PREVIEW_FILE))


def register(app) -> None:
    """Register the figure, the role that quotes its numbers, and the picture for shared links."""
    app.connect("build-finished", write_preview)
    app.add_directive("opening-figure", OpeningFigure)
    app.add_role("opening", OpeningNumber())
