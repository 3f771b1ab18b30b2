"""``make lab``: copies of the chapters that JupyterLab shows as the book shows its pages."""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import lab
import pytest
from browsing import HANGING, HTML, chromium
from bs4 import BeautifulSoup
from selenium.webdriver.support.ui import WebDriverWait

from study import ROOT
from study.pages import notebooks

JUPYTER = Path(sys.executable).with_name("jupyter")
EXECUTED, SHOWN = ROOT / "_book" / "chapters", HTML.parent / "shown" / "chapters"
CHAPTER = "polarity"
ROLE = re.compile(r"\{[\w:]+\}`")


def markdown(identity, source):
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": source}


def code(identity, outputs=(), **metadata):
    parts = {"execution_count": None, "source": "1", "outputs": list(outputs)}
    return {"cell_type": "code", "id": identity, "metadata": metadata, **parts}


def glued(name, text):
    data = {"application/papermill.record/text/plain": repr(text)}
    return {"output_type": "display_data", "data": data, "metadata": {"scrapbook": {"name": name}}}


TEXT = """\
# Title

See {prf:ref}`thm-A`, {prf:ref}`thm-B`,
{cite:t}`x2020` and {term}`Angles`, {ref}`the
  wide one <ex-a>`; {numref}`fig-f`, {doc}`two`, {py:func}`~m.f`: {glue:text}`n`, {eq}`eq-a`.
`{eq}` and ``{eq}`eq-a` `` are code.

````{prf:theorem} A (A1)
:label: thm-A

1. Item

   $$
   a
   $$ (eq-a)

$$
b
$$
````

```{prf:proof}
Clear.
```

```python
{eq}`eq-a`
```
"""

SHOWN_OF_ONE = {
    "shown": [
        ["prf:ref", "thm-A", "", [["Theorem 3.1", "chapters/one.html#thm-A"]]],
        ["prf:ref", "thm-B", "", [["Theorem 4.1", "chapters/two.html#thm-B"]]],
        ["cite:t", "x2020", "", [["X [", ""], ["2020", "https://a.org/(1)"], ["]", ""]]],
        ["std:term", "angles", "", [["Angles", "chapters/glossary.html#term-Angles"]]],
        ["std:ref", "ex-a", "the wide one", [["the wide one", "chapters/two.html#ex-a"]]],
        ["std:numref", "fig-f", "", [["Fig. 3.1", "chapters/one.html#fig-f"]]],
        ["std:doc", "two", "", [["Two [sic]", "chapters/two.html"]]],
        ["py:func", "m.f", "", [["`f()`", "chapters/api.html#m.f"]]],
        ["math:eq", "eq-a", "", [["(3.1)", "chapters/one.html#equation-eq-a"]]],
    ],
    "numbers": {"thm-A": "3.1", "equation-eq-a": "3.1", "fig-f": "3.1"},
    "sections": ["3"],
}


@pytest.fixture
def book(tmp_path):
    """Two executed chapters and what their pages show."""
    figure = {"figure": {"name": "fig-f", "caption": "By {eq}`eq-a`."}}
    cells = {
        "one": [
            markdown(lab.TEXT_ID, "about"),
            code("set", [glued("n", "−2 [−3*, −1]")], mystnb=figure, tags=["hide-input"]),
            markdown("text", TEXT),
        ],
        "two": [
            markdown("b", ":::{prf:theorem} B\n:label: thm-B\n:::"),
            markdown("e", ":::{exercise} E\n:label: ex-a\n:::"),
        ],
    }
    pages = {"one": SHOWN_OF_ONE, "two": {"shown": [], "numbers": {"thm-B": "4.1"}, "sections": []}}
    for name in cells:
        for folder, suffix, content in (
            ("executed", "ipynb", notebook(cells[name])),
            ("shown", "json", json.dumps(pages[name])),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.{suffix}").write_text(content, encoding="utf-8")
    return tmp_path


def notebook(cells):
    return notebooks.stored({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def copied(book):
    made = lab.copies(book / "executed", book / "shown")
    return {n: {c["id"]: c for c in notebooks.parse(t)["cells"]} for n, t in made.items()}


def test_references_are_written_out_and_numbers_are_the_books(book):
    cells = copied(book)["one"]
    assert (
        cells["text"]["source"]
        == """\
# 3. Title

See [Theorem 3.1](#thm-A), [Theorem 4.1](two.ipynb#cell-id=b),
X \\[[2020](<https://a.org/(1)>)\\] and \
<a href="/static/chapters/glossary.html#term-Angles" target="_blank">Angles</a>, \
[the wide one](two.ipynb#cell-id=e); [Fig. 3.1](#fig-f), [Two \\[sic\\]](two.ipynb), \
<a href="/static/chapters/api.html#m.f" target="_blank"><code>f()</code></a>: \
−2 \\[−3\\*, −1\\], [(3.1)](#eq-a).
`{eq}` and ``{eq}`eq-a` `` are code.

````{prf:theorem} A (A1)
:label: thm-A
:enumerator: 3.1

1. Item

   ~~~{math}
   :label: eq-a
   :enumerator: 3.1
   a
   ~~~

~~~{math}
:enumerated: false
b
~~~
````

```{prf:proof}
:enumerated: false
Clear.
```

```python
{eq}`eq-a`
```
"""
    )
    assert "chapters/one.html" in cells[lab.TEXT_ID]["source"]


def test_a_figure_gets_its_caption_and_folded_code_but_no_record_of_numbers(book):
    cells = copied(book)["one"]
    assert list(cells) == [lab.TEXT_ID, "set", "set-caption", "text"]
    caption = "(fig-f)=\n**Fig. 3.1.** By [(3.1)](#eq-a)."
    assert cells["set-caption"]["source"] == caption
    assert cells["set"]["outputs"] == []
    assert cells["set"]["metadata"]["jupyter"] == {"source_hidden": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{glue:text}`missing`", "no cell gave the number 'missing'"),
        ("{prf:ref}`thm-C`", "thm-C"),
        ("$$\na\n$$ (eq-new)", "eq-new"),
    ],
)
def test_what_the_built_book_does_not_know_is_named(book, text, message):
    path = book / "executed" / "one.ipynb"
    path.write_text(notebook([markdown("a", text)]))
    with pytest.raises(lab.StaleBookError, match=message):
        lab.copies(book / "executed", book / "shown")


def test_a_page_that_was_not_built_is_named(book):
    (book / "shown" / "two.json").unlink()
    with pytest.raises(lab.StaleBookError, match="two"):
        lab.copies(book / "executed", book / "shown")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "trust", lambda text: None)
    return tmp_path / "copies"


OLD, NEW = (notebook([markdown("a", text), code("b")]) for text in ("old", "new"))


def test_an_unchanged_copy_is_renewed_and_a_changed_one_kept(folder):
    assert lab.refresh(folder, {"one": OLD, "two": OLD}) == []
    mine = OLD.replace("old", "mine")
    (folder / "two.ipynb").write_text(mine)
    assert lab.refresh(folder, {"one": NEW, "two": NEW}) == ["two"]
    assert (folder / "one.ipynb").read_text() == NEW
    assert (folder / "two.ipynb").read_text() == mine
    assert lab.refresh(folder, {"one": NEW, "two": NEW}) == ["two"], "and again"
    assert (folder / "two.ipynb").read_text() == mine


def test_a_run_is_no_change_and_stays_until_there_is_something_new(folder):
    lab.refresh(folder, {"one": OLD})
    cells = notebooks.parse(OLD)["cells"]
    cells[1] |= {"execution_count": 7, "outputs": [glued("n", "1")]}
    cells[1]["metadata"] = {"execution": {"iopub.execute_input": "now"}}
    run = notebook(cells)
    (folder / "one.ipynb").write_text(run)
    assert lab.refresh(folder, {"one": OLD}) == []
    assert (folder / "one.ipynb").read_text() == run
    assert lab.refresh(folder, {"one": NEW}) == []
    assert (folder / "one.ipynb").read_text() == NEW


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells.append(markdown("c", "added")),
        lambda cells: cells.pop(),
        lambda cells: cells.reverse(),
        lambda cells: cells[1].update(source="2"),
        lambda cells: cells[1]["metadata"].update(tags=["mine"]),
        lambda cells: cells[0].update(attachments={"a.png": {"image/png": "aa"}}),
    ],
)
def test_whatever_a_reader_changes_is_kept(folder, change):
    lab.refresh(folder, {"one": OLD})
    cells = notebooks.parse(OLD)["cells"]
    change(cells)
    (folder / "one.ipynb").write_text(notebook(cells))
    assert lab.refresh(folder, {"one": NEW}) == ["one"]
    assert (folder / "one.ipynb").read_text() == notebook(cells)


def test_without_its_record_or_as_no_notebook_a_copy_is_kept(folder):
    lab.refresh(folder, {"one": OLD, "two": OLD})
    (folder / lab.MADE).unlink()
    (folder / "two.ipynb").write_text("<<<<<<< half a merge")
    assert lab.refresh(folder, {"one": NEW, "two": NEW}) == ["one", "two"]
    assert (folder / "one.ipynb").read_text() == OLD


def test_make_lab_opens_the_copies_and_serves_the_pages():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = re.search(r"^lab: book .*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert "tools/lab.py" in rule
    assert "--notebook-dir=_lab" in rule
    assert "--ServerApp.extra_static_paths=_build/html" in rule
    clean = re.search(r"^clean:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert "_lab" not in clean, "it holds what readers have written"


def test_the_extension_is_installed_and_fits_this_jupyterlab():
    command = [JUPYTER, "labextension", "list"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    plain = re.sub(r"\x1b\[\d*m", "", result.stdout + result.stderr)
    assert re.search(r"jupyterlab-myst v\S+ +enabled +OK", plain), plain


def sphinx(folder, written_down=True):
    settings = (
        "extensions = ['sphinxcontrib.bibtex']\nbibtex_bibfiles = ['a.bib']\nnumfig = True\n"
        "bibtex_reference_style = 'author_year'\nhtml_last_updated_fmt = None\n"
    )
    if written_down:
        settings += "from study.pages.shown import register as setup\n"
    (folder / "conf.py").write_text(settings)
    command = [sys.executable, "-m", "sphinx", "-qW", "-b", "html", folder, folder / "out/html"]
    subprocess.run(command, check=True)
    return {p.stem: p.read_text("utf-8") for p in (folder / "out/html").glob("[iab]*.html")}


def test_what_pages_show_is_written_down_and_no_page_is_changed_by_it(tmp_path):
    (tmp_path / "a.bib").write_text(
        "@book{x, author={Ann Xu}, title={T}, publisher={P}, year=2020, doi={10.1/2}}"
    )
    (tmp_path / "index.rst").write_text(
        "Start\n=====\n\n.. toctree::\n   :numbered:\n\n   a\n   b\n"
    )
    (tmp_path / "a.rst").write_text("*One* `f`\n=========\n\nSee :doc:`the b <b>`, :cite:t:`x`.\n")
    (tmp_path / "b.rst").write_text(
        "Two\n===\n\n.. math:: e\n   :label: e\n\n:eq:`e` in :doc:`a`.\n\n.. bibliography::\n"
    )
    without = sphinx(tmp_path, written_down=False)
    shutil.rmtree(tmp_path / "out")
    assert sphinx(tmp_path) == without

    def shown(name):
        return json.loads((tmp_path / "out/shown" / f"{name}.json").read_text("utf-8"))

    entries = [
        ["std:doc", "b", "the b", [["the b", "b.html"]]],
        ["cite:t", "x", "", [["Xu [", ""], ["2020", "https://doi.org/10.1/2"], ["]", ""]]],
    ]
    assert shown("a")["shown"] == entries
    assert shown("a")["sections"] == ["1"]
    assert shown("b")["numbers"] == {"equation-e": "2.1"}
    assert shown("b")["shown"][0] == [
        "math:eq",
        "e",
        "",
        [["(2.1)", "b.html#equation-e"]],
    ]

    # Built again after a change of one page, the other's file is as complete as before.
    (tmp_path / "b.rst").write_text((tmp_path / "b.rst").read_text() + "\nMore: :doc:`index`.\n")
    sphinx(tmp_path)
    assert shown("a")["shown"] == entries
    assert [entry[1] for entry in shown("b")["shown"]] == ["e", "a", "index"]


@pytest.fixture(scope="module")
def copies():
    made = lab.copies(EXECUTED, SHOWN)
    return {name: notebooks.parse(text)["cells"] for name, text in made.items()}


def texts(cells):
    return {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"}


@pytest.mark.book
def test_every_chapter_has_a_copy_in_which_only_references_and_numbers_differ(copies):
    """Between the references, which become something, the text of each cell is the chapter's."""
    assert set(copies) == {p.stem for p in (ROOT / "chapters").glob("*.ipynb")}
    for name, cells in copies.items():
        made = {c["id"]: c for c in cells}
        original = notebooks.cells(EXECUTED / f"{name}.ipynb")
        extra = set(made) - {c["id"] for c in original}
        assert extra == {lab.caption_id(c) for c in original if "name" in notebooks.figure(c)}
        for cell in original:
            source, copy = "".join(cell["source"]), "".join(made[cell["id"]]["source"])
            if cell["cell_type"] == "code":
                assert copy == source
            elif cell["id"] != lab.TEXT_ID:
                assert not [m for m in lab.PART.finditer(copy) if m["role"]]
                assert without_numbers(copy) == without_references(source, copy), cell["id"]


def without_numbers(copy):
    copy = re.sub(r"^[ \t]*:enumerat(or|ed): .*\n", "", copy + "\n", flags=re.M)[:-1]
    return re.sub(r"^(#+ )[\d.]+\. ", r"\1", copy, flags=re.M)


def without_references(source, copy):
    """The source with its equations as directives, and each role as the copy has it there."""
    source = re.sub(
        r"^([ \t]*)\$\$\n(.*?)\n[ \t]*\$\$(?: \(([\w-]+)\))?$",
        lambda m: (
            f"{m[1]}~~~{{math}}\n"
            + (f"{m[1]}:label: {m[3]}\n" if m[3] else "")
            + f"{m[2]}\n{m[1]}~~~"
        ),
        source,
        flags=re.M | re.S,
    )
    between = re.split(r"\{[\w:]+\}`[^`]+`", source)
    pattern = "(.+?)".join(map(re.escape, between))
    found = re.fullmatch(pattern, without_numbers(copy), re.S)
    assert found, source
    return "".join(a + b for a, b in zip(between, [*found.groups(), ""], strict=True))


@pytest.mark.book
def test_every_link_of_a_copy_leads_somewhere(copies):
    pages, seen = {}, 0
    for cells in copies.values():
        own = "\n".join(texts(cells).values())
        for address in re.findall(
            r"\]\(<?([^()>]+(?:\([^()]*\)[^()>]*)*)>?\)|href=\"([^\"]+)\"", own
        ):
            address = "".join(address)
            path, _, anchor = address.partition("#")
            seen += 1
            if address.startswith("https://"):
                continue
            if path.startswith(lab.PAGES):
                page = HTML / path.removeprefix(lab.PAGES + "/")
                ids = pages.get(page)
                if ids is None:
                    tree = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
                    ids = pages[page] = {tag["id"] for tag in tree.find_all(id=True)}
                assert not anchor or anchor in ids, address
            elif path:
                target = copies[path.removesuffix(".ipynb")]
                assert not anchor or anchor.removeprefix("cell-id=") in {c["id"] for c in target}
            else:
                stated = rf"^[ \t]*:label: {re.escape(anchor)}$|^\({re.escape(anchor)}\)=$"
                assert len(re.findall(stated, own, re.M)) == 1, address
    assert seen > 400


@pytest.mark.book
def test_a_number_in_line_begins_no_list(copies):
    item = re.compile(r"^[ \t]*(?:\d{1,9}[.)]|[-+*])[ \t]", re.M)
    for name, cells in copies.items():
        original = notebooks.cells(EXECUTED / f"{name}.ipynb")
        made = texts(cells)
        for identity, source in texts(original).items():
            if identity != lab.TEXT_ID:
                assert len(item.findall(made[identity])) == len(item.findall(source)), identity


def address_of(running, records, token):
    """Where a JupyterLab answers that has looked for a free port by itself, once it does."""
    limit = time.monotonic() + HANGING
    while time.monotonic() < limit:
        if running.poll() is not None:
            raise ChildProcessError("JupyterLab has ended")
        # Half written, the record of the server is no JSON; until the server listens it refuses.
        with contextlib.suppress(ValueError, OSError):
            (record,) = (json.loads(p.read_text()) for p in records.glob("jpserver-*.json"))
            urllib.request.urlopen(f"{record['url']}api/status?token={token}").close()
            return record["url"].rstrip("/")
        time.sleep(0.2)
    raise TimeoutError("JupyterLab does not answer")


@pytest.fixture
def server(tmp_path):
    """The address of a JupyterLab on fresh copies, with settings of its own."""
    own = {
        f"{name}_DIR": str(tmp_path / name)
        for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME", "JUPYTER_DATA", "JUPYTERLAB_SETTINGS",
                     "JUPYTERLAB_WORKSPACES", "IPYTHON")
    }  # fmt: skip
    environment = {**os.environ, **own}
    folder = tmp_path / "copies"
    make = (
        "import lab, sys; from pathlib import Path; executed, shown, to = map(Path, sys.argv[1:]); "
        "lab.refresh(to, lab.copies(executed, shown))"
    )
    arguments = [sys.executable, "-c", make, EXECUTED, SHOWN, folder]
    subprocess.run(arguments, cwd=ROOT / "tools", env=environment, check=True)
    token = secrets.token_hex(8)
    command = [
        JUPYTER, "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--IdentityProvider.token={token}", f"--notebook-dir={folder}",
        f"--ServerApp.extra_static_paths={HTML}",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    running = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        records = Path(own["JUPYTER_RUNTIME_DIR"])
        yield f"{address_of(running, records, token)}/lab/tree/{CHAPTER}.ipynb?token={token}"
    except ChildProcessError as error:
        error.add_note((tmp_path / "lab.log").read_text())
        raise
    finally:
        running.terminate()
        running.wait(HANGING)
        log.close()


@pytest.fixture
def driver():
    with chromium() as driver:
        yield driver


def plain(text):
    return " ".join(text.replace("\xa0", " ").split())


@pytest.mark.book
@pytest.mark.browser
def test_jupyterlab_shows_a_copy_as_the_book_shows_its_page(server, driver, copies):
    tree = BeautifulSoup((HTML / "chapters" / f"{CHAPTER}.html").read_text("utf-8"), "html.parser")
    book = tree.select_one("article.bd-article")
    count = len(texts(copies[CHAPTER]))
    driver.get(server)
    shown = "return document.querySelectorAll('.jp-MarkdownCell .myst').length"
    WebDriverWait(driver, HANGING).until(lambda _: driver.execute_script(shown) == count)
    linked = "return [...document.querySelectorAll('.myst a[href^=\"#\"]')].length"
    WebDriverWait(driver, HANGING).until(lambda _: driver.execute_script(linked))
    read = """
        const all = (s) => [...document.querySelectorAll(s)].map((e) => e.textContent);
        return {
            text: all(".myst").join(" "), boxes: all(".myst aside, .myst details"),
            links: all(".myst p a, .myst li a"), errors: all(".katex-error"),
            equations: all(".myst a[title='Link to this Equation']"),
            formulas: all(".myst .katex").length,
            pictures: all(".jp-RenderedSVG").length,
        };
    """
    page = driver.execute_script(read)
    boxes = [plain(box) for box in page["boxes"]]

    # Statements and exercises have the book's titles, with its numbers, in its order.
    titles = [plain(t.get_text()) for t in book.select("div.proof > p.admonition-title")]
    titles += [plain(t.get_text()) for t in book.select("div.exercise > p.admonition-title")]
    assert any(t.startswith("Theorem ") for t in titles)
    assert not [box[:20] for box in boxes if re.match(r"Proof \d", box)], (
        "the book counts no proofs"
    )
    assert any(box.startswith("Proof") for box in boxes)
    numbered = [t for t in titles if re.match(r"(Theorem|Proposition|Exercise) \d", t)]
    for title in numbered:
        start = re.match(r"\w+ [\d.]+ \([^$\\]*", title)[0].split("\\")[0]
        assert any(box.startswith(start) for box in boxes), title
    equations = [t.get_text().rstrip("#").strip() for t in book.select("span.eqno")]
    assert [e.strip() for e in page["equations"]] == [
        re.match(r"\([\d.]+\)", e)[0] for e in equations
    ]

    # References read as on the page: to statements here and elsewhere, to chapters, citations.
    links = {plain(a) for a in page["links"]}
    for selector in ("a.reference.internal[href*='.html#thm-']", "a[href^='#equation-']"):
        wanted = {plain(a.get_text()) for a in book.select(f"p {selector}")}
        assert wanted, selector
        assert wanted <= links
    text = plain(page["text"])
    assert "Wang and Roberts [2026]" in text
    assert "Wang and Roberts [2026]" in plain(book.get_text())
    number = lab.glued_numbers(EXECUTED)[CHAPTER]["d3-high"].text
    assert f"{number} degrees, and it ends at" in text
    assert f"{number} degrees, and it ends at" in plain(book.get_text())
    captions = [plain(t.get_text()).strip() for t in book.select("figcaption .caption-number")]
    assert captions
    assert all(f"{caption}." in text for caption in captions)

    assert page["pictures"] == len(captions)
    assert page["formulas"] > 100
    assert page["errors"] == []
    assert not [box for box in boxes if ROLE.search(box) or re.search(r"\{prf:|:::|```|~~~", box)]
    assert any(box.startswith("Solution to Exercise") for box in boxes)
    assert any(box.startswith("What you will learn") for box in boxes)
