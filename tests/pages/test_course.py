"""The course: sessions are as long as they say, and links open what a page or its figure knows."""

import re
from urllib.parse import parse_qsl

import pytest

from study import ROOT

COURSE = (ROOT / "chapters/course.md").read_text(encoding="utf-8")
PAGES = {"quadratic": "playground_quadratic", "maps": "playground_maps"}
PAGES |= {"scalar": "playground", "network": "playground_network"}
MINUTES, STRANGER = 90, 15
CHAPTERS = 2
"""Chapters to read before a session, at most."""

SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^\(|^## |\Z)", COURSE, re.M | re.S))
SESSIONS = {title: text for title, text in SECTIONS.items() if title[0].isdigit()}
every_session = pytest.mark.parametrize("title", SESSIONS)


def minutes(text):
    return sum(int(n) for n in re.findall(r"^\| (\d+) \|", text, re.M))


def test_there_are_as_many_sessions_as_the_title_says():
    assert COURSE.startswith("(course)=\n# A course in ten sessions\n")
    assert [int(title.split(".")[0]) for title in SESSIONS] == list(range(1, 11))


@every_session
def test_a_session_fills_its_minutes_and_asks_for_two_chapters_at_most(title):
    text = SESSIONS[title]
    assert minutes(text) == MINUTES
    reading = re.search(r"\*Read:\*(.*?)\n\n", text, re.S)[1]
    assert 1 <= len(re.findall(r"\{doc\}`", reading)) <= CHAPTERS
    assert len(re.findall(r"\{ref\}`ex-", text)) >= 3
    assert "*At the end they can*" in text


def test_a_stranger_needs_a_quarter_of_an_hour():
    assert minutes(SECTIONS["Fifteen minutes, for a stranger"]) == STRANGER


def controls(script):
    """Key -> the smallest and the largest value of each control of a playground."""
    source = (ROOT / f"playground/src/pages/{script}.js").read_text(encoding="utf-8")
    found = {}
    for kind, body in re.findall(r"\b(slider|choice)\(\{(.*?)\}\)", source, re.S):
        key = re.search(r'key: "(\w+)"', body)[1]
        if kind == "slider":
            found[key] = tuple(
                float(re.search(rf"{end}: (-?[\d.]+)", body)[1]) for end in ("min", "max")
            )
        else:
            found[key] = (0, 9)
    return found


LINKS = re.findall(r'<a href="([\w]+)\.html#([^"]+)">', COURSE)
PLAYGROUND_LINKS = [link for link in LINKS if link[0] in PAGES.values()]
FIGURE_LINKS = [link for link in LINKS if link not in PLAYGROUND_LINKS]
"""(chapter, state of its live figure): test_live_address.py opens each."""


def given(state):
    """The keys and numbers of an address."""
    return parse_qsl(state.replace("&amp;", "&"), strict_parsing=True)


def figure_of(state):
    """The one live figure whose keys an address has."""
    (name,) = {key.rpartition(".")[0] for key, _ in given(state)}
    return name


def test_there_are_links_into_every_playground():
    assert {page for page, _ in PLAYGROUND_LINKS} == set(PAGES.values())


@pytest.mark.parametrize(("page", "state"), FIGURE_LINKS)
def test_a_link_leads_to_the_chapter_that_holds_the_figure(page, state):
    text = (ROOT / f"chapters/{page}.ipynb").read_text(encoding="utf-8")
    assert f'data-figure=\\"{figure_of(state)}\\"' in text


@pytest.mark.parametrize(("page", "state"), PLAYGROUND_LINKS)
def test_a_link_opens_a_state_that_the_playground_has(page, state):
    script = next(name for name, own in PAGES.items() if own == page)
    known = controls(script)
    assert given(state)
    for key, value in given(state):
        low, high = known[key]
        assert low <= float(value) <= high, key


def test_a_wrong_link_would_be_found():
    assert "tempo" not in controls("scalar")
    assert controls("quadratic")["eta"] == (0.01, 6)
    with pytest.raises(KeyError):
        test_a_link_opens_a_state_that_the_playground_has("playground", "tempo=1")
    with pytest.raises(AssertionError):
        test_a_link_opens_a_state_that_the_playground_has("playground", "s=1000")
