"""The effects of the claims as strip charts: those that share a unit, on one axis, with intervals.

Each claim is a strip, each of its effects a line from one end of the interval to the other, and the
mark on it says what that interval decides. They are drawn from the findings that fill the table.
"""

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from docutils import nodes
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatminima import plotting
from flatminima._files import write_atomically
from flatminima.statistics import Interval
from study import claims
from study.pages.drawn import DrawnFigure
from study.pages.findings import NotExecutedError, findings
from study.pages.generated import logger, rerun_on_change


class Axis(NamedTuple):
    """What the effects of a unit are drawn on.

    Attributes:
        label: below the axis.
        scaled: an interval in the unit -> as it stands on the axis.
        lines: place -> what is written at it; the first is where nothing changes.
        log: whether the axis is logarithmic.
        limits: what is drawn; a test finds every interval within.
    """

    label: str
    scaled: Callable[[Interval], Interval]
    lines: dict[float, str]
    log: bool
    limits: tuple[float, float]


AXES = {
    claims.ACCURACY: Axis(
        "difference in test accuracy (points)",
        lambda interval: 100 * interval,
        {0: "no gain", 100 * claims.SMALLEST_GAIN: "0.3, the least that counts"},
        log=False,
        limits=(-6.0, 4.0),
    ),
    claims.SHARPNESS: Axis(
        "sharpness, as a multiple of that compared with",
        lambda interval: interval.map(math.exp),
        {1: "as sharp"},
        log=True,
        limits=(1 / 8, 5.0),
    ),
}
LOOKS = {
    "reproduced": ("green", "o", "full"),
    "undecided": ("blue", "o", "none"),
    "excluded": ("purple", "s", "none"),
    "contradicted": ("vermillion", "X", "full"),
}
"""Verdict of an interval -> color, mark, and how the mark is filled."""
SHORT = {
    "beyond": "A rate beyond the limit does better",
    "beyond-larger": "So it does at full resolution",
    "beyond-natural": "So does a CNN on natural images",
    "accurate": "Half the sharpness does better",
    "accurate-larger": "At full resolution, rates compared",
    "wrong-labels": "More is gained where labels are wrong",
    "ends": "Still larger rates do worse (below 0)",
    "ends-many": "So they do in many settings (below 0)",
    "ends-natural": "So they do on natural images (below 0)",
    "flatter": "Past the limit training ends flatter",
    "flatter-natural": "So does a CNN on natural images",
    "outlasts": "The flatness outlasts the rate",
    "flat-starts": "Flat starts need no instability",
    "episode-flattens": "Instabilities flatten; stable training sharpens",
    "persists": "The flattening persists in SGD",
    "outweighs": "Instability outweighs the noise",
    "outweighs-in-time": "Also over as much training time",
    "outweighs-matched": "Also at as much diffusion",
    "instability-adds": "Instability adds to noise",
    "adam-flatter": "Restored instabilities flatten under Adam",
    "adam-accurate": "Restored instabilities help Adam",
    "adam-small-rate-flatter": "Also at a small rate",
    "adam-small-rate-accurate": "They do at a small rate",
    "adam-tuned": "They do with each rate tuned",
    "adam-beats-slow": "They do more than a slow second moment",
}
"""Key of a claim -> what stands above its strip, where its statement leans on others."""
WIDTH = {"wide": 7.4, "narrow": 3.7}
LETTERS = {"wide": 92, "narrow": 48}
"""Width of the figure in inches, and how many letters of a claim go on a line above its strip."""
ROW, LINE, GAP = 0.115, 0.19, 0.08
"""Height of an effect, of a line of text, and of the space below a claim, in inches."""

Strip = tuple[claims.Finding, list[claims.Effect]]
"""A claim with those of its effects that are drawn."""


def strips(found: Sequence[claims.Finding], unit: str) -> list[Strip]:
    """The claims that have effects with an interval in a unit, with these."""
    kept = [(f, [e for e in f.effects if e.unit == unit and e.interval]) for f in found]
    return [(finding, effects) for finding, effects in kept if effects]


def heading(claim: claims.Claim, letters: int) -> list[str]:
    """What a claim says, with its number, in lines that break in no formula."""
    said = SHORT.get(claim.key, claim.statement).replace("*", "")
    said = f"{claim.part}. {said}" + (", ours" if claim.ours else "")
    said = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", "\u00a0"), said)
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(said, letters)]


def draw(found: Sequence[claims.Finding], unit: str, path: Path, layout: str) -> None:
    """Draw the effects in a unit, ACCURACY or SHARPNESS, as SVG, "wide" or "narrow".

    Raises:
        ValueError: if no claim has an effect in the unit.
    """
    shown = strips(found, unit)
    if not shown:
        raise ValueError(f"no claim has an effect in the unit {unit!r}")
    plotting.use_style()
    headings = [heading(finding.claim, LETTERS[layout]) for finding, _ in shown]
    high = sum(
        LINE * len(h) + ROW * len(e) + GAP for h, (_, e) in zip(headings, shown, strict=True)
    )
    with mpl.rc_context({"font.size": 9.5, "axes.labelsize": 10, "legend.fontsize": 9.5}):
        figure = Figure(figsize=(WIDTH[layout], high + 1.1), layout="constrained")
        axes = figure.subplots()
        below = 0.0
        for said, (_, effects) in zip(headings, shown, strict=True):
            below += LINE * len(said)
            text = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 9.5}
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.text(0, below - 0.03, "\n".join(said), bbox=ground, **text)
            for effect in effects:
                below += ROW
                _line(axes, AXES[unit], effect, below - ROW / 2)
            below += GAP
        _frame(axes, AXES[unit], below)
        columns = {"wide": 4, "narrow": 2}[layout]
        figure.legend(handles=_legend(shown), loc="outside upper left", ncols=columns)
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomically(path, drawn.getvalue())


def _line(axes: Axes, axis: Axis, effect: claims.Effect, at: float) -> None:
    color, marker, fill = LOOKS[effect.verdict]
    style = {"color": plotting.COLORS[color], "solid_capstyle": "butt"}
    value, low, high = axis.scaled(effect.interval)
    axes.plot([low, high], [at, at], linewidth=1.4, **style)
    axes.plot(value, at, marker, ms=4.2, fillstyle=fill, mew=1, mfc=_inside(color, fill), **style)


def _inside(color: str, fill: str) -> str:
    return "white" if fill == "none" else plotting.COLORS[color]


def _frame(axes: Axes, axis: Axis, below: float) -> None:
    axes.set(ylim=(below, -0.24), xlabel=axis.label, xlim=axis.limits)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    if axis.log:
        axes.set_xscale("log", base=2)
        ticks = [2.0**k for k in range(-3, 3)]
        axes.set_xticks(ticks, [f"1/{1 / t:.0f}" if t < 1 else f"{t:.0f}" for t in ticks])
    for number, (place, said) in enumerate(axis.lines.items()):
        style = {"color": plotting.COLORS["grey"], "linewidth": 1, "zorder": 0}
        axes.axvline(place, linestyle=":" if number else "-", **style)
        side = "left" if number else "right"
        axes.text(place, -0.05, f" {said} ", ha=side, va="bottom", color="#444444", fontsize=9)


def _legend(shown: Sequence[Strip]) -> list[Line2D]:
    said = {effect.verdict for _, effects in shown for effect in effects}
    handles = []
    for verdict, (color, marker, fill) in LOOKS.items():
        if verdict in said:
            style = {"color": plotting.COLORS[color], "mfc": _inside(color, fill)}
            handles.append(Line2D([], [], marker=marker, fillstyle=fill, label=verdict, **style))
    return handles


class ClaimsChart(DrawnFigure):
    """The strip chart of a unit, given as the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chapters = Path(self.env.srcdir) / "chapters"
        rerun_on_change(self.env, chapters)
        self.env.note_dependency(__file__)
        if self.arguments[0] not in AXES:
            raise self.error(f"a chart is of one of {list(AXES)}, got {self.arguments[0]!r}")
        self.kind = f"chart-{self.arguments[0]}"
        try:
            self.found = findings(chapters)
        except NotExecutedError as error:
            logger.warning(f"the chapters are not executed: {error}", location=self.get_location())
            return [nodes.paragraph("", f"This chart needs the executed chapters: {error}.")]
        return super().run()

    def draw(self, path: Path, layout: str) -> None:
        draw(self.found, self.arguments[0], path, layout)


def register(app) -> None:
    """Register the directive."""
    app.add_directive("claims-chart", ClaimsChart)
