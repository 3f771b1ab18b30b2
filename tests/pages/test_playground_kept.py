"""Runs that a reader keeps on the playgrounds, and compares with others."""

import json
from itertools import pairwise

import numpy as np
import pytest
from browsing import set_viewport
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from test_book_browser import axe
from test_playground import driver, every_playground, open_page, site  # noqa: F401

pytestmark = [pytest.mark.book, pytest.mark.browser]

COMPARED = {"scalar": ["sharp", "budget"], "quadratic": ["along", "fall"], "maps": ["time"]}
"""Name of a playground -> its plots over steps."""
PLANES = ("scalar", "quadratic")
every_plane = pytest.mark.parametrize("name", PLANES)

KEEP, FORGET = "Keep this run", "Forget the kept"


def set_to(page, key, value):
    field = page.find(f"[data-key={key}] [type=number]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(repr(value))
    page.frame()


def set_axis(page, which):
    Select(page.find("[data-key=axis] select")).select_by_index(which)
    page.frame()


def keep(page):
    page.click(KEEP)
    page.frame()


def kept(page, body="[k.number, k.name, k.shown, k.color]"):
    return page.script(f"return page.kept().map((k) => {body})")


def names(page):
    return [name for _, name, _, _ in kept(page)]


def forget_button(page):
    found = [b for b in page.all("button") if b.get_attribute("textContent") == FORGET]
    assert len(found) == 1
    return found[0]


def legend(page, plot):
    return page.script(
        "return page.plots()[arguments[0]].element.querySelector('.pg-legend').textContent", plot
    )


def words(page, plot):
    return page.script("return page.plots()[arguments[0]].canvas.getAttribute('aria-label')", plot)


def axis(page, plot):
    """End, unit and label of a plot's axis of steps."""
    return page.script(
        "const {x} = page.plots()[arguments[0]]; return [x.domain[1], x.unit, x.label]", plot
    )


@every_playground
def test_a_run_is_kept_as_far_as_it_is_shown(open_page, name):  # noqa: F811
    page = open_page(name)
    keep(page)
    assert kept(page) == [], "it has not begun"
    assert "Nothing is kept yet" in page.find(".pg-keeping [role=status]").text
    assert not forget_button(page).is_displayed()

    for _ in range(3):
        page.click("Step")
    shown = page.script("return JSON.stringify(page.state())")
    keep(page)
    assert [(number, steps) for number, _, steps, _ in kept(page)] == [(1, 3)]
    assert "Run 1 stays" in page.find(".pg-keeping [role=status]").text
    page.end()
    keep(page)
    last = page.script("return page.at()")
    assert [(number, steps) for number, _, steps, _ in kept(page)] == [(1, 3), (2, last)]

    page.find("[data-key=eta] [type=range]").send_keys(Keys.ARROW_LEFT)
    assert page.script("return JSON.stringify(page.state())") != shown
    assert kept(page, "JSON.stringify(k.run)") == [shown, shown]


@every_playground
def test_kept_runs_are_drawn_named_and_forgotten(open_page, name):  # noqa: F811
    page = open_page(name)
    page.end()
    plain = page.pictures()
    keep(page)
    eta = page.values()["eta"]
    set_to(page, "eta", 0.75 * eta)
    keep(page)
    set_to(page, "eta", eta)
    assert (
        page.script("return JSON.stringify(page.state())") == kept(page, "JSON.stringify(k.run)")[0]
    ), "back at the run that was kept first"
    behind = page.pictures()
    plots = page.script("return Object.keys(page.plots())")
    drawn = {*COMPARED[name], *(["plane"] if name in PLANES else [])}
    changed = {p for p, a, b in zip(plots, plain, behind, strict=True) if a != b}
    assert changed == drawn
    for plot in plots:
        for run in names(page):
            assert (run in legend(page, plot)) == (plot in drawn), plot
            assert (run in words(page, plot)) == (plot in drawn), plot
    page.click(FORGET)
    assert page.pictures() == plain
    assert kept(page) == []
    assert not forget_button(page).is_displayed()
    assert page.find(".pg-keeping [role=status]").text == ""
    for plot in plots:
        assert "1: " not in legend(page, plot)
        assert "ept run" not in words(page, plot)
    assert page.errors() == []


@every_playground
def test_the_oldest_makes_room_and_colors_stay(open_page, name):  # noqa: F811
    page = open_page(name)
    page.end()
    before = {}
    for number in range(1, 7):
        keep(page)
        now = {n: color for n, _, _, color in kept(page)}
        assert list(now) == list(range(max(1, number - 3), number + 1))
        assert len(set(now.values())) == len(now), "no two look alike"
        assert all(now[n] == before[n] for n in now.keys() & before.keys())
        before = now


@every_playground
def test_kept_runs_are_saved(open_page, name, tmp_path):  # noqa: F811
    page = open_page(name)
    page.end()
    keep(page)
    settings = page.values()
    page.find("[data-key=eta] [type=range]").send_keys(Keys.ARROW_LEFT)
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    for kind in ("json", "png"):
        page.click(f"Save as {kind.upper()}")
        page.until((tmp_path / f"{name}.{kind}").exists)
    saved = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert saved["settings"] == page.values() != settings
    assert [run["name"] for run in saved["kept"]] == names(page)
    (run,) = saved["kept"]
    assert run["settings"].items() <= settings.items()
    assert run["run"]["eta"] == settings["eta"]
    assert run["run"].keys() == saved["run"].keys()
    assert run["shown"] == page.script("return page.kept()[0].shown")
    image = (tmp_path / f"{name}.png").read_bytes()
    width, height = (int.from_bytes(image[i : i + 4], "big") for i in (16, 20))
    plots = page.script(
        "return [...root.querySelectorAll('canvas')].map((c) => [c.width, c.height])"
    )
    assert width == max(w for w, _ in plots)
    # Above each picture stands its title, and at least on the plots over steps a legend.
    legends = len(COMPARED[name])
    assert height >= sum(h + 16 + 22 for _, h in plots) + 16 + 18 * legends


@every_playground
def test_kept_and_forgotten_by_keyboard(open_page, name):  # noqa: F811
    page = open_page(name)
    page.end()
    page.script(
        "[...root.querySelectorAll('button')].find((b) => b.textContent === arguments[0]).focus()",
        KEEP,
    )
    page.press(Keys.ENTER)
    assert len(kept(page)) == 1
    page.press(Keys.TAB)
    focused = "return document.activeElement.textContent"
    assert page.script(focused) == FORGET
    assert page.script("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press(Keys.SPACE)
    assert kept(page) == []
    assert page.script(focused) == KEEP, "the focus is not lost with the button"


@every_playground
def test_axe_finds_nothing_serious_with_kept_runs(open_page, name):  # noqa: F811
    page = open_page(name)
    page.end()
    keep(page)
    for theme in ("light", "dark"):
        assert [line for line in axe(page.driver, theme) if "pg-" in line] == []


@every_playground
@pytest.mark.parametrize("width", [320, 390])
def test_kept_runs_fit_narrow_screens(open_page, name, width):  # noqa: F811
    page = open_page(name)
    set_viewport(page.driver, width, 844)
    page.frame()
    page.end()
    for _ in range(4):
        keep(page)
    assert page.script("return document.documentElement.scrollWidth") <= width
    outside = page.script(
        """return [...root.querySelectorAll('.pg-keeping, .pg-keeping *, .pg-entry')]
            .filter((e) => {
                const box = e.getBoundingClientRect();
                return box.left < -0.5 || box.right > innerWidth + 0.5;
            }).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert outside == []
    for text in (KEEP, FORGET):
        box = page.button(text).rect
        assert min(box["width"], box["height"]) >= 24


# Axes that runs share


@every_plane
def test_runs_of_two_rates_share_the_axis_of_time(open_page, name):  # noqa: F811
    page = open_page(name)
    page.end()
    eta, last = page.values()["eta"], page.script("return page.at()")
    keep(page)
    set_to(page, "eta", eta / 2)
    half = page.values()["eta"]
    for plot in COMPARED[name]:
        assert axis(page, plot) == [last, 1, "step t"]
        assert "axis is time" not in words(page, plot)
    over_steps = page.pictures()
    set_axis(page, 1)
    for plot in COMPARED[name]:
        end, unit, label = axis(page, plot)
        assert (unit, label) == (half, "time ηt")
        # The kept run ends at the time that it took, eta times its steps.
        assert end * unit == pytest.approx(eta * last, rel=1e-12)
        assert "The axis is time" in words(page, plot)
    plots = page.script("return Object.keys(page.plots())")
    changed = zip(plots, page.pictures(), over_steps, strict=True)
    assert {p for p, a, b in changed if a != b} == set(COMPARED[name])
    set_axis(page, 0)
    assert page.pictures() == over_steps
    # The link holds the axis, and the kept runs stay with the reader.
    set_axis(page, 1)
    page.click("Copy link")
    page.until(lambda: page.find(".pg-copied").text)
    again = open_page(name, page.script("return location.hash.slice(1)"))
    assert again.values()["axis"] == 1
    assert kept(again) == []


@every_plane
def test_another_axis_tells_no_answer(open_page, name):  # noqa: F811
    page = open_page(name)
    set_axis(page, 1)
    assert page.script("return page.at()") == 0
    assert page.find(".pg-verdict").text == ""


@pytest.mark.parametrize(
    ("name", "key", "value"), [("scalar", "y", 1.5), ("quadratic", "ratio", 0.5)]
)
def test_a_path_is_drawn_over_its_own_loss_alone(open_page, name, key, value):  # noqa: F811
    page = open_page(name)
    page.end()
    keep(page)
    (run,) = names(page)
    assert run in legend(page, "plane")
    assert "left out" not in words(page, "plane")
    before = page.values()[key]
    set_to(page, key, value)
    assert run not in legend(page, "plane")
    assert "Kept runs on another loss are left out." in words(page, "plane")
    assert all(run in legend(page, plot) for plot in COMPARED[name]), "over steps it stays"
    set_to(page, key, before)
    assert run in legend(page, "plane")


@every_plane
def test_there_is_room_for_all_that_is_kept(open_page, name):  # noqa: F811
    page = open_page(name)
    preset = {"scalar": "Goldilocks", "quadratic": "Past 2/λ₁"}[name]
    domains = """return Object.fromEntries(Object.entries(page.plots())
        .map(([name, {x, y}]) => [name, [x.domain, y.domain]]))"""
    page.click(preset)
    page.end()
    alone = page.script(domains)
    keep(page)
    assert page.script(domains) == alone
    page.find(".pg-presets button").click()
    page.end()
    both = page.script(domains)
    for plot in ["plane", *COMPARED[name]]:
        for (low, high), (least, most) in zip(alone[plot], both[plot], strict=True):
            assert least <= low
            assert high <= most, plot
    page.click(FORGET)
    page.frame()
    assert page.script(domains) != both


def test_names_say_what_tells_runs_apart(open_page):  # noqa: F811
    page = open_page("quadratic")
    page.end()
    keep(page)
    page.click("Heavy ball past 2/λ₁")
    page.end()
    keep(page)
    set_to(page, "ratio", 0.5)
    keep(page)
    assert names(page) == [
        "1: η = 1.6",
        "2: η = 2.1, heavy ball, β = 0.5",
        "3: η = 2.1, heavy ball, β = 0.5, λ₂/λ₁ = 0.5",
    ]
    page = open_page("scalar")
    page.click("Label noise")
    page.end()
    keep(page)
    set_to(page, "s", 1.5)
    keep(page)
    assert names(page) == [
        "1: η = 0.1, from sharpness 18, σ = 1",
        "2: η = 0.1, from sharpness 2, σ = 1",
    ], "a sharpness below the flattest minimum's is raised to it"
    page = open_page("maps")
    page.end()
    keep(page)
    set_to(page, "x", 0.1001)
    keep(page)
    page.click("Wide valley")
    page.end()
    keep(page)
    assert names(page) == [
        "1: x₀ = 0.1, η = 2.6",
        "2: x₀ = 0.1001, η = 2.6",
        "3: x₀ = 0.1, η = 3.2, √(1 + x²) − 1",
    ]


# What the pages say of kept runs


def test_two_small_rates_follow_one_flow(open_page):  # noqa: F811
    page = open_page("quadratic")
    set_to(page, "eta", 0.1)
    keep(page)
    set_to(page, "eta", 0.2)
    ours, other = page.script(
        "return [page.state(), page.kept()[0].run].map(({path}) => path.map(([x]) => x))"
    )
    # Step t at 0.2 and step 2t at 0.1 are the same time.
    both = list(zip(ours, other[::2], strict=False))
    assert len(both) > 10
    assert max(abs(a - b) for a, b in both) < 0.03
    set_to(page, "eta", 1.6)
    assert min(page.script("return page.state().path.map(([x]) => x)")) < 0, "it overshoots"


def test_who_starts_highest_ends_lowest(open_page):  # noqa: F811
    page = open_page("scalar")
    page.click("One instability")
    page.end()
    for sharpness in (24, 26):
        keep(page)
        set_to(page, "s", sharpness)
    ends = page.script(
        """return [...page.kept().map((k) => k.run), page.state()]
            .map(({run}) => [run.minimumSharpness[0], run.minimumSharpness[run.last]])"""
    )
    assert [first for first, _ in ends] == pytest.approx([22, 24, 26], rel=1e-12)
    assert all(later < earlier for (_, earlier), (_, later) in pairwise(ends))


def test_two_starts_next_to_each_other_part(open_page):  # noqa: F811
    page = open_page("maps")
    page.click("Chaos")
    page.end()
    keep(page)
    set_to(page, "x", 0.1001)
    ours, other = page.script("return [page.state().x, page.kept()[0].run.x].map((x) => [...x])")
    apart = np.abs(np.subtract(ours, other))
    assert apart[:7].max() > 0.005 > apart[:6].max()
    assert apart[12] > 0.6
