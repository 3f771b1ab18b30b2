"""The book's recurring figures draw what they say they draw."""

import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from flatminima import plotting
from flatminima.theory.scalar_network import ScalarNetwork
from flatminima.training import History
from study import ROOT

mpl.use("Agg")
EPS = np.finfo(float).eps


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def two_axes():
    figure, axes = plt.subplots(2)
    yield axes
    plt.close(figure)


def instability(target=1.0, eta=0.4, steps=40, sign=1.0):
    """A run that starts next to a minimum 15% sharper than the threshold."""
    network = ScalarNetwork(2, target)
    sharpness = 1.15 * 2 / eta
    start = network.at(0.01, sign * np.sqrt(sharpness**2 - 4 * target**2))
    return network, network.descend(start, eta, steps)


@pytest.mark.parametrize("target", [1.0, -1.0])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_segments_lie_along_the_leading_eigenvector(ax, target, side):
    network, run = instability(target, sign=side)
    segments = plotting.plot_trajectory(ax, run).get_segments()
    length = 0.1 * np.ptp(run.theta, axis=0).max()
    assert len(segments) == len(run.theta)
    for segment, theta in zip(segments, run.theta, strict=True):
        # Two ends of a few roundings each, of numbers below 4.
        tolerance = 20 * EPS * 4
        assert np.abs(segment.mean(axis=0) - theta).max() <= tolerance
        along = segment[1] - segment[0]
        assert abs(np.linalg.norm(along) - length) <= tolerance
        hessian = network.hessian(theta)
        # An eigenvector to the largest eigenvalue; its error is amplified by the Hessian.
        error = hessian @ along - network.sharpness(theta) * along
        assert np.abs(error).max() <= 20 * tolerance


def test_segments_are_colored_by_the_sign_of_the_residual(ax):
    network, run = instability()
    colors = plotting.plot_trajectory(ax, run).get_colors()
    above = mpl.colors.to_rgba(plotting.COLORS["vermillion"])
    below = mpl.colors.to_rgba(plotting.COLORS["blue"])
    signs = np.sign(network.residual(run.theta))
    assert {1.0, -1.0} <= set(signs)
    for color, sign in zip(colors, signs, strict=True):
        assert tuple(color) == (above if sign > 0 else below)
    assert plotting.residual_colors([0.0, np.nan]).tolist() == [plotting.COLORS["grey"]] * 2


def test_trajectory_is_drawn_to_scale_and_within_the_axes(ax):
    _, run = instability()
    segments = plotting.plot_trajectory(ax, run, slice(0, 10))
    assert len(segments.get_segments()) == 10
    assert ax.get_aspect() == 1
    ends = np.concatenate(segments.get_segments())
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left <= ends[:, 0].min() <= ends[:, 0].max() <= right
    assert bottom <= ends[:, 1].min() <= ends[:, 1].max() <= top
    # The green line is the manifold of minima, ab = 1.
    green = mpl.colors.to_rgba(plotting.COLORS["green"])
    lines = [c for c in ax.collections if tuple(c.get_edgecolor()[0]) == green]
    vertices = np.concatenate([path.vertices for path in lines[0].get_paths()])
    assert len(vertices) > 10
    # Linear interpolation of ab over a cell of width h errs by at most h^2 / 4.
    cell = max(right - left, top - bottom) / 200
    assert np.abs(vertices.prod(axis=1) - 1).max() <= cell**2


def test_points_after_divergence_and_undefined_directions_are_left_out(ax, two_axes):
    network = ScalarNetwork(2, 1.0)
    run = network.descend([5.0, 9.0], 0.2, 60)
    finite = ~np.isnan(run.theta).any(axis=-1)
    assert run.diverged
    # Only the first points: later ones are too large for contours of any use.
    assert len(plotting.plot_trajectory(ax, run, slice(0, 2)).get_segments()) == 2
    with pytest.raises(ValueError, match="finite point"):
        plotting.plot_trajectory(ax, run, slice(int(finite.sum()), None))
    # At (1, 1) with target 2 the Hessian is the identity; the run starts there.
    network = ScalarNetwork(2, 2.0)
    run = network.descend([1.0, 1.0], 0.1, 5)
    assert len(plotting.plot_trajectory(ax, run).get_segments()) == 5
    plotting.plot_sharpness_and_angle(two_axes, run, 0.1)


def test_sharpness_and_angle_against_step(two_axes):
    eta = 0.4
    network, run = instability(eta=eta)
    plotting.plot_sharpness_and_angle(two_axes, run, eta, slice(5, 25))
    for ax, expected in zip(two_axes, (run.sharpness, np.degrees(run.angle)), strict=True):
        curve, above, below = ax.lines[:3]
        assert np.array_equal(curve.get_xdata(), np.arange(5, 25))
        assert np.abs(curve.get_ydata() - expected[5:25]).max() <= 1e-12 * np.abs(expected).max()
        positive = np.flatnonzero(network.residual(run.theta[5:25]) > 0) + 5
        assert np.array_equal(above.get_xdata(), positive)
        assert len(above.get_xdata()) + len(below.get_xdata()) == 20
    assert two_axes[0].lines[3].get_ydata()[0] == 2 / eta
    assert two_axes[1].lines[3].get_ydata()[0] == 45


def test_the_angle_is_continuous_where_the_line_passes_the_end_of_its_range(two_axes):
    # kappa < 0 and y + 2r alternates in sign: phi jumps between nearly +90 and -90 degrees.
    eta = 0.1
    network = ScalarNetwork(2, 0.2)
    start = network.at(0.3, -20.5)
    run = network.descend(start, eta, 12)
    assert np.abs(np.diff(np.degrees(run.angle))).max() > 170
    plotting.plot_sharpness_and_angle(two_axes, run, eta)
    drawn = two_axes[1].lines[0].get_ydata()
    assert np.abs(np.diff(drawn)).max() < 90
    turns = (drawn - np.degrees(run.angle)) / 180
    assert np.abs(turns - np.round(turns)).max() <= 1e-12


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"trajectory": ScalarNetwork(3, 1.0).descend([1.0, 1, 1], 0.1, 5)}, "depth 2"),
        (
            {"trajectory": ScalarNetwork(2, 1.0).descend(np.ones((4, 2)), 0.1, 5)},
            "single",
        ),
    ],
)
def test_bad_input_is_refused_by_name(ax, change, names):
    with pytest.raises(ValueError, match=names):
        plotting.plot_trajectory(ax, **({"trajectory": instability()[1]} | change))


def test_a_learning_rate_must_be_positive(two_axes):
    with pytest.raises(ValueError, match="learning_rate"):
        plotting.plot_sharpness_and_angle(two_axes, instability()[1], 0.0)


def run_of(rates=None, **values):
    """Ten steps with one episode, from step 2 to step 6."""
    loss = np.array([1.0, 0.8, 0.5, 0.6, 0.9, 0.7, 0.4, 0.3, 0.2, 0.1])
    steps = np.arange(10)
    return History(0.5, steps, loss, loss, steps[::3], values, learning_rates=rates)


def test_a_run_shows_loss_sharpness_threshold_and_episodes(two_axes):
    history = run_of(sharpness=np.array([3.0, 5.0, 3.5, 3.0]))
    top, bottom = plotting.plot_run(history, two_axes)
    assert (top, bottom) == tuple(two_axes)
    (loss,), (sharpness, threshold) = top.lines, bottom.lines
    assert np.array_equal(loss.get_xydata(), np.column_stack([history.steps, history.loss]))
    assert sharpness.get_xdata().tolist() == [0, 3, 6, 9]
    assert sharpness.get_ydata().tolist() == [3.0, 5.0, 3.5, 3.0]
    assert set(threshold.get_ydata()) == {4.0}
    (episode,) = history.episodes()
    for ax in (top, bottom):
        (shade,) = ax.patches
        assert shade.get_extents().transformed(ax.transData.inverted()).intervalx == pytest.approx(
            [episode.start, episode.end]
        )
    assert [text.get_text() for text in bottom.get_legend().get_texts()] == [r"$2/\eta$"]


def test_a_run_may_change_its_rate_have_several_eigenvalues_and_no_episode():
    rates = np.array([0.5] * 5 + [0.25] * 5)
    history = run_of(rates, sharpness=np.full((4, 2), [3.0, 1.0]))
    top, bottom = plotting.plot_run(history)
    assert len(bottom.lines) == 3
    assert bottom.lines[-1].get_ydata().tolist() == [4.0] * 5 + [8.0] * 5
    assert not top.patches
    assert top.get_legend() is None
    plt.close(top.figure)


def test_a_run_without_a_sharpness_is_refused():
    with pytest.raises(ValueError, match="name must be one of loss; got 'sharpness'"):
        plotting.plot_run(run_of(loss=np.ones(4)))


# On a dark page, where the style sheets turn the figures around


def filters():
    """The CSS filters of figures on dark pages, one of each style sheet, as name and number."""
    for sheet in ("book", "backmatter"):
        text = (ROOT / f"chapters/_static/{sheet}.css").read_text(encoding="utf-8")
        (found,) = re.findall(r"filter: (invert.*);", text)
        yield [(name, float(number)) for name, number in re.findall(r"([a-z-]+)\(([\d.]+)", found)]


def on_a_dark_page(color, steps):
    """What the filters make of a color, by the matrices of the Filter Effects Module."""
    rgb = np.array(to_rgb(color))
    for name, amount in steps:
        if name == "hue-rotate":
            cos, sin = np.cos(np.deg2rad(amount)), np.sin(np.deg2rad(amount))
            weights = np.array([0.213, 0.715, 0.072])
            turned = [[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]]
            rgb = weights @ rgb + cos * (rgb - weights @ rgb) + sin * (np.array(turned) @ rgb)
        else:
            rgb = {"invert": amount + (1 - 2 * amount) * rgb, "brightness": amount * rgb}[name]
        rgb = np.clip(rgb, 0, 1)
    return rgb


def luminance(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_on_a_dark_page_the_ground_is_that_of_the_page_and_no_color_fades():
    one, other = filters()
    assert one == other
    ground = on_a_dark_page("white", one)
    assert np.all(np.abs(255 * ground - 0x12) < 1), "the page's ground is #121212"
    for name, color in plotting.COLORS.items():
        if name != "yellow":  # in which nothing is drawn
            seen = on_a_dark_page(color, one)
            contrast = (luminance(seen) + 0.05) / (luminance(ground) + 0.05)
            assert contrast > 4.5, (name, contrast)
