"""What readers take away: notebooks with and without results, and the source of the book."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from base64 import b64decode

import nbformat
import pytest
from browsing import HTML
from bs4 import BeautifulSoup

from study import ROOT
from study.pages import copies, downloads, notebooks

SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"

TEXT = r"""
(part)=
# Title

:::{index} other, words
:::

By {prf:ref}`thm-A`, {prf:ref}`thm-B`, {cite:t}`x2020` and {eq}`eq-a`: {glue:text}`n`.

<div class="live-figure" data-figure="a">It moves: <a href="#fig-f">at rest</a>,
<a href="playground.html#a=1">there</a>, <a href="https://a.org">out</a>.</div>

````{prf:theorem} A (A1)
:label: thm-A

$$
a
$$ (eq-a)
````

:::{admonition} Proof
:class: dropdown

```{prf:proof}
Clear.
```
:::

```{exercise} E (★ code)
:label: ex-a

Do it.
```

```{solution} ex-a
:label: sol-a
:class: dropdown

Done.
```
""".strip()

PLAIN = r"""
# 3. Title



By Theorem 3.1, Theorem 4.1, X [2020](https://a.org/1) and (3.1): −2.

<div class="live-figure" data-figure="a">It moves: at rest,
there, <a href="https://a.org">out</a>.</div>

**Theorem 3.1 (A (A1))**

$$
a \tag{3.1}
$$

<details>
<summary>Proof</summary>

*Proof.*

Clear.

∎

</details>

**Exercise 3.1 (E (★ code))**

Do it.

<details>
<summary>Solution to Exercise 3.1</summary>

Done.

</details>
""".strip()

SHOWN = {
    "shown": [
        ["prf:ref", "thm-A", "", [["Theorem 3.1", "chapters/one.html#thm-A"]]],
        ["prf:ref", "thm-B", "", [["Theorem 4.1", "chapters/two.html#thm-B"]]],
        ["cite:t", "x2020", "", [["X ", ""], ["2020", "https://a.org/1"]]],
        ["math:eq", "eq-a", "", [["(3.1)", "chapters/one.html#equation-eq-a"]]],
    ],
    "numbers": {"thm-A": "3.1", "equation-eq-a": "3.1", "fig-f": "3.1", "ex-a": "3.1"},
    "sections": ["3"],
}


def executed() -> dict:
    """A chapter after it was run: a figure, a number and a text."""
    drawing = {"output_type": "display_data", "data": {"image/svg+xml": [SVG]}, "metadata": {}}
    number = {
        "output_type": "display_data",
        "data": {"application/papermill.record/text/plain": "'−2'"},
        "metadata": {"scrapbook": {"name": "n"}},
    }
    caption = {"name": "fig-f", "caption": "By {eq}`eq-a`."}
    code = {
        "cell_type": "code",
        "id": "draw",
        "metadata": {"mystnb": {"figure": caption, "image": {"alt": "A [line]"}}},
        "source": "draw()",
        "execution_count": 1,
        "outputs": [drawing, number],
    }
    text = {"cell_type": "markdown", "metadata": {}}
    cells = [
        text | {"id": notebooks.TEXT_ID, "source": "first"},
        code,
        text | {"id": "text", "source": TEXT},
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def plain(tmp_path):
    """What makes the plain copy of the chapter: id -> cell."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/one.json").write_text(json.dumps(SHOWN), encoding="utf-8")
    notebooks.write(tmp_path / "executed/one.ipynb", executed())

    def make() -> dict[str, dict]:
        made = copies.make(tmp_path / "executed", tmp_path / "shown", downloads.Plain)["one"]
        nbformat.validate(nbformat.reads(made, as_version=4))
        return {cell["id"]: cell for cell in notebooks.parse(made)["cells"]}

    return make


def test_a_chapter_is_written_out_in_plain_markdown(plain):
    cells = plain()
    assert cells["text"]["source"] == PLAIN
    assert "make lab" in cells[notebooks.TEXT_ID]["source"]


def test_a_figure_is_a_picture_that_needs_no_trust(plain):
    cells = plain()
    caption = cells["draw-caption"]
    assert caption["source"] == (
        "![A \\[line\\]](attachment:figure.svg)\n\n**Fig. 3.1.** By (3.1)."
    )
    assert b64decode(caption["attachments"]["figure.svg"]["image/svg+xml"]).decode() == SVG
    assert cells["draw"]["outputs"] == [], "it is not there twice"


def test_references_lead_to_the_pages_where_these_have_an_address(plain, monkeypatch):
    monkeypatch.setattr(downloads.Plain, "base", "https://b.org")
    cells = plain()
    text = cells["text"]["source"]
    assert "[Theorem 4.1](https://b.org/chapters/two.html#thm-B)" in text
    assert '<a href="https://b.org/chapters/one.html#fig-f">at rest</a>' in text
    assert '<a href="https://b.org/chapters/playground.html#a=1">there</a>' in text
    assert "https://b.org/chapters/one.html" in cells[notebooks.TEXT_ID]["source"]


@pytest.fixture(scope="module")
def archive():
    return downloads.archive(ROOT)


def names(archive: bytes) -> list[str]:
    return [
        name.removeprefix(f"{downloads.NAME}/")
        for name in zipfile.ZipFile(io.BytesIO(archive)).namelist()
    ]


def test_the_archive_holds_the_files_of_the_book_and_no_others(archive):
    held = names(archive)
    assert held == sorted(held)
    for needed in ("Makefile", "constraints.txt", "_toc.yml", ".binder/postBuild", "LICENSE",
                   "chapters/intro.md", "src/flatminima/data/fashion_mnist_subset.npz",
                   "results/default/gain.parquet", "playground/package-lock.json"):  # fmt: skip
        assert needed in held
    built = ("_build/", "_book/", "_lab/", ".venv/", ".git/", "chapters/_static/playground/")
    assert not [name for name in held if name.startswith(built) or "node_modules" in name]


def test_the_same_files_make_the_same_archive(archive, tmp_path):
    whole = zipfile.ZipFile(io.BytesIO(archive))
    assert {entry.date_time for entry in whole.infolist()} == {downloads.EPOCH}
    modes = {entry.filename: entry.external_attr >> 16 for entry in whole.infolist()}
    assert modes[f"{downloads.NAME}/.binder/postBuild"] == 0o100755
    assert modes[f"{downloads.NAME}/README.md"] == 0o100644

    # Unpacked elsewhere, without git, with things that were built there, it makes itself again.
    for entry in whole.infolist():
        path = whole.extract(entry, tmp_path)
        os.chmod(path, entry.external_attr >> 16 & 0o777)
    root = tmp_path / downloads.NAME
    for made in ("_build/html/a.html", "src/a/__pycache__/b.pyc", "chapters/_static/playground/c"):
        (root / made).parent.mkdir(parents=True, exist_ok=True)
        (root / made).write_text("built")
    assert downloads.archive(root) == archive


@pytest.mark.book
def test_who_has_the_pages_alone_can_run_the_book(tmp_path):
    with zipfile.ZipFile(HTML / downloads.ARCHIVE) as whole:
        whole.extractall(tmp_path)
    root = tmp_path / downloads.NAME
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert run("-c", "import study; print(study.ROOT)").strip() == str(root)
    run("tools/notebooks.py", "--check")


@pytest.mark.book
def test_the_start_page_and_every_menu_offer_the_source():
    page = BeautifulSoup((HTML / "chapters/intro.html").read_text("utf-8"), "html.parser")
    section = page.find(id="run-it").find_parent("section")
    assert section.select_one(f'a[download][href="../{downloads.ARCHIVE}"]')
    for name in ("intro", "polarity", "glossary"):
        page = BeautifulSoup((HTML / f"chapters/{name}.html").read_text("utf-8"), "html.parser")
        menu = page.select_one(".dropdown-download-buttons")
        assert menu.select_one(f'a[download][href="../{downloads.ARCHIVE}"]'), name


@pytest.mark.book
def test_every_chapter_can_be_had_with_its_results_and_without():
    chapters = sorted((ROOT / "chapters").glob("*.ipynb"))
    for stored in chapters:
        bare = notebooks.read(HTML / "_sources/chapters" / stored.name)
        assert bare == downloads.without_outputs(notebooks.read(stored))
        path = HTML / downloads.FOLDER / f"{stored.stem}-with-results.ipynb"
        cells = notebooks.cells(path)
        nbformat.validate(nbformat.read(path, as_version=4))
        figures = [c for c in cells if "name" in notebooks.figure(c)]
        pictures = [c for c in cells if "attachments" in c]
        assert len(figures) == len(pictures), stored.name
        text = "\n".join(notebooks.markdown(path))
        left = re.findall(r"\{[\w:]+\}`|^[`:]{3,}\{.*|^:\w+: .*|^\([\w-]+\)=$", text, re.MULTILINE)
        assert left == [], stored.name
        code = [notebooks.source(c) for c in notebooks.cells(stored, "code")]
        assert notebooks.code(path) == code
    assert len(chapters) > 20
