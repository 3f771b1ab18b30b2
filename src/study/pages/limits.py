"""What curvature can be known to in each precision, computed when the page is built."""

import torch
from sphinx.application import Sphinx

from flatminima import models
from flatminima.curvature import EmpiricalRisk, eigensolver, sharpness
from study.pages.generated import Generated, table

HALVES = (torch.bfloat16, torch.float16)


def _risk(dtype: torch.dtype) -> EmpiricalRisk:
    """A network of two hidden layers on forty random points, the same in each precision."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=generator)
    model = models.mlp([6, 8, 8, 3], "tanh", seed=1, dtype=torch.float64).to(dtype)
    return EmpiricalRisk(model, "cross_entropy", (x.to(dtype), y))


def rows() -> list[tuple[str, ...]]:
    """A row for each precision: what it is, and what was found with it."""
    found = []
    for dtype in (torch.float64, torch.float32):
        risk = _risk(dtype)
        matrix = risk.hessian().matmat(torch.eye(risk.size, dtype=dtype)).double()
        skew = float((matrix - matrix.T).norm() / 2 / matrix.norm())
        eps = torch.finfo(dtype).eps
        tol = eigensolver.ROUNDING * eps
        exact = float(torch.linalg.eigvalsh(matrix + matrix.T)[-1]) / 2
        error = abs(sharpness(risk, tol=1e-4) / exact - 1)
        numbers = (eps, tol, skew, eps**0.5, error)
        found.append((f"`{_name(dtype)}`", *(f"{number:.1e}" for number in numbers)))
    for dtype in HALVES:
        try:
            _risk(dtype).hessian()
        except ValueError:
            eps = f"{torch.finfo(dtype).eps:.1e}"
            found.append((f"`{_name(dtype)}`", eps, "refused: `model.float()`", "", "", ""))
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class NumericalLimits(Generated):
    """Rounding, the least tolerance, and what was found on a small network, by precision."""

    def lines(self) -> list[str]:
        columns = (
            r"precision", r"$\epsilon$", "least `tol`", "asymmetry found", "asymmetry allowed",
            "error of the sharpness found at `tol=1e-4`",
        )  # fmt: skip
        return table(columns, rows())


def register(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("numerical-limits", NumericalLimits)
