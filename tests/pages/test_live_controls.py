"""What every live figure of the chapters does: each is opened on a page of a small book."""

import re

import pytest
from browsing import ROOT, set_viewport, settle
from frame_cost import LONGEST_FRAME, frame_in_loops
from selenium.webdriver.common.keys import Keys
from test_book_browser import axe
from test_live_figures import NAMES, Figure, book, driver, scripts  # noqa: F401

pytestmark = pytest.mark.browser

NETWORK = "network"
"""It is trained in a worker, as it goes: nothing is known of its end when it begins."""
COMPUTED = [name for name in NAMES if name != NETWORK]
every_figure = pytest.mark.parametrize("name", NAMES)
every_computed_figure = pytest.mark.parametrize("name", COMPUTED)


@pytest.fixture
def opened(driver, book):  # noqa: F811
    """Open a figure by its name; nothing may have failed in it at the end."""
    figures = []

    def open_figure(name, width=1440, height=1200):
        set_viewport(driver, width, height)
        figures.append(Figure(driver, book / f"{name}.html"))
        figures[-1].until(figures[-1].rests)  # a worker answers when it has begun
        settle(driver)
        return figures[-1]

    yield open_figure
    assert figures[-1].errors() == []


def media(driver, **features):  # noqa: F811
    """Emulate what a reader asks of the system."""
    listed = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})


@every_figure
def test_begins_at_the_question(opened, name):
    figure = opened(name)
    status, verdict = figure.said()
    assert status.startswith(("Step 0 of ", "Before the first step"))
    assert verdict == "", "the reader says first what will happen"
    assert figure.at() == 0, "nothing moves by itself"


@every_figure
def test_every_control_works_by_keyboard_alone(opened, name):
    figure = opened(name)
    figure.script("root.querySelector('button').focus()")
    moved = set()
    for _ in range(figure.script("return root.querySelectorAll('button, input, select').length")):
        inside, tag, kind, text, key = figure.script(
            """const e = document.activeElement;
            return [root.contains(e), e.tagName, e.type, e.textContent,
                e.closest('[data-key]')?.dataset.key ?? null]"""
        )
        assert inside
        if text == "Play":
            figure.press(Keys.ENTER)
            figure.until(lambda: figure.at() > 1)
            figure.press(Keys.SPACE)
            assert figure.find(".pg-primary").text == "Play"
            figure.until(figure.rests)
            paused = figure.at()
            settle(figure.driver)
            assert figure.at() == paused
        elif text == "Step":
            before = int(figure.at())
            figure.press(Keys.ENTER)
            figure.until(lambda before=before: figure.at() == before + 1)
        elif text == "Reset":
            figure.press(Keys.ENTER)
            figure.until(lambda: figure.at() == 0)
        elif text == "Copy link":
            figure.press(Keys.ENTER)
            figure.until(lambda: figure.find(".pg-copied").text != "")
        elif tag == "BUTTON":
            figure.press(Keys.ENTER)
            assert figure.find("[aria-pressed=true]").text == text
        elif key is None:
            figure.press(Keys.ARROW_RIGHT)
            assert figure.at() == 1, "the slider of the step"
        else:
            before = figure.values()[key]
            ahead, back = Keys.ARROW_UP, Keys.ARROW_DOWN
            if kind == "range":
                ahead, back = Keys.ARROW_RIGHT, Keys.ARROW_LEFT
            if kind == "checkbox":
                ahead = back = Keys.SPACE
            figure.press(ahead)
            if figure.values()[key] == before:  # it stood at its end
                figure.press(back)
            assert figure.values()[key] != before, (key, kind)
            assert figure.said()[0]
            moved.add(key)
        figure.until(figure.rests)
        figure.press(Keys.TAB)
    assert moved == set(figure.values())


@every_computed_figure
def test_what_can_be_dragged_follows_a_finger(opened, name):
    figure = opened(name)
    for canvas in figure.all("canvas.pg-drag"):
        seen = [(figure.values(), figure.at())]
        for place in (0.35, 0.65):
            figure.touch(canvas, (place, 0.5), (place + 0.06, 0.5))
            seen.append((figure.values(), figure.at()))
        assert seen[1] != seen[2] or seen[0] != seen[1]
    assert figure.all("canvas.pg-drag") or figure.all("[data-key]")


@every_figure
def test_says_in_words_what_is_drawn(opened, name):
    figure = opened(name)
    before = [canvas.get_attribute("aria-label") for canvas in figure.all("canvas")]
    assert all(len(text) > 40 for text in before)
    if name == NETWORK:
        return
    figure.end()
    after = [canvas.get_attribute("aria-label") for canvas in figure.all("canvas")]
    assert after != before
    for text in [*before, *after, *figure.said()]:
        assert not any(word in text for word in ("undefined", "NaN", "null")), text
    assert figure.said()[1], "at the end it says what came out"


@every_computed_figure
def test_each_start_says_what_came_of_it(opened, name):
    figure = opened(name)
    said = set()
    for button in figure.all(".pg-presets button"):
        figure.show(button)
        button.click()
        assert figure.at() == 0, "at the question again"
        figure.end()
        status, verdict = figure.said()
        assert "undefined" not in status + verdict
        said.add(verdict)
    assert len(said) > 1


@every_computed_figure
def test_playing_goes_from_step_to_step_where_less_motion_is_asked_for(opened, driver, name):  # noqa: F811
    for asked in ("no-preference", "reduce"):
        media(driver, prefers_reduced_motion=asked)
        figure = opened(name)
        figure.script("root.querySelector('.pg-primary').click()")
        found = driver.execute_async_script(
            """const done = arguments[0];
            const page = document.querySelector('.live-figure').playground, seen = [];
            const look = () => {
                seen.push(page.at());
                if (page.at() >= 2) done(seen); else requestAnimationFrame(look);
            };
            look();"""
        )
        if asked == "reduce":
            assert all(float(at).is_integer() for at in found)
            assert set(found) == {0, 1, 2}
    media(driver)


@every_figure
def test_numbers_at_the_axes_are_written_out(opened, name):
    figure = opened(name)
    figure.script(
        """window.written = [];
        const write = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            window.written.push(String(text));
            write.call(this, text, ...place);
        };"""
    )
    set_viewport(figure.driver, 1000, 900)
    if name != NETWORK:
        figure.end()
    settle(figure.driver)
    written = figure.script("return window.written")
    assert any(re.fullmatch(r"[\d.]+", text) for text in written)
    # 100m for a tenth, 2k for two thousand.
    assert [text for text in written if re.fullmatch(r"[\d.]+[a-zA-Zµ]", text)] == []


@every_figure
def test_first_picture_and_what_plays_it_are_seen_together_on_a_phone(opened, name):
    figure = opened(name, 390, 844)
    first, bar = figure.find(".pg-plot").rect, figure.find(".pg-bar").rect
    assert bar["y"] >= first["y"] + first["height"], "the picture comes first"
    assert bar["y"] + bar["height"] - first["y"] <= 640
    assert bar["height"] <= 844 / 5
    above = "return arguments[0].getBoundingClientRect().top - root.getBoundingClientRect().top"
    assert figure.script(above, figure.find("canvas")) <= 60, "below its title alone"
    for plot in figure.all(".pg-plot"):
        assert plot.rect["width"] == first["width"], "one below the other"
        figure.driver.execute_script("arguments[0].scrollIntoView({block: 'end'})", plot)
        top, bottom = figure.script(
            "const b = root.querySelector('.pg-bar').getBoundingClientRect();"
            "return [b.top, b.bottom]"
        )
        assert plot.id == figure.find(".pg-plot").id or (top >= 0 and bottom <= 844), "stays"


@every_figure
def test_bar_follows_the_first_row_where_there_is_room(opened, name):
    figure = opened(name)
    plots, bar = [p.rect for p in figure.all(".pg-plot")], figure.find(".pg-bar").rect
    row = [p for p in plots if p["y"] == plots[0]["y"]]
    assert len(row) == (1 if plots[0]["width"] > 0.9 * bar["width"] else 2)
    for plot in plots:
        if plot in row:
            assert plot["y"] + plot["height"] <= bar["y"]
        else:
            assert plot["y"] >= bar["y"] + bar["height"]


def test_figure_at_rest_that_it_repeats_is_folded_on_a_screen_and_shown_on_paper(opened):
    figure = opened("polarity")
    seen = "return document.querySelector('#still img').checkVisibility()"
    told = "return document.querySelector('#still figcaption').checkVisibility()"
    figure.script(
        """const still = document.createElement("figure"), again = document.createElement("script");
        still.id = "still";
        still.innerHTML = "<img alt='At rest' width='9' height='9'><figcaption>One</figcaption>";
        root.after(still);
        root.dataset.still = "still";
        delete root.dataset.ready;
        again.src = document.querySelector('script[src*="figures.js"]').src;
        document.body.append(again);"""
    )
    figure.until(lambda: figure.script("return root.dataset.ready === 'true'"))
    assert not figure.script(seen)
    assert not figure.script(told), "nor is said what a picture shows that is not seen"
    figure.driver.find_element("css selector", "#still summary").click()
    assert figure.script(seen)
    assert figure.script(told)
    figure.driver.find_element("css selector", "#still summary").click()
    figure.script("window.dispatchEvent(new Event('beforeprint'))")
    assert figure.script(seen)


HERO = "const hero = document.getElementById('hero');"


@pytest.mark.parametrize("asked", ["reduce", "no-preference"])
def test_one_that_plays_by_itself_can_be_stopped_and_leaves_in_peace(opened, driver, asked):  # noqa: F811
    media(driver, prefers_reduced_motion=asked)
    figure = opened("polarity")
    figure.script(
        """const hero = document.createElement("div");
        const again = document.createElement("script");
        Object.assign(hero, {className: "live-figure", id: "hero"});
        Object.assign(hero.dataset, {figure: "polarity", plays: ""});
        root.before(hero);
        again.src = document.querySelector('script[src*="figures.js"]').src;
        document.body.append(again);"""
    )
    figure.until(lambda: figure.script(HERO + "return hero.dataset.ready === 'true'"))
    settle(driver)
    at = HERO + "return hero.playground.at()"
    if asked == "reduce":
        assert figure.script(at) == 0
    else:
        figure.until(lambda: figure.script(at) >= 2)
        figure.script(HERO + "hero.querySelector('.pg-primary').click()")
        assert (
            figure.script(HERO + "return hero.querySelector('.pg-primary').textContent") == "Play"
        )
        stopped = figure.script(at)
        settle(driver)
        assert figure.script(at) == stopped
    media(driver)


@every_figure
@pytest.mark.parametrize("width", [320, 390, 820, 1440])
def test_fits_its_column_in_both_themes(opened, name, width):
    figure = opened(name)
    if name != NETWORK:
        figure.end()
    set_viewport(figure.driver, width, 900)
    light = figure.pictures()
    assert figure.script("return document.documentElement.scrollWidth") <= width
    outside = figure.script(
        """const room = root.parentElement.getBoundingClientRect();
        return [...root.querySelectorAll('*')].filter((e) => {
            const box = e.getBoundingClientRect();
            const held = box.left >= room.left - 0.5 && box.right <= room.right + 0.5;
            return box.width > 1 && !held;
        }).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert outside == []
    small = figure.script(
        """return [...root.querySelectorAll('button, input, select')].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.height < 24 || box.width < 24;
        }).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert small == [], "targets for fingers have at least 24 pixels"
    figure.script("document.documentElement.dataset.theme = 'dark'")
    dark = figure.pictures()
    assert all(one != other for one, other in zip(light, dark, strict=True))


@every_figure
def test_axe_finds_nothing_serious(opened, name):
    figure = opened(name, 390, 900)
    for theme in ("light", "dark"):
        # The page around it is no page of the book, and has its own tests there.
        found = [line for line in axe(figure.driver, theme) if "pg-" in line]
        assert found == []


@every_computed_figure
def test_on_paper_it_is_a_picture_of_the_whole(opened, name):
    figure = opened(name)
    figure.script("window.dispatchEvent(new Event('beforeprint'))")
    assert figure.at() == figure.script("return Number(root.querySelector('.pg-player input').max)")
    figure.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = figure.script(
            """return [...root.querySelectorAll('button, input, select, .pg-status')]
                .filter((e) => e.checkVisibility()).length"""
        )
        assert shown == 0
        assert all(canvas.is_displayed() for canvas in figure.all("canvas"))
    finally:
        figure.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@every_computed_figure
def test_a_frame_takes_little_work(opened, name):
    figure = opened(name)
    slider = figure.find(".pg-control input[type=range]")
    assert frame_in_loops(figure.driver, slider, frames=20, rounds=4) < LONGEST_FRAME


def test_the_scripts_of_all_figures_are_light(scripts):  # noqa: F811
    weight = (scripts / "figures.js").stat().st_size
    style = (ROOT / "chapters" / "_static" / "playground.css").stat().st_size
    assert weight + style < 200_000, "bytes, of the three million that a page may have"
