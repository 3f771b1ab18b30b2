"""Curvature layer by layer: the diagonal blocks of the Hessian, each with its own sharpness."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flatminima._validation import a_function, a_list, instance_of, shown
from flatminima.curvature.eigensolver import sharpness
from flatminima.curvature.operator import SymmetricOperator, flattened
from flatminima.curvature.risk import EmpiricalRisk
from flatminima.curvature.spectrum import trace
from flatminima.statistics import Estimate

__all__ = ["LayerCurvature", "layer_curvature"]


class LayerCurvature(NamedTuple):
    """Curvature of one diagonal block of the Hessian.

    Attributes:
        size: number of its parameters.
        sharpness: its largest eigenvalue, at most that of the whole Hessian.
        trace: its trace; those of all blocks add up to that of the whole.
    """

    size: int
    sharpness: float
    trace: Estimate


def layer_curvature(
    risk: EmpiricalRisk,
    by: Mapping[str, Sequence[str]] | Callable[[str], str] | None = None,
    *,
    tol: float = 1e-3,
    products: int = 60,
) -> dict[str, LayerCurvature]:
    """Size, sharpness and trace of each layer's block of the Hessian, the others held fixed.

    Args:
        by: the blocks: names of parameters by the name of a block, or a function that says for each
            name which block it is in. By default the module that holds the parameter.
        tol: relative residual of each sharpness.
        products: Hessian-vector products for each trace; at most 20 parameters have theirs exactly.

    Raises:
        ValueError: for an empty block, or a name that is not one of ``risk.names``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
        >>> risk = EmpiricalRisk(model, "mse", (x, torch.zeros(2, 1)))
        >>> layer_curvature(risk, {"all": risk.names})["all"].size
        3
    """
    instance_of("risk", risk, EmpiricalRisk)
    if not isinstance(by, Mapping):
        if by is not None:
            a_function("by", by)
        blocks: dict[str, list[str]] = {}
        for name in risk.names:
            block = (name.rpartition(".")[0] or name) if by is None else by(name)
            blocks.setdefault(block, []).append(name)
        by = blocks
    if not by:
        raise ValueError("by must name a block, got none")
    hessian = risk.hessian()
    # Of a block the graph of the whole serves as well, and it knows what the loss leaves idle.
    places = risk.unflatten(torch.arange(risk.size, device=risk.device))
    result = {}
    for block, names in by.items():
        names = [names] if isinstance(names, str) else a_list(f"by[{block!r}]", names)
        if not names or not all(name in places for name in names):
            raise ValueError(
                f"by: block {block!r} must hold names of the risk's parameters "
                f"({', '.join(places)}), got {shown(names)}"
            )
        operator = _Block(hessian, flattened(places[name] for name in names))
        result[block] = LayerCurvature(
            operator.shape[0], sharpness(operator, tol=tol), trace(operator, products=products)
        )
    return result


class _Block(SymmetricOperator):
    """The diagonal block of an operator at some places, (m,) indices."""

    def __init__(self, whole: SymmetricOperator, places: Tensor) -> None:
        super().__init__(len(places), whole.dtype, whole.device)
        self.whole, self.places = whole, places

    def _products(self, rows: Tensor) -> Tensor:
        wide = rows.new_zeros(len(rows), self.whole.shape[0])
        wide[:, self.places] = rows
        return self.whole.matmat(wide)[:, self.places]
