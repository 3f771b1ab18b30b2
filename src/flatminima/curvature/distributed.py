"""Curvature of a risk whose data are spread over processes, by torch.distributed."""

import torch
from torch import Tensor
from torch import distributed as dist

from flatminima._validation import instance_of, positive_float
from flatminima.curvature.operator import SymmetricOperator, flattened
from flatminima.curvature.risk import EmpiricalRisk, as_operator

__all__ = ["DistributedOperator"]


class DistributedOperator(SymmetricOperator):
    """The mean of the operators of several processes, each with a shard of the data.

    Each process gives the operator of its own shard, at the same parameters; a product is the
    weighted sum of theirs, by one all-reduce, and so are the loss and the gradient if they have
    them. Every function that takes an operator takes this one.

    All processes make the same calls with the same vectors, and get the same results. By default
    they do, since generators are seeded alike; vectors that differ between them are an error. An
    error in one process alone leaves the others waiting, until torchrun ends them.

    Args:
        operator: a risk on the shard of this process, or an operator; its parameters and random
            signs must be those of the other processes.
        weight: share of this process, in any unit. By default the number of examples of a risk, or
            1 each without division if the risk's loss is a sum.
        group: of processes, by default all.

    Attributes:
        loss, gradient, parameters: as those of the operator, over all processes; None without.

    Raises:
        RuntimeError: where the process group is not initialized.
        ValueError: an operator without a weight; parameters or vectors that differ.

    Example:
        >>> import tempfile, torch
        >>> from torch import distributed
        >>> store = f"file://{tempfile.mkdtemp()}/store"
        >>> distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> DistributedOperator(risk).matvec(torch.ones(1))
        tensor([1.])
        >>> distributed.destroy_process_group()
    """

    def __init__(
        self,
        operator: SymmetricOperator | EmpiricalRisk,
        weight: float | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed is not initialized: call init_process_group first, in each of "
                "the processes that torchrun starts"
            )
        if group is not None:
            instance_of("group", group, dist.ProcessGroup)
        summed = isinstance(operator, EmpiricalRisk) and operator.reduction == "sum"
        if weight is None:
            if not isinstance(operator, EmpiricalRisk):
                raise ValueError("weight must be given with an operator: its number of examples")
            weight = operator.examples
        weight = positive_float("weight", weight)
        self.operator, self.group = as_operator(operator), group
        super().__init__(self.operator.shape[0], self.operator.dtype, self.operator.device)
        self.parameters = getattr(self.operator, "parameters", None)
        at = torch.zeros(self.shape[0]) if self.parameters is None else flattened(self.parameters)
        self._check_same("the parameters", at)
        total = self._sum(self._double([weight]))
        self.share = 1.0 if summed else weight / float(total)
        """What this process's products are multiplied by before they are summed."""
        self.loss = self.gradient = None
        if hasattr(self.operator, "gradient"):
            self.loss = float(self._sum(self._double([self.share * self.operator.loss])))
            self.gradient = self._sum(self.share * self.operator.gradient)

    def _products(self, rows: Tensor) -> Tensor:
        # A vector that differs here is another vector: what comes back would belong to neither.
        self._check_same("the vectors", rows)
        return self._sum(self.share * self.operator.matmat(rows))

    def _double(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        dist.all_reduce(values, group=self.group)
        return values

    def _check_same(self, what: str, values: Tensor) -> None:
        """ValueError, in all processes, unless the values are the same in each up to rounding."""
        flat = values.detach().reshape(-1).to(self.device, torch.float64)
        places = torch.arange(len(flat), dtype=torch.float64, device=self.device).cos()
        count = flat.new_tensor(float(len(flat)))
        seen = torch.stack([flat.sum(), flat @ places, flat.norm(), count])
        ends = torch.cat([seen, -seen])
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=self.group)
        spread = ends[:4] + ends[4:]
        # Vectors as near as this change a Rayleigh quotient by no more than rounding does.
        near = torch.finfo(self.dtype).eps ** 0.5 * ends[2]
        if spread[3] > 0 or not bool((spread[:3] <= near).all()):
            raise ValueError(
                f"{what} must be the same in all processes, got sums up to "
                f"{float(spread.max()):.3g} apart: start from the same parameters, and seed all "
                "generators alike"
            )
