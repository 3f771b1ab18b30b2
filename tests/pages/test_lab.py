"""``make lab``: copies of the chapters that JupyterLab shows as the book shows its pages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lab
import pytest

from study import ROOT
from study.pages import copies, notebooks

JUPYTER = Path(sys.executable).with_name("jupyter")


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
            markdown(notebooks.TEXT_ID, "about"),
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
    made = copies.make(book / "executed", book / "shown")
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
    assert "chapters/one.html" in cells[notebooks.TEXT_ID]["source"]


def test_a_figure_gets_its_caption_and_folded_code_but_no_record_of_numbers(book):
    cells = copied(book)["one"]
    assert list(cells) == [notebooks.TEXT_ID, "set", "set-caption", "text"]
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
    with pytest.raises(copies.StaleBookError, match=message):
        copies.make(book / "executed", book / "shown")


def test_a_page_that_was_not_built_is_named(book):
    (book / "shown" / "two.json").unlink()
    with pytest.raises(copies.StaleBookError, match="two"):
        copies.make(book / "executed", book / "shown")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "trust", lambda text: None)
    return tmp_path / "copies"


OLD, NEW = (notebook([markdown("a", text), code("b")]) for text in ("old", "new"))


def cells_of(notebook):
    return notebooks.parse(notebook)["cells"]


def saved(path, cells):
    """Save a copy as JupyterLab does, which keeps the metadata; the text."""
    text = notebooks.stored(notebooks.read(path) | {"cells": cells})
    path.write_text(text)
    return text


def test_an_unchanged_copy_is_renewed_and_a_changed_one_kept(folder):
    assert lab.refresh(folder, {"one": OLD, "two": OLD}) == []
    mine = saved(folder / "two.ipynb", cells_of(OLD.replace("old", "mine")))
    assert lab.refresh(folder, {"one": NEW, "two": NEW}) == ["two"]
    assert cells_of((folder / "one.ipynb").read_text()) == cells_of(NEW)
    assert (folder / "two.ipynb").read_text() == mine
    assert lab.refresh(folder, {"one": NEW, "two": NEW}) == ["two"], "and again"
    assert (folder / "two.ipynb").read_text() == mine
    assert sorted(path.name for path in folder.iterdir()) == ["one.ipynb", "two.ipynb"]


def test_a_run_is_no_change_and_stays_until_there_is_something_new(folder):
    lab.refresh(folder, {"one": OLD})
    cells = cells_of(OLD)
    cells[1] |= {"execution_count": 7, "outputs": [glued("n", "1")]}
    cells[1]["metadata"] = {"execution": {"iopub.execute_input": "now"}}
    run = saved(folder / "one.ipynb", cells)
    assert lab.refresh(folder, {"one": OLD}) == []
    assert (folder / "one.ipynb").read_text() == run
    assert lab.refresh(folder, {"one": NEW}) == []
    assert cells_of((folder / "one.ipynb").read_text()) == cells_of(NEW)


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
    cells = cells_of(OLD)
    change(cells)
    mine = saved(folder / "one.ipynb", cells)
    assert lab.refresh(folder, {"one": NEW}) == ["one"]
    assert (folder / "one.ipynb").read_text() == mine


@pytest.mark.parametrize("mine", [OLD, "<<<<<<< half a merge", ""])
def test_without_its_mark_or_as_no_notebook_a_copy_is_kept(folder, mine):
    lab.refresh(folder, {"one": OLD})
    (folder / "one.ipynb").write_text(mine)
    assert lab.refresh(folder, {"one": NEW}) == ["one"]
    assert (folder / "one.ipynb").read_text() == mine


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
