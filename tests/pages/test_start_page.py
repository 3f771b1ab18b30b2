"""The start page, what it shares with the page of what was reproduced, and how it is shared."""

import re
from io import BytesIO

import matplotlib.image
import pytest
from browsing import HTML, ROOT, chromium, set_viewport, settle
from bs4 import BeautifulSoup
from pybtex.database import parse_file, parse_string

from flatminima.statistics import Interval
from study import claims
from study.pages import charts, citing, contents, opening, roles

CHAPTERS = ROOT / "chapters"
START = (CHAPTERS / "intro.md").read_text(encoding="utf-8")


# --- what it says


def section(name: str) -> str:
    """The text of the start page from one heading to the next."""
    return re.search(rf"\n## {name}\n(.*?)(?=\n## |\Z)", START, re.DOTALL)[1]


def test_it_bears_the_title_by_which_the_book_is_cited():
    title, subtitle = (re.search(p, START)[1] for p in (r"\n# (.*)", r"\{rubric\} (.*)"))
    assert f"{title}: {subtitle[0].lower()}{subtitle[1:]}" == citing.title()


def test_the_map_names_every_chapter():
    table = contents.pages(ROOT)
    reference = {page.name for page in table if page.name.startswith("api_")}
    wanted = {page.name for page in table} - reference - {"intro"}
    named = re.findall(r"\{doc\}`(?:[^`<]*<)?(\w+)>?`", section("The map"))
    assert sorted(named) == sorted(wanted), "each once; the rooms of the library are below its page"


def test_each_claim_is_one_line_with_a_verdict_and_one_number():
    listed = re.findall(
        r"^(\d)\. (.*)$", section("What the paper claims, and what was reproduced"), re.M
    )
    assert [number for number, _ in listed] == list("12345")
    for number, line in listed:
        assert line.endswith(f"{{claim}}`{number}`")
        key = re.findall(r"\{(?:number|count)\}`([\w-]+)`", line)
        assert len(key) == 1
        (claim,) = (claim for claim in claims.CLAIMS if claim.key == key[0])
        assert claim.part == int(number)
        assert not claim.ours


# --- numbers without their intervals


def test_a_number_is_the_estimate_and_a_fall_of_the_sharpness_a_change_in_percent():
    half = Interval(-0.6931, -0.8, -0.6)
    effect = claims.Effect("x", "−50 [−55, −45] %", True, unit=claims.SHARPNESS, interval=half)
    assert roles.point(effect) == "−50%"
    assert roles.point(claims.fallen("x", -half)) == "−50%"
    assert roles.point(claims.Effect("x", "+0.33 [−0.04, +0.69] points", True)) == "+0.33 points"
    assert roles.point(claims.Effect("x", "1.2", True)) == "1.2"


def test_a_count_is_of_the_effects_that_are_as_claimed():
    role = roles.CountRole()
    role.text = claims.CLAIMS[0].key
    effects = tuple(claims.Effect("x", "1", met) for met in (True, False, True))
    assert role.shown([claims.Finding(claims.CLAIMS[0], effects, ())]).astext() == "2 of 3"


# --- the strip charts


def gains(*intervals: tuple[float, float, float]) -> claims.Finding:
    claim = next(claim for claim in claims.CLAIMS if claim.key == "beyond")
    return claims.Finding(claim, tuple(claims.gained("x", Interval(*i)) for i in intervals), ())


def test_a_chart_draws_the_effects_that_share_its_unit():
    of_other = claims.Finding(claims.CLAIMS[0], (claims.Effect("x", "1", True),), ())
    both = [gains((0.01, 0.005, 0.02), (0.0, -0.01, 0.01)), of_other]
    ((finding, effects),) = charts.strips(both, claims.ACCURACY)
    assert finding is both[0]
    assert [effect.verdict for effect in effects] == ["reproduced", "undecided"]
    assert charts.strips(both, claims.SHARPNESS) == []


def test_a_chart_without_effects_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no claim has an effect in the unit 'sharpness'"):
        charts.draw([gains((0.0, -1, 1))], claims.SHARPNESS, tmp_path / "a.svg", "wide")


@pytest.mark.parametrize("layout", charts.WIDTH)
def test_a_chart_is_the_same_each_time_and_another_for_another_interval(tmp_path, layout):
    drawn = []
    for high in (0.02, 0.02, 0.03):
        charts.draw([gains((0.01, 0.005, high))], claims.ACCURACY, tmp_path / "a.svg", layout)
        drawn.append((tmp_path / "a.svg").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_heading_breaks_in_no_formula():
    claim = next(claim for claim in claims.CLAIMS if claim.key == "edge")
    lines = charts.heading(claim, 30)
    assert len(lines) > 1
    assert all(line.count("$") % 2 == 0 for line in lines)


def test_every_verdict_of_an_interval_has_its_look():
    said = {
        claims.decided(Interval(0, *ends), smallest=2)
        for ends in ((1, 3), (-3, -1), (-3, 3), (-3, 1))
    }
    assert said == set(charts.LOOKS)
    assert len({look[0] for look in charts.LOOKS.values()}) == len(said)


# --- how to cite it


def fields(entry: str) -> dict[str, str]:
    (found,) = parse_string(entry, "bibtex").entries.values()
    people = {role: [str(p) for p in persons] for role, persons in found.persons.items()}
    return {**{k: v for k, v in found.fields.items() if k != "note"}, **people}


def test_the_entry_of_the_paper_is_that_of_the_bibliography():
    (paper,) = citing.record()["references"]
    own = parse_file(str(CHAPTERS / "references.bib"), "bibtex").entries["wang2026instabilities"]
    assert fields(citing.bibtex(paper, "article", "x")) == fields(own.to_string("bibtex"))


def test_the_entry_of_the_book_has_what_citation_cff_has():
    book = citing.record()
    found = fields(citing.bibtex(book, "misc", "x"))
    assert found["title"] == book["title"]
    assert found["author"] == [f"{{{book['authors'][0]['name']}}}"]
    assert (found["version"], found["year"]) == (book["version"], "2026")
    assert book["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")


# --- the picture for shared links


def test_the_preview_has_the_size_that_services_ask_for(tmp_path):
    for name in ("a.png", "b.png"):
        opening.draw_preview(tmp_path / name)
    drawn = (tmp_path / "a.png").read_bytes()
    assert drawn == (tmp_path / "b.png").read_bytes()
    assert matplotlib.image.imread(BytesIO(drawn)).shape[:2] == (630, 1200)
    assert len(drawn) < 300_000


# --- as built


def built(name: str) -> BeautifulSoup:
    text = (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


@pytest.mark.book
@pytest.mark.parametrize("name", ["intro", "polarity", "reproduced"])
def test_a_shared_link_has_a_picture(name):
    def shared(what):
        return built(name).find("meta", property=f"og:{what}")["content"]

    assert (HTML / "chapters" / shared("image")).resolve() == (
        HTML / opening.PREVIEW_FILE
    ).resolve()
    drawn = matplotlib.image.imread(HTML / opening.PREVIEW_FILE)
    assert (shared("image:width"), shared("image:height")) == tuple(map(str, drawn.shape[1::-1]))
    assert "v_1 turns" in shared("image:alt")


@pytest.mark.book
def test_it_says_who_wrote_it_and_how_to_cite_it():
    page = built("intro").find(id="authors-license-citation")
    assert citing.record()["authors"][0]["name"] in page.p.get_text()
    assert "MIT License" in page.p.get_text()
    listed = [block.get_text().strip() for block in page.find_all("pre")]
    assert [block.split("{")[0] for block in listed] == ["@misc", "@article"]


@pytest.mark.book
def test_the_sharpness_halves_as_the_page_says():
    (said,) = re.findall(r"the sharpness halves \(−(\d+)%\)", built("intro").get_text())
    assert 45 <= int(said) <= 55


@pytest.mark.book
def test_without_scripts_the_figure_at_rest_stands_in_its_place():
    figure = built("intro").find(id="fig-opening")
    assert len(figure.find_all("img")) == 2
    assert "step by step" in figure.select_one(".live-figure").get_text()


@pytest.mark.book
@pytest.mark.parametrize("unit", charts.AXES)
def test_every_interval_lies_within_its_chart_under_a_short_name(unit):
    from study.pages.findings import findings

    shown = charts.strips(findings(ROOT / "_book" / "chapters"), unit)
    axis = charts.AXES[unit]
    for finding, effects in shown:
        assert finding.claim.key in charts.SHORT
        for effect in effects:
            _, low, high = axis.scaled(effect.interval)
            assert axis.limits[0] <= low <= high <= axis.limits[1]


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.parametrize(("width", "shown"), [(1440, "drawn-wide"), (390, "drawn-narrow")])
def test_one_layout_of_each_chart_is_shown(width, shown):
    with chromium() as driver:
        set_viewport(driver, width, 900)
        driver.get((HTML / "chapters" / "reproduced.html").as_uri())
        settle(driver)
        images = driver.execute_script(
            "return [...document.querySelectorAll('.drawn-figure img')].filter(e => e.offsetParent)"
            ".map(e => [e.className, e.getBoundingClientRect().right])"
        )
    assert len(images) == len(charts.AXES)
    for name, right in images:
        assert shown in name
        assert right <= width
