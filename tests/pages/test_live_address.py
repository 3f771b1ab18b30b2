"""A live figure takes its state from the page's address, under keys that begin with its name."""

import pytest
from browsing import settle
from test_course import FIGURE_LINKS, figure_of, given
from test_live_controls import every_figure, opened  # noqa: F401
from test_live_figures import book, driver, scripts  # noqa: F401

pytestmark = pytest.mark.browser


def follow(figure, state):
    figure.script("location.hash = arguments[0]", state)
    settle(figure.driver)


@every_figure
def test_its_address_opens_it_again(opened, name):  # noqa: F811
    figure = opened(name)
    first = figure.values()
    figure.script(
        """for (const range of root.querySelectorAll("[data-key] input[type=range]")) {
            range.stepDown();
            range.dispatchEvent(new Event("input", {bubbles: true}));
        }"""
    )
    figure.until(figure.rests)
    moved = figure.values()
    assert moved != first
    figure.find(".pg-copy button").click()
    figure.until(lambda: figure.find(".pg-copied").text != "")
    state = figure.script("return location.hash.slice(1)")
    assert state.split("=")[0].startswith(f"{name}.")
    figure.driver.refresh()
    figure.until(lambda: figure.script("return root?.dataset.ready === 'true'"))
    figure.until(figure.rests)
    assert figure.values() == moved, "the page's address alone"
    assert figure.at() == 0, "at the question"
    key = next(iter(moved))
    follow(figure, f"{name}.{key}={first[key]}")
    assert figure.values() == {**moved, key: first[key]}, "a second link to the same page"


def test_addresses_of_others_change_nothing(opened):  # noqa: F811
    figure = opened("polarity")
    first = figure.values()
    for state in (
        "s=8",
        "start.s=8",
        "polarity.tempo=3",
        "polarity.s=far",
        "polarity.s=",
        "summary",
    ):
        follow(figure, state)
        assert figure.values() == first, state
    follow(figure, "polarity.s=1000&polarity.r=-0.2")
    assert figure.values() == {**first, "s": 9, "r": -0.2}, "what is out of range is at its edge"
    assert figure.said()[0].startswith("Step 0 of")
    assert figure.script("return Math.abs(root.getBoundingClientRect().top) < innerHeight")


@pytest.mark.parametrize("state", [state for _, state in FIGURE_LINKS])
def test_the_course_opens_states_that_the_figure_has(opened, state):  # noqa: F811
    name = figure_of(state)
    figure = opened(name)
    follow(figure, state.replace("&amp;", "&"))
    values = figure.values()
    for key, value in given(state):
        assert values[key.removeprefix(f"{name}.")] == float(value)
