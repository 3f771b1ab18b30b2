"""One style for every figure of the book, and the elements that recur in them.

The palette is that of Okabe and Ito, which readers with any of the common forms of color
blindness can tell apart. Figures have a white background; the book's style sheet inverts their
lightness (and keeps their hue) when the page is dark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flatminima._validation import a_list, finite_float, instance_of, numbers, positive_float

__all__ = [
    "COLORS",
    "CYCLE",
    "plot_run",
    "plot_sharpness_and_angle",
    "plot_trajectory",
    "residual_colors",
    "threshold_line",
    "use_style",
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

    from flatminima.theory.scalar_network import ScalarTrajectory
    from flatminima.training.history import History

COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "skyblue": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "grey": "#6E6E6E",
}
"""Named colors: blue for what is stable or measured, vermillion for thresholds and instability,
green for what is flat or predicted."""

CYCLE = tuple(COLORS[n] for n in ("blue", "vermillion", "green", "orange", "purple", "skyblue"))
"""The colors of curves, in the order in which they are taken."""


def use_style() -> None:
    """Set the book's style for all later figures, and SVG output inside a notebook."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rc("figure", figsize=(6.4, 3.4), dpi=100)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("savefig", dpi=200)
    mpl.rc("font", size=12)
    mpl.rc("axes", titlesize=12, labelsize=12, grid=True, prop_cycle=cycler(color=CYCLE))
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc(("xtick", "ytick"), labelsize=11)
    mpl.rc("legend", fontsize=10.5, frameon=False)
    mpl.rc("grid", alpha=0.25, linewidth=0.6)
    mpl.rc("lines", linewidth=1.6)
    mpl.rc("image", cmap="cividis")
    mpl.rc("svg", hashsalt="flatminima", fonttype="path")
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None})


def threshold_line(ax: Axes, level: float, label: str | None = r"$2/\eta$", **style: object):
    """Draw a stability threshold as the book draws it: a dashed vermillion line at ``level``.

    Example:
        >>> from matplotlib import pyplot
        >>> threshold_line(pyplot.subplots()[1], 20.0).get_linestyle()
        '--'
    """
    _axes("ax", [ax])
    level = finite_float("level", level)
    if label is not None:
        instance_of("label", label, str)
    style = {"color": COLORS["vermillion"], "linestyle": "--", "linewidth": 1.2} | style
    return ax.axhline(level, label=label, **style)


def residual_colors(residual: object) -> np.ndarray:
    """The color of each residual: vermillion above zero, blue below, grey at zero or NaN.

    Example:
        >>> residual_colors([0.1, -0.1]).tolist() == [COLORS["vermillion"], COLORS["blue"]]
        True
    """
    residual = numbers("residual", residual)
    above, below = COLORS["vermillion"], COLORS["blue"]
    return np.where(residual > 0, above, np.where(residual < 0, below, COLORS["grey"]))


def plot_trajectory(
    ax: Axes, trajectory: ScalarTrajectory, shown: slice = slice(None)
) -> LineCollection:
    """Draw one trajectory of a network of depth 2 in the (a, b) plane, with v_1 at each step.

    Grey contours are those of the loss, at equal steps of the residual; the green line is the
    manifold of minima, r = 0. A short segment through each point of the trajectory lies along
    the leading eigenvector v_1, and its color is that of the residual's sign
    (:func:`residual_colors`). The axes get equal scales, so that angles can be read off.

    Points after divergence, and segments where v_1 is undefined, are left out. ``shown`` picks from
    the recorded times; the segments are returned in their order. ValueError for another depth, a
    batch of trajectories, or no finite point to show.

    Example:
        >>> from matplotlib import pyplot
        >>> from flatminima.theory.scalar_network import ScalarNetwork
        >>> run = ScalarNetwork(2, 1.0).descend([0.5, 2.1], 0.4, 10)
        >>> len(plot_trajectory(pyplot.subplots()[1], run).get_segments())
        11
    """
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    _axes("ax", [ax])
    theta, residual = _single(trajectory, shown)
    low, high = theta.min(axis=0), theta.max(axis=0)
    # A run that stays where it is has no range of its own; its size takes the place.
    length = 0.1 * (np.max(high - low) or np.max(np.abs(theta)) or 1.0)
    margin = 0.6 * length + 0.04 * np.max(high - low)
    (left, bottom), (right, top) = low - margin, high + margin
    network = trajectory.network
    a, b = np.meshgrid(np.linspace(left, right, 201), np.linspace(bottom, top, 201))
    field = network.residual(np.stack([a, b], axis=-1))
    levels = np.linspace(0, np.abs(field).max(), 9)[1:-1]
    ax.contour(
        a, b, field**2 / 2, levels=levels**2 / 2, colors=COLORS["grey"], linewidths=0.6, alpha=0.5
    )
    if field.min() < 0 < field.max():
        ax.contour(a, b, field, levels=[0.0], colors=COLORS["green"], linewidths=1.6)
    ax.plot(*theta.T, color=COLORS["grey"], linewidth=0.7, zorder=2)
    direction = network.leading_eigenvector(theta)
    defined = ~np.isnan(direction).any(axis=-1)
    centers, halves = theta[defined], direction[defined] * length / 2
    segments = LineCollection(
        np.stack([centers - halves, centers + halves], axis=1),
        colors=residual_colors(residual[defined]),
        linewidths=2.0,
        capstyle="round",
        zorder=3,
    )
    ax.add_collection(segments, autolim=False)
    ax.plot(*theta.T, ".", color=COLORS["black"], markersize=3, zorder=4)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="$a$", ylabel="$b$", aspect="equal")
    ax.grid(False)
    entries = {"vermillion": "$v_1$, $r > 0$", "blue": "$v_1$, $r < 0$", "green": "minima"}
    handles = [Line2D([], [], color=COLORS[c], linewidth=2, label=t) for c, t in entries.items()]
    # Above the axes, where it hides no part of the plane.
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "borderaxespad": 0.3}
    ax.legend(handles=handles, ncols=3, handlelength=1.0, columnspacing=0.9, **above)
    return segments


def plot_run(history: History, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Draw the loss of a run, and below it the sharpness with 2/eta; episodes are shaded.

    The run has a probe named ``sharpness``, of one eigenvalue or several; ValueError if it has not.
    The two axes, by default those of a new figure, are returned.

    Example:
        >>> from flatminima.training import History
        >>> loss = np.array([1.0, 0.5, 0.8, 0.9, 0.4])
        >>> probed = np.array([0, 2, 4]), {"sharpness": np.array([1.0, 3.0, 1.0])}
        >>> axes = plot_run(History(1.0, np.arange(5), loss, loss, *probed))
        >>> [ax.get_ylabel() for ax in axes]
        ['training loss', 'sharpness']
    """
    from flatminima.training.history import History

    episodes = instance_of("history", history, History).episodes()
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(2, 1, figsize=(6.4, 4.6), sharex=True, layout="constrained")[1]
    top, bottom = _axes("axes", axes, 2)
    top.semilogy(history.steps, history.loss, color=COLORS["blue"], linewidth=1)
    bottom.plot(history.probe_steps, history.probes["sharpness"], color=COLORS["blue"])
    bottom.plot(
        history.steps, 2 / history.rates, color=COLORS["vermillion"], linestyle="--",
        linewidth=1.2, drawstyle="steps-post", label=r"$2/\eta$",
    )  # fmt: skip
    for ax in axes:
        for i, episode in enumerate(episodes):
            label = None if i or ax is bottom else "episodes"
            shade = {"color": COLORS["orange"], "alpha": 0.3, "linewidth": 0}
            ax.axvspan(episode.start, episode.end, label=label, **shade)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    top.set_ylabel("training loss")
    bottom.set(xlabel="step", ylabel="sharpness")
    return top, bottom


def plot_sharpness_and_angle(
    axes: tuple[Axes, Axes],
    trajectory: ScalarTrajectory,
    learning_rate: float,
    shown: slice = slice(None),
) -> None:
    """Draw sharpness, with 2/eta, and the angle of v_1 against the step, on two axes.

    A triangle marks each step, upward and vermillion where the residual is positive, downward and
    blue where it is negative. The angle is in degrees and continuous from step to step: a line
    has no direction, so an angle and the same angle plus 180 degrees are one line. A dotted line
    marks 45 degrees, the balanced diagonal (or -45 for a negative target).

    The first of the axes is for the sharpness, the second for the angle; ``trajectory``, ``shown``
    and errors are as in :func:`plot_trajectory`, with a ValueError for a learning rate <= 0.

    Example:
        >>> from matplotlib import pyplot
        >>> from flatminima.theory.scalar_network import ScalarNetwork
        >>> run = ScalarNetwork(2, 1.0).descend([0.5, 2.1], 0.4, 10)
        >>> axes = pyplot.subplots(2, 1)[1]
        >>> plot_sharpness_and_angle(axes, run, 0.4)
        >>> axes[1].get_xlabel()
        'step $t$'
    """
    axes = _axes("axes", axes, 2)
    threshold = 2 / positive_float("learning_rate", learning_rate)
    theta, residual = _single(trajectory, shown)
    network = trajectory.network
    steps = np.asarray(trajectory.steps)[shown][: len(theta)]
    angle = np.degrees(network.angle(theta))
    defined = ~np.isnan(angle)
    angle[defined] = np.unwrap(angle[defined], period=180.0)
    for ax, values in zip(axes, (network.sharpness(theta), angle), strict=True):
        ax.plot(steps, values, color=COLORS["grey"], linewidth=0.8)
        for sign, marker in ((1, "^"), (-1, "v")):
            at = np.sign(residual) == sign
            color = str(residual_colors(sign))
            ax.plot(steps[at], values[at], marker, color=color, markersize=4)
    threshold_line(axes[0], threshold)
    axes[0].set_ylabel(r"sharpness $\lambda_1$")
    diagonal = 45.0 if network.target >= 0 else -45.0
    axes[1].axhline(diagonal, color=COLORS["green"], linestyle=":", label="balanced diagonal")
    axes[1].set(xlabel="step $t$", ylabel=r"angle $\varphi$ (degrees)")
    for ax in axes:
        ax.legend()


def _axes(name: str, value: object, count: int = 1) -> list:
    """So many axes to draw on; TypeError or ValueError for anything else."""
    from matplotlib.axes import Axes

    found = a_list(name, value)
    if len(found) != count:
        raise ValueError(f"{name} must be {count} axes, got {len(found)}")
    return [instance_of(name, ax, Axes) for ax in found]


def _single(trajectory: ScalarTrajectory, shown: slice) -> tuple[np.ndarray, np.ndarray]:
    """Points (times, 2) and residuals of one trajectory at depth 2, up to its divergence."""
    from flatminima.theory.scalar_network import ScalarTrajectory

    instance_of("trajectory", trajectory, ScalarTrajectory)
    instance_of("shown", shown, slice)
    theta = np.asarray(trajectory.theta)
    if trajectory.network.depth != 2 or theta.ndim != 2:
        raise ValueError(
            "trajectory must be a single one of a network of depth 2, theta of shape (times, 2); "
            f"got depth {trajectory.network.depth} and theta of shape {theta.shape}"
        )
    theta = theta[shown]
    theta = theta[~np.isnan(theta).any(axis=-1)]
    if len(theta) == 0:
        raise ValueError(f"trajectory must have a finite point among those shown, {shown}")
    return theta, trajectory.network.residual(theta)
