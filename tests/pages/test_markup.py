"""What the book's extension mends in the markup of its pages, rule by rule."""

import pytest
from bs4 import BeautifulSoup

from study.pages import markup
from study.pages.markup import mend


def mended(body: str) -> BeautifulSoup:
    return BeautifulSoup(mend(f"<!DOCTYPE html>\n<html><body>{body}</body></html>"), "html.parser")


def test_what_is_no_page_is_left_alone():
    assert mend("<a ><button>") == "<a ><button>"


def test_text_and_code_survive():
    body = "<p>a &lt; b &amp; c, “η”\n</p><script>if (a < b && c) d();</script>"
    assert mend(f"<!DOCTYPE html>\n<html><body>{body}</body></html>").count(body) == 1


def test_fonts_and_scripts_that_nothing_needs_are_dropped():
    page = mended(
        '<link rel="preload" as="font" href="a.woff2"><script src="a/fontawesome/all.js"></script>'
        '<script src="kept.js"></script><link rel="stylesheet" href="fontawesome.css">'
    )
    assert [tag.name for tag in page.body.find_all()] == ["script", "link"]


def test_ids_become_unique():
    parts = [
        '<div class="proof admonition" id="proof"><p>Proof</p></div>',
        '<div class="proof theorem" id="thm-a"><section id="proof-content"></section></div>',
        '<div id="ex-a"><section id="exercise-content"></section></div>',
        '<div id="sol-a"><section id="solution-content"></section></div>',
    ]
    search = '<input id="search-input">'
    dialog = f'<div class="search-button__search-container">{search}</div>'
    page = mended("".join(parts * 2) + search + dialog)
    ids = [tag["id"] for tag in page.find_all(id=True)]
    # Only those of the statements themselves, which the test itself has doubled, are left.
    assert sorted(set(ids)) == ["ex-a", "search-dialog-input", "search-input", "sol-a", "thm-a"]
    assert len(page.select("div.proof-body")) == 2
    assert not page.find("section")


def test_the_grade_of_an_exercise_and_the_word_proof_are_set_apart():
    page = mended(
        '<div class="exercise admonition"><p class="admonition-title"><span>Exercise 1.1 </span>'
        ' (On <em>the</em> edge (★★ pencil))</p></div><div class="exercise"><p'
        ' class="admonition-title">Exercise 1.2 (Ungraded (a case))</p></div>'
        '<div class="proof admonition" id="proof"><p>Proof. <em>One.</em> Two.</p><p>Proof. x</p>'
        "</div>"
    )
    graded, other = page.select(".admonition-title")
    assert graded.get_text() == "Exercise 1.1  (On the edge (★★ pencil))"
    assert graded.find(class_="exercise-grade").get_text() == " (★★ pencil)"
    assert [part.string for part in graded.select(".bracket")] == [" (", ")"]
    assert other.get_text() == "Exercise 1.2 (Ungraded (a case))"
    assert [str(name) for name in page.select(".proof-name")] == [
        '<span class="proof-name">Proof.</span>'
    ]
    assert page.select_one(".proof-body p").get_text() == "Proof. One. Two."


def test_how_stored_runs_were_made_is_folded_and_other_output_is_not():
    made = "a: 3 runs. Made by `make results PRESET=ci ONLY=a`."
    page = mended(
        f'<div class="cell_output"><div class="output"><pre>{made}</pre></div>'
        '<div class="output"><pre>1.5</pre></div></div>'
    )
    assert page.details.get_text() == "How these runs were made" + made
    assert page.select_one("div.cell_output > div.output").get_text() == "1.5"


def test_an_interval_is_held_together_and_its_text_is_the_same():
    page = mended(
        '<span class="pasted-text">−2.7 [−3.9, −1.5] points</span>'
        '<span class="pasted-text">0.5</span>'
    )
    first, second = page.select(".pasted-text")
    assert first.get_text() == "−2.7 [−3.9, −1.5] points"
    assert [held.string for held in page.select(".interval")] == ["[−3.9, −1.5]"]
    assert str(second) == '<span class="pasted-text">0.5</span>'


def test_short_code_stays_on_its_line_and_long_code_may_break():
    words = '<code class="docutils literal">{}</code>'
    short, long = "a" * markup.SHORT, "a" * (markup.SHORT + 1)
    page = mended(
        "".join(map(words.format, ("<span>make</span> <span>lab</span>", short, long)))
        + f"<table><tr><td>{words.format(short)}</td></tr></table><code>{short}</code>"
    )
    held = page.select(".unbroken")
    assert [code.get_text() for code in held] == ["make lab", short]
    assert all("literal" in code["class"] for code in held)


def test_elements_are_those_made_for_the_purpose():
    page = mended(
        '<details><summary aria-label="Toggle hidden content"><p class="collapsed">Show</p>'
        '</summary></details><nav><p class="caption" role="heading" aria-level="2">Part</p></nav>'
        '<button>a</button><button type="submit">b</button><table><thead><tr><th></th><th>x</th>'
        '</tr></thead></table><div role="list" class="citation-list">'
        '<div class="citation" role="doc-biblioentry">c</div></div>'
        '<div class="onlyprint"><h1></h1></div>'
    )
    assert str(page.summary) == '<summary><span class="collapsed">Show</span></summary>'
    assert str(page.nav.h2) == '<h2 class="caption">Part</h2>'
    assert [button["type"] for button in page.find_all("button")] == ["button", "submit"]
    assert str(page.thead.tr) == '<tr><td></td><th scope="col">x</th></tr>'
    assert str(page.ul) == '<ul class="citation-list"><li class="citation">c</li></ul>'
    assert not page.h1
    listed = "<ul><li>a</li><ul><li>a.b</li></ul><li>c</li></ul>"
    assert str(mended(listed).ul) == "<ul><li>a<ul><li>a.b</li></ul></li><li>c</li></ul>"
    assert not mended('<pre><div class="viewcode-block">a</div></pre>').div


@pytest.mark.parametrize(
    ("body", "selector", "name"),
    [
        ('<button title="Fullscreen"><i></i></button>', "button", "Fullscreen"),
        ('<button title="b" aria-label="a"><i></i></button>', "button", "a"),
        (
            '<li><a>A</a><details><summary><span class="toctree-toggle"></span></summary>',
            "summary",
            "Pages under A",
        ),
        ('<input class="sidebar-toggle">', "input", "Toggle the sidebar"),
        ('<nav class="bd-toc-nav"></nav>', "nav", "On this page"),
        ('<div class="onlyprint"><nav></nav></div>', "nav", "Contents, printed"),
        ('<form class="bd-search"><i></i></form>', "form > button[type=submit]", "Search"),
        (
            '<div class="sidebar-primary-item"><a class="navbar-brand">x</a></div>',
            "nav",
            "Start page",
        ),
    ],
)
def test_elements_have_a_name(body, selector, name):
    assert mended(body).select_one(selector)["aria-label"] == name


def test_a_button_with_a_text_is_called_by_it():
    assert "aria-label" not in mended('<button title="a">text</button>').button.attrs
    label = ' aria-label="Search"'
    script = '<script>write(`<b{}><span class="search-button__default-text">`)</script>'
    assert mended(script.format(label)).script.string == script.format("")[8:-9]


def test_a_number_is_held_together_with_its_error_its_power_its_unit_and_its_range():
    numbers = "<span>0.42</span> ± <span>0.26</span>, 3 × 10⁻⁷, <b>5</b> %, 0.6 (0.36 to 1.02)"
    page = mended(f"<p>{numbers}, 3 to 4; a × b</p><p><code>1 ± 2</code></p><pre>1 ± 2</pre>")
    held = "0.42\xa0±\xa00.26, 3\xa0×\xa010⁻⁷, 5\xa0%, 0.6 (0.36\xa0to\xa01.02), 3 to 4; a × b"
    assert page.p.get_text() == held
    assert page.code.string == page.pre.string == "1 ± 2"


def test_a_computed_number_stays_with_the_formula_that_it_ends():
    formula = r'<span class="math">\({}\)</span> <span class="pasted-text">4.6</span>'
    page = mended(f"<p>{formula.format('a =')}; {formula.format('a')} or more</p>")
    assert page.p.get_text() == "\\(a =\\)\xa04.6; \\(a\\) 4.6 or more"
