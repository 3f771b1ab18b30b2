"""The examples run: those of every docstring, and those of the README, with what they show."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re

import matplotlib.pyplot as plt
import pytest

import flatminima
import study
from study import ROOT

MODULES = sorted(
    module.name
    for package in (flatminima, study)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n+```(?:text)?\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
"""A block of Python, and what it prints if that follows in a block without a language."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What an example writes lies in a folder of its own, and no figure stays open."""
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


def failures(test: doctest.DocTest) -> str:
    """What goes wrong when the examples of one text are run, "" if nothing does."""
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=said.write)
    return said.getvalue()


@pytest.mark.parametrize("name", ["flatminima", "study", *MODULES])
def test_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    found = [failures(test) for test in doctest.DocTestFinder().find(module) if test.examples]
    assert not "".join(found), "".join(found)


@pytest.mark.parametrize("name", flatminima.__all__)
def test_every_name_at_the_front_has_an_example(name):
    assert ">>>" in (getattr(flatminima, name).__doc__ or "")


def run_block(block: re.Match) -> str:
    """What goes wrong in a block of Python: a failed example, or another output than shown."""
    code = block["code"]
    if ">>>" in code:
        parsed = doctest.DocTestParser().get_doctest(code, {}, "block", None, 0)
        return failures(parsed)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "block", "exec"), {"__name__": "block"})
    shown = block["shown"] or ""
    return "" if printed.getvalue() == shown else f"shown: {shown}printed: {printed.getvalue()}"


README = list(BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")))


def test_the_readme_shows_how_the_library_is_used():
    assert any("flatminima" in block["code"] for block in README)


@pytest.mark.parametrize("block", README, ids=lambda block: block["code"].split("\n")[0])
def test_a_block_of_the_readme_runs(block):
    assert run_block(block) == ""


def test_a_wrong_output_would_be_found():
    text = "```python\nprint(1)\n```\n\n```text\n{}\n```\n\n```python\n>>> 1 + 1\n{}\n```\n"
    right, wrong = (list(BLOCK.finditer(text.format(*shown))) for shown in ((1, 2), (2, 3)))
    assert [run_block(block) for block in right] == ["", ""]
    assert [bool(run_block(block)) for block in wrong] == [True, True]
