"""The table of numerical limits: it is computed, and says what the library does."""

import pytest
import torch

from flatminima.curvature import MatrixOperator, top_eigenpairs
from study.pages import limits


def test_the_table_says_what_the_library_accepts():
    found = {row[0].strip("`"): row[1:] for row in limits.rows()}
    assert list(found) == ["float64", "float32", "bfloat16", "float16"]
    for name in ("float64", "float32"):
        dtype = getattr(torch, name)
        eps, tol, skew, allowed, error = map(float, found[name])
        assert eps == pytest.approx(torch.finfo(dtype).eps, rel=0.05)
        # What was found is rounding, far from what is allowed; no product is exact.
        assert 0 < skew < 1000 * eps < allowed
        assert error <= 1e-4
        operator = MatrixOperator(torch.diag(torch.arange(1.0, 5.0, dtype=dtype)))
        assert top_eigenpairs(operator, tol=1.1 * tol).converged.all()
        with pytest.raises(ValueError, match="tol must lie between"):
            top_eigenpairs(operator, tol=0.9 * tol)
    for name in ("bfloat16", "float16"):
        assert "refused" in found[name][1]


def test_what_would_be_accepted_has_no_row_of_refusal(monkeypatch):
    monkeypatch.setattr(limits, "HALVES", (torch.float32,))
    assert len(limits.rows()) == 2
