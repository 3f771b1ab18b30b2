"""The generators of the start page and the back matter, on small cases and on altered ones."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sphinx.errors import ExtensionError

from flatminima.statistics import Interval
from study import ROOT, claims, provenance, results
from study.pages import (
    contents,
    findings,
    generated,
    notebooks,
    offered,
    opening,
    records,
    reference,
    roles,
    sources,
    tables,
    usage,
)
from study.pages.statements import LABELS, exercises_on, tests_of

CHAPTERS = ROOT / "chapters"


def notebook(folder: Path, name: str, *cells: str, code: str = "", outputs: tuple = ()) -> None:
    """Write a notebook of Markdown cells and one code cell."""
    written = [{"cell_type": "markdown", "source": cell} for cell in cells]
    written.append({"cell_type": "code", "source": code, "outputs": list(outputs)})
    notebooks.write(folder / f"{name}.ipynb", {"cells": written})


# --- statements and their exercises


@pytest.mark.parametrize("label", LABELS)
def test_every_statement_has_tests_and_exercises_to_link(label):
    assert tests_of(label, ROOT / "tests")
    assert exercises_on(label, CHAPTERS)


def test_exercises_are_found_by_label_and_by_reference(tmp_path):
    notebook(
        tmp_path,
        "one",
        "```{prf:theorem} Turns (D3)\n:label: thm-D3\n\nIt turns.\n```",
        "```{exercise} Named\n:label: ex-d3-named\n\nShow it.\n```",
        "```{exercise} Other\n:label: ex-d30-other\n\nShow it.\n```",
        "```{exercise} Solved\n:label: ex-free\n\nShow it.\n```",
        "```{solution} ex-free\n:label: sol-free\n\nBy {prf:ref}`thm-D3`.\n```",
    )
    notebook(tmp_path, "a", "```{exercise} Far\n:label: ex-far\n\nSee {prf:ref}`thm-D3`.\n```")
    found = [e.label for e in exercises_on("D3", tmp_path)]
    assert found == ["ex-d3-named", "ex-free", "ex-far"], "those of its own chapter first"
    assert exercises_on("D1", tmp_path) == []


# --- tables


def test_a_table_refuses_cells_that_would_break_it():
    assert generated.table(("a", "b"), [("1", "2")]) == [
        "| a | b |",
        "| :--- | :--- |",
        "| 1 | 2 |",
    ]
    for row in [("1",), ("1", "2|3"), ("1", "2\n3")]:
        with pytest.raises(ValueError, match="2 cells"):
            generated.table(("a", "b"), [row])


def test_pages_are_listed_in_the_order_of_the_contents(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "root: chapters/intro\nparts:\n- chapters:\n  - file: chapters/b\n"
        "    sections:\n    - file: chapters/a\n  - file: chapters/c\n"
    )
    assert contents.names(tmp_path) == ["intro", "b", "a", "c"]
    known = {path.stem for kind in ("md", "ipynb") for path in CHAPTERS.glob(f"*.{kind}")}
    assert set(contents.names(ROOT)) == known


def test_absolute_values_in_docstrings_stay_what_they_are():
    lines = ["With |y| and ``|r|``,", "and `a|b`."]
    reference.escape_bars(None, "function", "f", None, None, lines)
    assert lines == ["With \\|y\\| and ``|r|``,", "and `a|b`."]


def test_a_lone_letter_begins_no_list():
    lines = ["    width: m.", "    steps: of k.", "m. b"]
    reference.keep_lone_letters(None, "function", "f", None, None, lines)
    assert lines == ["    width: m", "    steps: of k.", "m. b"]


def test_a_test_is_named_in_words():
    assert sources.in_words("test_D3_turns_uphill") == "turns uphill"
    assert sources.in_words("test_other_names") == "other names"


# --- claims in the book


def test_claims_need_executed_chapters_and_then_every_number(tmp_path):
    for claim in claims.CLAIMS:
        notebook(tmp_path, claim.shown[0])
    with pytest.raises(findings.NotExecutedError, match="make book"):
        findings.findings(tmp_path)
    # Once they have run, a number that is not there is an error of the book.
    record = {"data": {"x/text/plain": "1"}, "metadata": {"scrapbook": {"name": "n"}}}
    for claim in claims.CLAIMS:
        notebook(tmp_path, claim.shown[0], outputs=(record,))
    with pytest.raises(ExtensionError, match=r"What was reproduced: claim 'monotone'.*eos-"):
        findings.findings(tmp_path)


def test_the_summary_has_a_line_for_each_claim_of_the_paper():
    assert {claim.part for claim in claims.CLAIMS} == set(range(1, len(tables.PARTS) + 1))
    for claim in claims.CLAIMS:
        for text in (claim.statement, claim.criterion):
            assert "|" not in text, "it stands in a table"
            unlinked = re.sub(r"\{prf:ref\}`[^`]*`", "", text)
            assert not re.search(r"\b[A-Z]\d+\b", unlinked), "a reader knows no such number"


def test_a_statement_in_a_summary_is_a_link_with_the_number_that_readers_know():
    said = "by Theorem F4, and Proposition Q3; at F4"
    assert records.linked(said) == "by {prf:ref}`thm-F4`, and {prf:ref}`prop-Q3`; at F4"


OUTCOMES = [False, *map(claims.decided, (Interval(1, 0.5, 2), Interval(0, -1, 1)))]


def found(outcomes: list, joint: bool) -> claims.Finding:
    effects = tuple(claims.Effect("x", "1", outcome, joint) for outcome in outcomes)
    return claims.Finding(claims.CLAIMS[0], effects, ())


def test_the_table_says_in_how_many_settings_an_effect_is_as_claimed_and_undecided():
    assert tables.tally(found(OUTCOMES, False).effects) == (
        "1 of 3 effects as claimed, 1 undecided, 1 not reproduced"
    )
    assert tables.tally(found([True], False).effects) == "1 of 1 effect as claimed"
    assert set(tables.MARKS) < set(claims.VERDICTS)
    # No effect has either of these: they are said of claims alone.
    assert set(claims.VERDICTS) - set(tables.MARKS) == {"partly", "not tested"}


def test_the_table_says_how_often_chance_decides():
    several = [found(OUTCOMES, False)] * 60 + [found(OUTCOMES, True)] * 2
    said = tables.chance(several)
    assert "124 intervals, of which 120 stand alone and 4 are joint within 2 claims" in said
    assert "about 3 of those alone" in said


def test_the_table_says_how_well_the_gains_are_known():
    def gain(value: float, half: float) -> claims.Effect:
        return claims.gained("x", Interval(value, value - half, value + half))

    def among(*effects: claims.Effect) -> str:
        return tables.widths([claims.Finding(claims.CLAIMS[0], effects, ())])

    sharper = claims.Effect("x", "1", True, unit=claims.SHARPNESS, interval=Interval(1, 0, 2))
    known = among(gain(0.01, 0.002), gain(0.0, 0.003), sharper)
    assert (
        known == "All 2 differences in accuracy are known to 0.3 points to either side or better."
    )
    said = among(gain(0.01, 0.002), gain(0.02, 0.006), gain(0.001, 0.0045), gain(0.001, 0.0075))
    assert "Of 4 differences in accuracy 1 are known" in said
    assert "Of the other 3 all but 2 are decided" in said
    assert "a factor of 4.0, for the widest one of 6." in said


def test_a_mark_shows_the_verdict_of_a_claim_by_its_number_or_of_a_part_by_its_key():
    def shown(text: str) -> str:
        role = roles.ClaimRole()
        role.text = text
        return role.shown(judged).astext()

    judged = [
        claims.Finding(claim, (claims.Effect("x", "1", claim.key != "beyond"),), ())
        for claim in claims.CLAIMS
    ]
    assert shown("beyond") == "not reproduced"
    assert shown("monotone") == "reproduced"
    assert shown("1") == "partly"
    assert shown("4") == "reproduced"
    with pytest.raises(ExtensionError, match="no claim 'absent'"):
        shown("absent")


@pytest.mark.parametrize("theme", ["", 'html[data-theme="dark"] '])
def test_every_verdict_has_its_color_in_both_themes(theme):
    css = (CHAPTERS / "_static" / "backmatter.css").read_text(encoding="utf-8")
    for verdict in claims.VERDICTS:
        rule = rf"^{re.escape(theme)}\.bd-content \.verdict-{verdict.replace(' ', '-')}( {{|,)$"
        assert re.search(rule, css, re.MULTILINE), verdict


# --- the figure of the start page


def test_opening_figure_shows_what_its_caption_says():
    said = opening.numbers()
    run = opening.run()
    assert float(said["after"]) < 1 < float(said["before"])
    assert float(said["low"]) < float(said["first"]) < float(said["last"]) < float(said["high"])
    assert np.abs(run.residual).max() > 10 * abs(run.residual[0])


def test_opening_figure_refuses_a_stable_run():
    with pytest.raises(ValueError, match="unstable"):
        opening.numbers(opening.run(0.9))


@pytest.mark.parametrize("layout", opening.SIZES)
def test_opening_figure_is_the_same_each_time(tmp_path, layout):
    for name in ("a.svg", "b.svg"):
        opening.draw(tmp_path / "new" / name, layout)
    first, second = (tmp_path / "new" / n for n in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in first.read_bytes()


# --- which chapter uses what


def test_names_are_followed_through_imports():
    code = (
        "import flatminima\nimport flatminima.theory.maps as m\nimport numpy as np\n"
        "from flatminima import training as t\nfrom study import results\n"
        "from flatminima.curvature import top_eigenpairs as top\n"
        "top(1); t.train(); m.orbit; flatminima.theory.rotation.angle; np.angle; results.load\n"
    )
    names = usage.names_in(code)
    assert not any(name.startswith("np") for name in names)
    assert names >= {
        "flatminima.curvature.top_eigenpairs",
        "flatminima.training.train",
        "study.results.load",
        "flatminima.theory.maps.orbit",
        "flatminima.theory.rotation.angle",
    }


def test_a_name_stands_for_what_it_was_defined_as():
    solver = "flatminima.curvature.eigensolver.top_eigenpairs"
    assert usage.resolved("flatminima.curvature.top_eigenpairs") == solver
    network = "flatminima.theory.scalar_network.ScalarNetwork"
    assert usage.resolved(f"{network}.start_with_sharpness") == network
    assert usage.resolved("flatminima.theory.quadratic") is None
    assert usage.resolved("flatminima.theory.quadratic.absent") is None


def test_chapters_that_use_a_function_are_found(tmp_path):
    code = "%matplotlib inline\nfrom flatminima.theory import maps\nmaps.orbit(1)"
    notebook(tmp_path, "two", code=code)
    notebook(tmp_path, "one", code=code)
    notebook(tmp_path, "none", code="maps = 1")
    found = usage.used_in(tmp_path, ["one", "two", "none", "absent"])
    assert found == {"flatminima.theory.maps.orbit": ["one", "two"]}


@pytest.mark.parametrize("module", offered.public_modules())
def test_every_public_name_is_described(module):
    """A function or class by its docstring, a value by the text below it or by what it is."""
    said, missing = offered.constants(module), []
    for name, member in offered.public_members(module).items():
        if name in said:
            described = said[name] or offered.shown_value(member)
        else:
            # A dataclass without a docstring is given its signature.
            described = not (member.__doc__ or f"{name}(").startswith(f"{name}(")
        missing += [] if described else [name]
    assert missing == []


def test_every_public_module_has_its_page():
    pages = "".join(path.read_text(encoding="utf-8") for path in CHAPTERS.glob("api_*.md"))
    listed = re.findall(r"\{api-modules\} (.*)", pages)
    assert sorted(" ".join(listed).split()) == offered.public_modules()


# --- pages of tests


def settings(**options: str) -> SimpleNamespace:
    return SimpleNamespace(html_theme_options=options)


def test_links_lead_to_the_page_of_a_test_or_to_the_repository():
    file, test = tests_of("D3", ROOT / "tests")[0].split("::")
    path = next((ROOT / "tests").rglob(file))
    line = sources.tests_in(path)[test]
    near = sources.address(settings(), "chapters/polarity", file, test)
    assert near == f"../tests/{file[:-3]}.html#{test}"
    assert sources.address(settings(), "index", file) == f"tests/{file[:-3]}.html"
    remote = settings(repository_url="https://host.example/a/b/", repository_branch="dev")
    far = sources.address(remote, "chapters/polarity", file, test)
    assert far == f"https://host.example/a/b/blob/dev/tests/{path.parent.name}/{file}#L{line}"
    for wrong in [("test_absent.py", ""), (file, "test_absent")]:
        with pytest.raises(ValueError, match="test_absent"):
            sources.address(settings(), "chapters/polarity", *wrong)


def test_a_page_has_an_anchor_at_the_line_of_each_test(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TESTS", tmp_path)
    path = tmp_path / "test_one.py"
    path.write_text(
        '"""About <one>."""\n\n\ndef helper():\n    pass\n\n\ndef test_a():\n    pass\n'
    )
    highlighted = "<div><pre>" + path.read_text().replace("<", "&lt;") + "</pre></div>"
    body = sources.page_body(path, highlighted)
    assert "<p>About &lt;one&gt;.</p>" in body
    assert '<span class="test-anchor" id="test_a"></span>def test_a():' in body
    assert 'id="helper"' not in body
    only = tmp_path / "test_first.py"
    only.write_text("def test_b(): pass\n")
    body = sources.page_body(only, "<div><pre>def test_b(): pass\n</pre></div>")
    assert '<pre><span class="test-anchor" id="test_b"></span>def test_b()' in body


# --- records of results


@pytest.fixture
def stored(tmp_path) -> Path:
    """A folder with one result at two presets."""
    folder = tmp_path / "results"
    original = results.load("flatness", "ci")
    for preset in ("ci", "default"):
        record = {**original.provenance, "preset": preset}
        results.store(results.Result(original.table, record), folder)
    return folder


def test_records_are_listed_with_what_made_them(stored, tmp_path):
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    notebook(chapters, "largest", code='results.load("flatness")')
    notebook(chapters, "small", code='results.load("flatness", "ci")')
    lines = records.result_lines(chapters, stored)
    text = "\n".join(lines)
    assert text.index("## flatness, preset default") < text.index("## flatness, preset ci")
    first, second = text.split("## flatness, preset ci")
    assert "{doc}`largest`" in first
    assert "{doc}`small`" not in first
    assert "{doc}`small`" in second
    record = results.load("flatness", "ci", folder=stored).provenance
    whole = f"| `ci` | 1 | {record['runs']} | {provenance.duration(record['seconds'])} |"
    assert whole in text
    time = provenance.duration(record["seconds"])
    for preset in ("default", "ci"):
        row = f"| `flatness` | `{preset}` | {record['summary']} | {record['runs']} | {time} |"
        assert row in text.split("## ")[0], "the table at the head has a row for each result"
    for said in (
        "make results PRESET=ci ONLY=flatness",
        record["revision"],
        record["devices"][0],
        record["versions"]["torch"],
        record["sha256"][:16],
        f"{record['runs']} ({record['statuses']['done']} done)",
    ):
        assert said in second, said


def test_a_damaged_result_stops_the_page(stored, tmp_path):
    path = stored / "ci" / "flatness.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(results.CorruptResultError):
        records.result_lines(tmp_path, stored)


def test_a_benchmark_needs_its_record(tmp_path):
    (tmp_path / "cold.md").write_text("| a |\n| - |\n")
    with pytest.raises(ValueError, match=r"cold\.json"):
        records.benchmark_lines(tmp_path)
    machine = {"python": "3.11", "versions": {"torch": "2"}}
    (tmp_path / "cold.json").write_text(json.dumps({"machine": machine}))
    lines = records.benchmark_lines(tmp_path)
    assert lines[0] == "## Benchmark: cold"
    assert "python 3.11, torch 2" in lines[2]
