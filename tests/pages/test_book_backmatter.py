"""The start page and the back matter as built: what leads where, and what fits a screen."""

import itertools
from functools import cache
from pathlib import Path

import pytest
from browsing import HTML, ROOT, chromium, set_viewport, settle
from bs4 import BeautifulSoup

from study import claims, provenance, results
from study.pages import offered, sources
from study.pages.statements import LABELS, entries, exercises_on, tests_of

CHAPTERS = ROOT / "chapters"


pytestmark = pytest.mark.book
STATED = {e.theory_label: e for e in entries(CHAPTERS) if e.theory_label}


@cache
def page(name: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def targets(element) -> set[str]:
    return {a["href"] for a in element.find_all("a", href=True)}


def leads_to_an_anchor(href: str) -> bool:
    path, _, anchor = href.partition("#")
    target = page(str((Path("chapters") / path).with_suffix("")).replace("chapters/../", ""))
    return target.find(id=anchor) is not None


@pytest.mark.parametrize("label", LABELS)
def test_row_of_a_statement_links_to_it_its_tests_and_its_exercises(label):
    rows = page("chapters/theorems").select("table tr")
    (row,) = [r for r in rows if r.td and r.td.get_text(strip=True) == label]
    statement, tests, exercises = row.find_all("td")[1:]
    entry = STATED[label]
    assert f"{entry.document}.html#{entry.label}" in targets(statement)
    wanted = {f"../tests/{n.replace('.py::', '.html#')}" for n in tests_of(label, ROOT / "tests")}
    assert targets(tests) == wanted
    assert all(leads_to_an_anchor(href) for href in wanted)
    wanted = {f"{e.document}.html#{e.label}" for e in exercises_on(label, CHAPTERS)}
    assert targets(exercises) == wanted


@pytest.mark.parametrize("label", LABELS)
def test_a_statement_is_followed_by_links_to_its_tests_and_exercises(label):
    entry = STATED[label]
    line = (
        page(f"chapters/{entry.document}").find(id=entry.label).find_next(class_="statement-links")
    )
    tests = {f"../tests/{n.replace('.py::', '.html#')}" for n in tests_of(label, ROOT / "tests")}
    exercises = {
        f"{'' if e.document == entry.document else e.document + '.html'}#{e.label}"
        for e in exercises_on(label, CHAPTERS)
    }
    assert tests | exercises | {"theorems.html#theorems"} == targets(line)
    proofs = page(f"chapters/{entry.document}").find(id=entry.label).find_all_next("div", "proof")
    if entry.kind != "definition":
        assert proofs[0].sourceline < line.sourceline, "the proof stands in between"


def test_every_exercise_is_listed_with_its_solution():
    found = targets(page("chapters/theorems"))
    for entry in entries(CHAPTERS):
        if entry.kind in ("exercise", "solution"):
            assert f"{entry.document}.html#{entry.label}" in found


def test_tests_named_in_a_chapter_are_links():
    for path in CHAPTERS.glob("*.ipynb"):
        for code in page(f"chapters/{path.stem}").select("article code"):
            if sources.NAMED.fullmatch(code.get_text()):
                assert code.find_parent("a"), code


@pytest.mark.parametrize("module", offered.public_modules())
def test_every_public_function_is_in_the_reference_with_its_docstring(module):
    pages = [page(f"chapters/{path.stem}") for path in CHAPTERS.glob("api_*.md")]
    for member in offered.public_members(module):
        wanted = f"{module}.{member}"
        found = [document.find("dt", id=wanted) for document in pages]
        (entry,) = [dt for dt in found if dt]
        said = entry.find_next_sibling("dd").get_text(strip=True)
        assert len(said) > 10 or entry.select_one(".property"), "a text, or the value"


def test_reference_leads_to_the_chapters_that_use_a_function():
    entry = page("chapters/api_theory").find(id="flatminima.theory.maps.bifurcation_diagram")
    assert "beyond_quadratic.html" in targets(entry.find_next_sibling("dd"))


def test_every_stored_result_is_described():
    text = page("chapters/results").get_text()
    for preset, name in results.stored():
        record = results.load(name, preset).provenance
        assert provenance.command(name, preset) in text
        assert record["sha256"][:16] in text
        assert record["date"][:10] in text


def test_every_claim_has_a_verdict_from_the_list():
    full, short = page("chapters/reproduced"), page("chapters/intro")
    marks = [mark.get_text() for mark in full.select("table .verdict")]
    assert len(marks) == len(claims.CLAIMS)
    assert set(marks) <= set(claims.VERDICTS)
    assert len(short.select("ol .verdict")) == 5
    for document in (full, short):
        text = document.get_text()
        assert "not executed" not in text
        assert "executed chapters:" not in text


def test_every_term_of_the_notation_says_where_it_is_first_used():
    rows = page("chapters/notation").select("table tbody tr")
    for row in rows:
        cells = row.find_all("td")
        if len(cells) == 4:
            assert targets(cells[3]), cells[0]


@pytest.mark.browser
def test_start_page_moves_beside_three_ways_in_on_one_screen():
    with chromium() as driver:
        set_viewport(driver, 1280, 800)
        driver.get((HTML / "chapters" / "intro.html").as_uri())
        settle(driver)
        boxes = driver.execute_script(
            """
            const box = e => { const r = e.getBoundingClientRect();
                return [r.left, r.top, r.right, r.bottom]; };
            const seen = s => [...document.querySelectorAll(s)].filter(e => e.offsetParent);
            return {plays: seen('.opening-figure .live-figure[data-plays][data-ready]').length,
                    still: seen('.opening-figure img').length,
                    plots: seen('.opening-figure canvas').map(box),
                    player: seen('.opening-figure .pg-bar').map(box),
                    caption: seen('.opening-figure > figcaption').map(box),
                    ways: seen('.ways-in .sd-card').map(box),
                    links: [...document.querySelectorAll('.ways-in .sd-card a')].map(e => e.href)};
            """
        )
    assert boxes["plays"] == 1
    assert boxes["still"] == 0, "what moves stands in its place"
    parts = [boxes[name] for name in ("plots", "player", "caption", "ways")]
    assert list(map(len, parts)) == [3, 1, 1, 3]
    for left, top, right, bottom in itertools.chain(*parts):
        assert left >= 0
        assert top >= 0
        assert right <= 1280
        assert bottom <= 800
    assert all(p[2] - p[0] > 200 and p[3] - p[1] > 120 for p in boxes["plots"]), "it can be read"
    heights = [bottom - top for _, top, _, bottom in boxes["plots"]]
    assert max(heights) < 1.1 * min(heights), "three of one height in a row"
    for page_name in ("quadratic_threshold.html", "playground.html", "#run-it"):
        assert any(page_name in href for href in boxes["links"]), page_name


@pytest.mark.browser
def test_start_page_fits_a_phone():
    with chromium() as driver:
        set_viewport(driver, 390, 844)
        driver.get((HTML / "chapters" / "intro.html").as_uri())
        settle(driver)
        wide, shown = driver.execute_script(
            "return [document.documentElement.scrollWidth,"
            "[...document.querySelectorAll('.opening-figure canvas')].filter(e => e.offsetParent)"
            ".map(e => { const r = e.getBoundingClientRect(); return [r.width, r.right]; })]"
        )
    assert wide <= 390
    assert len(shown) == 2, "the path and the sharpness"
    assert all(width > 250 and right <= 390 for width, right in shown)
