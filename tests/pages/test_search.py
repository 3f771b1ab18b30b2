"""The search of the pages: what its index is fed with, what it finds first, and what it shows."""

import json
from textwrap import dedent

import pytest
from browsing import HANGING, HTML, chromium, served
from docutils import nodes
from selenium.webdriver.support.wait import WebDriverWait
from sphinx import addnodes
from sphinx.testing.util import SphinxTestApp

from study.pages import search

GLOSSARY = "chapters/glossary#term-"

FIRST = {
    "SAM": f"{GLOSSARY}SAM",
    "sharpness-aware minimization": "chapters/practice#sharpness-aware-minimization",
    "batch size": f"{GLOSSARY}Batch-size",
    "minibatch": f"{GLOSSARY}Minibatch-noise",
    "cross-entropy": "chapters/edge_of_stability#cross-entropy",
    "cross entropy loss": f"{GLOSSARY}Cross-entropy",
    "central flow": "chapters/average_motion",
    "HOCM": f"{GLOSSARY}Curvature-beyond-the-sharpness",
    "warm-up": "chapters/practice#warm-up",
    "warmup": f"{GLOSSARY}Warm-up",
    "tutorial": "chapters/course",
    "EoS": f"{GLOSSARY}EoS",
    "edge of stability": "chapters/edge_of_stability",
    "progressive sharpening": "chapters/edge_of_stability",
    "2/eta": f"{GLOSSARY}Stability-threshold",
    "2/η": f"{GLOSSARY}Stability-threshold",
    "learning rate": "chapters/practice#the-learning-rate",
    "step size": f"{GLOSSARY}Learning-rate",
    "cosine decay": f"{GLOSSARY}Learning-rate-schedule",
    "flat minima": f"{GLOSSARY}Flat-minimum",
    "catapult": "chapters/beyond_quadratic#the-catapult",
    "momentum": f"{GLOSSARY}Momentum",
    "heavy ball": f"{GLOSSARY}Heavy-ball",
    "Nesterov": f"{GLOSSARY}Nesterov-momentum",
    "HVP": f"{GLOSSARY}HVP",
    "Lanczos": f"{GLOSSARY}Lanczos-method",
    "Hessian spectrum": f"{GLOSSARY}Spectral-density",
    "top eigenvalue": f"{GLOSSARY}Sharpness",
    "sharpness": f"{GLOSSARY}Sharpness",
    "curvature": "chapters/measuring_curvature",
    "Adam": "chapters/adam",
    "SGD": "chapters/sgd_noise",
    "weight decay": "chapters/practice#normalization-and-weight-decay",
    "batch norm": f"{GLOSSARY}Normalization",
    "loss spike": f"{GLOSSARY}Instability-episode",
    "divergence": f"{GLOSSARY}Diverged-run",
    "chaos": f"{GLOSSARY}Period-doubling",
    "generalization": f"{GLOSSARY}Generalization",
    "eigenvector rotation": "chapters/episodes_and_rotation",
    "RPE": f"{GLOSSARY}RPE",
    "reflection law": "chapters/reflection_law",
    "phase diagram": "chapters/flatness_bias#the-phase-diagram",
    "Goldilocks": "chapters/goldilocks",
    "label noise": f"{GLOSSARY}Label-noise",
    "transformer": "chapters/own_network#a-small-transformer-with-adam",
    "CIFAR": f"{GLOSSARY}Data-sets",
    "install": "chapters/intro#how-to-run-it",
    "how to run": "chapters/intro#how-to-run-it",
    "exercises": "chapters/theorems",
    "EmpiricalRisk": "chapters/api_curvature#flatminima.curvature.EmpiricalRisk",
}
"""What a stranger would type -> what the first result opens."""


@pytest.fixture(scope="module")
def results():
    """The open page of results, on a server, since a page from the disk may read no other."""
    with served(HTML) as address, chromium() as driver:
        driver.get(f"{address}/search.html")
        WebDriverWait(driver, HANGING).until(lambda d: d.execute_script("return Search.hasIndex()"))
        yield driver


FIND = """
const found = (query) => Search._performSearch(...Search._parseQuery(query)).at(-1);
return arguments[0].map(found).map((hit) => (hit ? hit[0] + hit[2] : null));
"""


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.xdist_group("search")
def test_the_first_result_is_the_one_that_was_meant(results):
    found = dict(zip(FIRST, results.execute_script(FIND, list(FIRST)), strict=True))
    assert {q: f for q, f in found.items() if f != FIRST[q]} == {}


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.xdist_group("search")
def test_a_place_with_the_word_in_its_title_comes_before_one_with_it_in_its_text(results):
    script = """
        return Search._performSearch(...Search._parseQuery("noise")).reverse()
            .filter(([, , , description]) => description === null)
            .map(([page, title, anchor]) => [page + anchor, title]);
    """
    titles = {}
    for place, title in results.execute_script(script):
        titles.setdefault(place, title)
    named = ["noise" in title.lower() for title in titles.values()]
    assert named == sorted(named, reverse=True), titles
    assert 10 < sum(named) < len(named) - 10


PAGE = r"""
<main role="main"><button>Copy</button><article class="bd-article"><section id="a.b">
<h1>Steps<a class="headerlink">#</a></h1>
<details><summary>Show the code</summary><div class="cell_input">x = 1</div></details>
<p>While <span class="math">\(\lambda_1 &lt; 2/\eta\)</span>, stable.</p>
<div class="math">\[x\]</div>
<div class="live-figure">Here it moves.</div></section>
<dl><dt id="term-A">A<a class="headerlink">#</a></dt>
<dt id="term-B">B</dt>
<dd>A letter.</dd>
<dt id="term-C">C</dt>
<dd>Another.</dd></dl></article></main>
"""


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.xdist_group("search")
@pytest.mark.parametrize(
    ("anchor", "text"),
    [
        ("#a.b", "Steps While λ₁ < 2/η, stable."),
        ("#term-A", "A: B: A letter."),
        ("#term-B", "B: A letter."),
        ("", "While λ₁ < 2/η, stable. A B A letter. C Another."),
        ("#absent", "Steps While λ₁ < 2/η, stable. A B A letter. C Another."),
    ],
)
def test_an_excerpt_is_the_text_alone(results, anchor, text):
    assert results.execute_script("return Search.htmlToText(...arguments)", PAGE, anchor) == text


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.xdist_group("search")
def test_an_excerpt_begins_and_ends_with_a_whole_word(results):
    script = "return Search.makeSearchSummary(arguments[0], new Set(['wanted']), '').textContent"
    text = "unbroken " * 40 + "wanted " + "unbroken " * 40
    words = results.execute_script(script, f'<article class="bd-article">{text}</article>').split()
    assert words[0] == words[-1] == "…"
    assert set(words[1:-1]) == {"unbroken", "wanted"}


@pytest.mark.book
@pytest.mark.browser
@pytest.mark.xdist_group("search")
def test_no_excerpt_of_the_book_shows_tex_or_a_label_of_a_button(results):
    script = """
        const [pages, done] = arguments;
        Promise.all(pages.map((page) => fetch(page).then((answer) => answer.text())))
            .then((texts) => done(texts.map((text) => Search.htmlToText(text, ""))))
            .catch((error) => done([String(error)]));
    """
    pages = [f"chapters/{name}.html" for name in ("polarity", "adam", "intro", "playground")]
    for text in results.execute_async_script(script, pages):
        assert len(text) > 1000
        for noise in ("\\", "Show the code", "Copy to clipboard", "Link to this"):
            assert noise not in text, text[max(0, text.find(noise) - 80) :][:160]


def test_formulas_are_read_as_text():
    assert search.readable(r"2/\eta") == "2/η"
    assert search.readable(r"\lambda_1 \le 4") == "λ_1 ≤4"
    assert search.readable(r"\mathbb{R}") == "R"


SOURCES = {
    "index": r"""
        The $2/\eta$ rule
        =================

        .. index:: rule of thumb, ! limit

        .. toctree::

           words

        .. admonition:: Proof

           Clear, since $x$.

        Part
        ----

        Also called an :index:`edge`.

        .. math::

           sourceoftex = 1
        """,
    "words": """
        Words
        =====

        .. glossary::

           Edge
           EoS
              Where it is.

              .. index:: rim
        """,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The index of the search of two small pages."""
    folder = tmp_path_factory.mktemp("small")
    for name, text in SOURCES.items():
        source = dedent(text).strip().replace("$2/\\eta$", ":math:`2/\\eta`")
        (folder / f"{name}.rst").write_text(source + "\n", encoding="utf-8")
    (folder / "conf.py").write_text(
        "def setup(app):\n"
        "    from study.pages import search\n"
        "    app.connect('builder-inited', search.feed_as_read)\n"
    )
    app = SphinxTestApp("html", srcdir=folder)
    try:
        app.build()
        text = (folder / "_build/html/searchindex.js").read_text(encoding="utf-8")
        pages = (folder / "_build/html/index.html").read_text(encoding="utf-8")
    finally:
        app.cleanup()
    return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")")), pages


def test_the_index_holds_names_and_no_tex(index):
    content, page = index
    places = {
        title: [(content["docnames"][file], anchor) for file, anchor in found]
        for title, found in content["alltitles"].items()
    }
    assert places == {
        "The 2/η rule": [("index", None)],
        "rule of thumb": [("index", None)],
        "limit": [("index", None)],
        "Part": [("index", "part")],
        "edge": [("index", "part")],
        "Words": [("words", None)],
        "Edge": [("words", "term-Edge")],
        "EoS": [("words", "term-EoS")],
        "rim": [("words", "term-Edge")],
    }
    assert content["titles"][content["docnames"].index("index")] == "The 2/η rule"
    assert content["indexentries"] == {}
    assert "sourceoftex" not in content["terms"]
    assert "proof" in content["terms"]
    assert "sourceoftex" in page, "the page itself stays as it is"
    assert "2/\\eta" in page


def test_a_statement_is_found_by_its_name():
    kind = search.NODE_TYPES["theorem"]
    page = nodes.document(None, None)
    page += kind("", nodes.title("", " (Polarity (D3))"), ids=["thm-D3"])
    page += addnodes.index(entries=[("single", "f() (in module m)", "m.f", "", None)])
    titles = [title.astext() for title in search.searchable(page).findall(nodes.title)]
    assert titles == ["Polarity (D3)"]
