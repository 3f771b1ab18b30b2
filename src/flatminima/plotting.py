"""One style for every figure of the book, and the elements that recur in them.

The palette is that of Okabe and Ito, which readers with any of the common forms of color
blindness can tell apart. Figures have a white background; the book's style sheet inverts their
lightness (and keeps their hue) when the page is dark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def use_style() -> None:
    """Set the book's style for all later figures, and SVG output inside a notebook."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.4),
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 10.5,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.6,
            "image.cmap": "cividis",
            "svg.hashsalt": "flatminima",
            "svg.fonttype": "path",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None})


def threshold_line(ax: Axes, level: float, label: str | None = r"$2/\eta$", **style: object):
    """Draw a stability threshold as the book draws it: a dashed vermillion line at ``level``."""
    style = {"color": COLORS["vermillion"], "linestyle": "--", "linewidth": 1.2} | style
    return ax.axhline(level, label=label, **style)


def glue_number(name: str, value: float | int | str, fmt: str = ".3g") -> None:
    """Make a computed number available to the prose as ``{glue:text}`name```.

    A number is formatted with ``fmt`` first, in plain decimal or as ``a × 10^b``; a string is
    glued as it is.
    """
    from myst_nb import glue

    class Text:
        def __init__(self, text: str) -> None:
            self.text = text

        def __repr__(self) -> str:
            return self.text

    text = value if isinstance(value, str) else format(value, fmt)
    if not isinstance(value, str) and "e" in text:
        mantissa, exponent = text.split("e")
        superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"{mantissa} × 10{superscript}"
    glue(name, Text(text), display=False)
