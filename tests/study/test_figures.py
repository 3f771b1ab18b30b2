"""Glued numbers: what the prose shows, and the value that is kept beside it."""

import json

import numpy as np
import pytest
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import extract_glue_data_cell
from nbformat import from_dict

from flatminima.statistics import Interval
from study import figures


@pytest.fixture
def cell(monkeypatch):
    """A code cell that gets the outputs of what is displayed, through JSON as in a notebook."""
    outputs = []

    def display(data, *, raw, metadata):
        assert raw
        output = {"output_type": "display_data", "data": data, "metadata": metadata}
        outputs.append(json.loads(json.dumps(output, allow_nan=False)))

    monkeypatch.setattr("IPython.display.display", display)
    return {"cell_type": "code", "source": "", "outputs": outputs}


@pytest.mark.parametrize(
    ("value", "fmt", "text", "kept"),
    [
        (60_000, ",d", "60,000", 60_000),
        (0.9, ".2f", "0.90", 0.9),
        (0.096, ".0%", "10%", 0.096),
        (np.float32(0.5), "+.2f", "+0.50", 0.5),
        (np.int64(-3), "d", "−3", -3),
        (-0.004, "+.2f", "0.00", -0.004),
        (5.0, ".0e", "5 × 10⁰", 5.0),
        (7.8e-7, ".1e", "7.8 × 10⁻⁷", 7.8e-7),
        (-7.8e12, ".1e", "−7.8 × 10¹²", -7.8e12),
        (Interval(-0.764, -0.891, 0.5), ".2f", "−0.76 [−0.89, 0.50]", (-0.764, -0.891, 0.5)),
        (float("nan"), ".2f", "nan", None),
        (Interval(0.0, -np.inf, 1.0), ".0f", "0 [−inf, 1]", None),
        ("[+0.4, +1.1]", "", "[+0.4, +1.1]", None),
        ("it's", "", "it's", None),
    ],
)
def test_a_number_is_shown_as_it_was_formatted_and_kept_as_it_was(
    value, fmt, text, kept, cell, tmp_path
):
    """MyST-NB evaluates what it pastes as Python: 60,000 would be a pair."""
    figures.glue_number("x", value, fmt)
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": [cell]}))
    (found,) = figures.glued_numbers(tmp_path)["one"].values()
    assert found == (text, kept)
    assert isinstance(found.value, Interval) == isinstance(kept, tuple)
    ((name, output),) = extract_glue_data_cell(from_dict(cell))
    assert name == "x"
    assert format_plain_text(output["data"]["text/plain"], "") == text


@pytest.mark.parametrize("value", [None, [1.0, 2.0], (1.0, 0.0, 2.0), {}])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="value must be a number"):
        figures.glue_number("x", value)


def test_numbers_are_found_among_other_outputs(tmp_path, cell):
    figures.glue_number("share", 0.38, ".0%")
    printed = {"output_type": "stream", "name": "stdout", "text": "38%"}
    cell["outputs"].insert(0, printed)
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "two.ipynb").write_text(json.dumps({"cells": [{**cell, "outputs": []}]}))
    assert figures.glued_numbers(tmp_path) == {"one": {"share": ("38%", 0.38)}, "two": {}}
