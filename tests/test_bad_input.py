"""Every public function answers bad input by name: one argument at a time is made bad.

The valid calls are those of the examples. What is drawn is which bad values are tried: a few for
each argument here, all of them in a search.
"""

import contextlib
import re

import fuzzing
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import searching
from hypothesis import given
from hypothesis import strategies as st

VALUES = 7
"""How many bad values of each argument are tried outside of a search."""

DIVERGED = "a run that diverges is NaN from there on"
MISSING = "parameters, or samples, with a NaN give NaN"
NO_LOSS = "outputs that are not finite have no finite loss"
NOT_FINITE = {
    r"theory\.\w+\.\w+Network\.descend": DIVERGED,
    r"theory\.(averaged\.sphere|instability\.(coupled|stochastic))_dynamics": DIVERGED,
    r"theory\.(maps\.(orbit|bifurcation_diagram|uv_model)|quadratic\.(iterate|descend))": DIVERGED,
    r"theory\.(scalar_network\.residual_imbalance_dynamics|maps\.multiplier)": DIVERGED,
    r"training\.polarity\.turn_over": DIVERGED,
    r"theory\.(scalar|diagonal|matrix)_network\.\w+Network\.\w+": MISSING,
    r"theory\.maps\.\w+\.derivative": MISSING,
    r"training\.episodes\.\w+": MISSING,
    r"datasets\.Dataset\.pixels": "images with a NaN give NaN",
    r"theory\.maps\.(period_two|period_two_orbit)": "there is no cycle on this side",
    r"curvature\.losses\.\w+": NO_LOSS,
    r"curvature\.risk\.EmpiricalRisk\.batch_loss": NO_LOSS,
    r"curvature\.(operator\.HessianOperator\.split|risk\.EmpiricalRisk\.unflatten)": "as given",
    r"theory\.instability\.log_imbalance_factor": "a step that balances exactly: minus infinity",
}
"""Functions whose results hold NaN or infinities by their docstrings, with the reason."""

RAISED = {
    r"theory\.manifold\.SmoothNetwork\.descend": "FloatingPointError",
    r"curvature\.directional\.critical_sharpness": "ConvergenceError",
    r"datasets\.read_fashion_mnist": "DataUnavailableError",
}
"""Functions that raise something else than ValueError and TypeError by their docstrings."""


def matching(name: str, table: dict[str, str]) -> str | None:
    found = (value for key, value in table.items() if re.fullmatch(rf"flatminima\.{key}", name))
    return next(found, None)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # No data but what is embedded, and no network.
    monkeypatch.delenv("FLATMINIMA_DATA", raising=False)
    monkeypatch.setenv("FLATMINIMA_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    plt.close("all")


@pytest.mark.search
@pytest.mark.parametrize("name", fuzzing.public_callables())
def test_bad_input_is_answered_by_name(name, request, generator):
    arguments = fuzzing.valid_call(name)
    assert arguments is not None, "no example calls it"
    wrong = {}
    with fuzzing.surroundings(name):
        finite = not fuzzing.has_nan(fuzzing.call(name, fuzzing.duplicate(arguments)))
        finite = finite and not matching(name, NOT_FINITE)
        for spot, valid in fuzzing.spots(arguments, name):
            values = fuzzing.bad_values(valid)
            labels = list(values)
            if not searching(request.config):
                labels = generator.permutation(labels)[:VALUES].tolist()
            for label in labels:
                fault = fuzzing.outcome(name, arguments, spot, values[label])
                documented = not finite and fault == fuzzing.NOT_FINITE
                if fault and not documented and fault.partition(":")[0] != matching(name, RAISED):
                    wrong[spot, label] = fault
    assert wrong == {}


# --- the test finds what it is there for


def careless(x, steps=3):
    """Takes anything.

    Example:
        >>> float(careless([1.0, 2.0]))
        24.0
    """
    result = np.sum(x)
    for _ in range(steps):
        result = 2 * result
    return result


def careful(x, steps=3):
    """Takes an array and a number of steps."""
    from flatminima._validation import finite_array, positive_int

    return np.sum(finite_array("x", x)) * 2.0 ** positive_int("steps", steps, maximum=100)


@pytest.fixture
def known(monkeypatch):
    """The two functions above in place of those of the library."""
    found = {"careless": careless, "careful": careful}
    monkeypatch.setattr(fuzzing, "public_callables", lambda: found)
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)


@pytest.mark.parametrize(
    ("spot", "value", "fault"),
    [
        ("x", None, "does not name it: TypeError"),
        ("x", "text", "does not name it"),
        ("x", [np.nan], "NaN"),
        ("x", np.array([1 + 1j]), "took a complex number"),
        ("x", {}, "does not name it"),
        ("steps", 2**62, "ran for more than"),
        ("steps", [], "does not name it"),
    ],
)
def test_a_careless_function_is_found(known, spot, value, fault):
    arguments = {"x": [1.0, 2.0], "steps": 3}
    assert fault in fuzzing.outcome("careless", arguments, spot, value)
    assert fuzzing.outcome("careful", arguments, spot, value) == ""


def test_the_arguments_of_a_call_are_those_of_the_example(known):
    calls = fuzzing.recorded(careless.__doc__, careless.__module__)
    assert calls == {careless.__code__: {"x": [1.0, 2.0], "steps": 3}}


@given(st.integers() | st.floats() | st.text() | st.none() | st.complex_numbers() | st.binary())
def test_a_check_names_what_it_refuses(value):
    from flatminima import _validation as checks

    for check in (checks.finite_float, checks.positive_float, checks.positive_int):
        with contextlib.suppress(ValueError):
            assert np.isfinite(check("weight", value))
            continue
        with pytest.raises(ValueError, match=r"^weight must be "):
            check("weight", value)
