r"""The empirical risk: a model, a loss and data, as one function of the parameters.

.. math:: R(\theta) = \frac{1}{n}\sum_{i=1}^n \ell(f_\theta(x_i), y_i)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._pytree import tree_leaves, tree_map_only

from flatminima._validation import a_bool, a_function, instance_of, one_of, shown
from flatminima.curvature._arguments import real_tensor
from flatminima.curvature._autograd import differentiable, split
from flatminima.curvature.losses import Loss, as_loss, checked_value, name_of
from flatminima.curvature.operator import (
    Closure,
    HessianOperator,
    SymmetricOperator,
    Terms,
    flattened,
    gradients,
)

__all__ = ["EmpiricalRisk", "NondeterministicRiskError"]


class NondeterministicRiskError(ValueError):
    """A risk gives different values at the same parameters, so it has no Hessian there."""


class EmpiricalRisk:
    r"""Mean loss of a model over a data set, as a function of the model's parameters.

    The parameters are those of the model that require a gradient, in its own order. Flat vectors
    of dimension ``size`` hold them one after another, each in row-major order. The risk is
    evaluated where the parameters are now; it keeps no copy of them.

    Args:
        model: called as ``model(inputs)``, or ``model(*inputs)`` and ``model(**inputs)`` for a
            tuple and a dict of inputs; in evaluation mode, if that makes a difference.
        loss: ``"mse"`` or ``"cross_entropy"``, or any function of (outputs, targets) that returns
            a scalar, such as ``torch.nn.BCEWithLogitsLoss()``.
        data: a pair (inputs, targets), inputs being a tensor, or a tuple or dict of tensors; or an
            iterable of such pairs that can be iterated again and does not shuffle, such as a
            DataLoader or a list. Batches are moved to the device of the parameters, one at a time.
        reduction: what the loss does over a batch: ``"mean"`` (the batches are then weighted by
            their sizes) or ``"sum"``; by default what ``loss.reduction`` says, else ``"mean"``.
        size_of: function of (inputs, targets) that says how many examples a batch counts for, by
            default ``len(targets)``, less what PyTorch's cross-entropies ignore, by class weight.
        check: whether `check` is called before the first Hessian, which then checks as well.

    Attributes:
        names: the name of each parameter, as in ``model.named_parameters()``.
        parameters: the tensors themselves.
        size: number of all their entries.
        pair: whether the data are one pair of inputs and targets, and not batches.

    Raises:
        TypeError: for a model that is no ``torch.nn.Module``, or data or a loss of another kind.
        ValueError: for a model without trainable parameters, or an unknown loss or reduction.

    Example:
        >>> import torch
        >>> from flatminima import EmpiricalRisk, top_eigenpairs
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> risk = EmpiricalRisk(model, "mse", (x, y))
        >>> risk.unflatten(top_eigenpairs(risk).eigenvectors[0].abs())["weight"].round(decimals=3)
        tensor([[0., 1.]])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Loss,
        data: Any,
        *,
        reduction: str | None = None,
        size_of: Callable[[Any, Any], float] | None = None,
        check: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if any(isinstance(p, UninitializedTensorMixin) for p in model.parameters()):
            raise ValueError("model must have its parameters: call it once, for its lazy layers")
        if not trainable:
            raise ValueError("model must have at least one trainable parameter, got none")
        self.model = model
        self.names = tuple(name for name, _ in trainable)
        self.parameters = [p for _, p in trainable]
        self.size = sum(p.numel() for p in self.parameters)
        self.loss_function = as_loss(loss)
        if reduction is None:
            reduction = getattr(self.loss_function, "reduction", "mean")
            reduction = "mean" if reduction == "batchmean" else reduction
        self.reduction = one_of("reduction", reduction, ("mean", "sum"))
        self._size_of = self._counted if size_of is None else a_function("size_of", size_of)
        self.data = data
        if isinstance(data, tuple | list | np.ndarray):
            _no_arrays(data)
        self.pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)
        if not self.pair:
            _check_batches(data)
        self._total: float | None = None
        self._unchecked = check = a_bool("check", check)
        self._orders = {2, 3} if check else set()

    def __repr__(self) -> str:
        data = f"{self.examples:g} examples" if self.pair else type(self.data).__name__
        return (
            f"EmpiricalRisk({type(self.model).__name__} with {self.size} parameters, "
            f"{name_of(self.loss_function)}, {data})"
        )

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return self.parameters[0].device

    @property
    def examples(self) -> float:
        """How many examples the data count for; found by a pass over them, once."""
        if self._total is None:
            self._total = float(sum(self._size_of(x, y) for x, y in self.batches()))
            if not self._total > 0:
                raise ValueError(f"data must hold at least one example, got {self._total:g}")
        return self._total

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """The pairs (inputs, targets), on the device of the parameters."""
        if self.pair:
            yield self._here(self.data)
            return
        # A DataLoader draws a seed at each start; the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]):
            iterator = iter(self.data)
        for batch in iterator:
            sequence = isinstance(batch, tuple | list)
            if not sequence or len(batch) != 2:
                given = type(batch).__name__ + (f" of {len(batch)}" if sequence else "")
                raise TypeError(f"each batch must be a pair (inputs, targets), got {given}")
            yield self._here(tuple(batch))

    def _here(self, tree: Any) -> Any:
        _no_arrays(tree)
        return tree_map_only(Tensor, lambda tensor: tensor.to(self.device), tree)

    def batch_loss(self, inputs: Any, targets: Any) -> Tensor:
        """The loss of the model on one batch, as the loss reduces it; it can be differentiated.

        What the model or the loss raises has a note that says what they were given.
        """
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                return self.loss_function(call(self.model, inputs), targets)
        except Exception as error:
            error.add_note(f"The model was given inputs {_told(inputs)}; targets {_told(targets)}.")
            raise

    def _counted(self, inputs: Any, targets: Any) -> float:
        """What a batch counts for in the mean of the loss."""
        sizes = {len(leaf) for leaf in tree_leaves(targets) if isinstance(leaf, Tensor)}
        if len(sizes) != 1:
            raise ValueError(
                "size_of must say how many examples a batch counts for: the tensors of its "
                f"targets have lengths {sorted(sizes)}"
            )
        ignored = getattr(self.loss_function, "ignore_index", None)
        if ignored is None or not isinstance(targets, Tensor) or targets.is_floating_point():
            return sizes.pop()
        kept = targets[targets != ignored]
        weight = getattr(self.loss_function, "weight", None)
        share = len(kept) if weight is None else float(weight[kept.to(weight.device)].sum())
        return len(targets) * share / max(targets.numel(), 1)

    def terms(self) -> Iterator[tuple[float, Closure]]:
        """(weight, function that returns the loss of a batch): the risk is their weighted sum."""
        for inputs, targets in self.batches():
            weight = 1.0
            # The weight of a single batch is 1 whatever its size.
            if self.reduction == "mean" and not self.pair:
                weight = float(self._size_of(inputs, targets)) / self.examples
            yield weight, lambda x=inputs, y=targets: self.batch_loss(x, y)

    def loss(self) -> Tensor:
        """The risk as a scalar that can be differentiated: it holds the graphs of all batches."""
        values = [loss() if weight == 1 else weight * loss() for weight, loss in self.terms()]
        if not values:
            raise ValueError("data must hold at least one batch, got none")
        return sum(values[1:], values[0])

    def value(self) -> float:
        """The risk at the current parameters, batch by batch and without a graph."""
        with torch.no_grad():
            return sum(weight * float(loss()) for weight, loss in self.terms())

    def gradient(self) -> Tensor:
        """(size,) gradient at the current parameters, in one pass over the batches."""
        total = torch.zeros(self.size, dtype=self.parameters[0].dtype, device=self.device)
        for weight, loss in self.terms():
            with differentiable():
                parts = gradients(checked_value(loss()), self.parameters)
            total.add_(flattened(parts), alpha=weight)
        return total

    def hessian(self, parameters: Sequence[Tensor] | None = None) -> HessianOperator:
        """Hessian at the current parameters, or the block of some; the first call makes `check`."""
        if self._unchecked:
            self.check()
        loss = self.loss if self.pair else Terms(self.terms)
        whole = self.parameters if parameters is None else parameters
        operator = HessianOperator(loss, whole, check=False)
        # What one operator has found right the next need not check; a block has not seen the rest.
        operator.unchecked = self._orders if parameters is None else set(self._orders)
        return operator

    def flat(self, named: Mapping[str, Tensor] | None = None) -> Tensor:
        """(size,) a flat vector of tensors by name, by default of the current parameters."""
        if named is None:
            return flattened(self.parameters).detach()
        if set(instance_of("named", named, Mapping)) != set(self.names):
            raise ValueError(f"named must have the names {self.names}, got {tuple(named)}")
        return flattened([named[name] for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The entries (size,) of a flat vector by the name and in the shape of each parameter."""
        vector = real_tensor("vector", vector)
        if vector.shape != (self.size,):
            raise ValueError(f"vector must have shape ({self.size},), got {tuple(vector.shape)}")
        return dict(zip(self.names, split(vector, self.parameters), strict=True))

    def check(self) -> None:
        """Evaluate the risk twice, and raise NondeterministicRiskError unless both agree.

        It names the layers, and leaves random numbers, averages and parameters as they were.
        """
        before = {n: (t._version, t.detach().clone()) for n, t in self._tensors().items()}
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            # With gradients: a model may use some of its own, as those of physics do.
            with torch.enable_grad(), torch.random.fork_rng(devices=devices):
                first, second = _Witness(self), _Witness(self)
        finally:
            now = {name: t for name, t in self._tensors().items() if name in before}
            written = []
            for name, tensor in now.items():
                version, entries = before[name]
                # Running averages have no new version; a parameter without one was not written to.
                kept = isinstance(tensor, nn.Parameter) and tensor._version == version
                if not kept and not torch.equal(tensor, entries):
                    written.append(name)
                    tensor.data.copy_(entries)
        parameters = [name for name in written if isinstance(now[name], nn.Parameter)]
        if parameters:
            raise NondeterministicRiskError(
                "the model writes to its parameters while it is evaluated, as "
                f"Embedding(max_norm=...) does: to {_quoted(parameters)}. Give it without"
            )
        if written:
            layers = sorted({name.rpartition(".")[0] or "the model itself" for name in written})
            raise NondeterministicRiskError(
                "the model changes while it is evaluated, as batch normalization in training mode "
                f"does: buffers move in {_quoted(layers)} ({written[0]}). Call model.eval() first"
            )
        if first.data != second.data:
            raise NondeterministicRiskError(
                "data must be the same in each pass, got batches that differ in the second one: "
                "give a DataLoader with shuffle=False and no random augmentation"
            )
        layers = second.changed_since(first)
        if layers:
            raise NondeterministicRiskError(
                "the model is not deterministic: other outputs for the same inputs, as dropout in "
                f"training mode gives, come from {_quoted(layers)}. Call model.eval() first"
            )
        if not _near(first.value, second.value, abs(first.value)):
            raise NondeterministicRiskError(
                "the loss is not deterministic: two evaluations at the same parameters gave "
                f"{first.value:.9g} and {second.value:.9g}"
            )
        self._unchecked = False

    def _tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers of the model by name."""
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())


class _Witness:
    """One evaluation of a risk: its value, and a signature of the data and of each layer's work."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.value, self.data, self.calls = 0.0, [], []
        hooks = [
            module.register_forward_hook(partial(self._note, name), with_kwargs=True)
            for name, module in risk.model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
        ]
        try:
            for batch in risk.batches():
                self.data.append(_signature(batch))
                self.value += risk.batch_loss(*batch).item()
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        given, made = _signature((args, kwargs)), _signature(output)
        self.calls.append((name, type(module).__name__, given, made))

    def changed_since(self, other: "_Witness") -> list[str]:
        """The layers that gave other outputs for the same inputs; of nested ones the innermost."""
        changed: dict[str, str] = {}
        for (name, kind, *now), (_, _, *then) in zip(self.calls, other.calls, strict=False):
            # The parts of a layer are done before it; of the model, named "", all are parts.
            inside = any(not name or part.startswith(f"{name}.") for part in changed)
            if _same(now[0], then[0]) and not _same(now[1], then[1]) and not inside:
                changed[name] = kind
        return sorted(f"{name or 'the model itself'} ({kind})" for name, kind in changed.items())


def call(model: nn.Module, inputs: Any) -> Any:
    """The outputs of a model for a tensor, a tuple or a dict of inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def as_operator(
    operator: SymmetricOperator | EmpiricalRisk, name: str = "operator"
) -> SymmetricOperator:
    """An operator as it is, or the Hessian of a risk; TypeError for anything else."""
    if isinstance(operator, EmpiricalRisk):
        return operator.hessian()
    if not isinstance(operator, SymmetricOperator):
        raise TypeError(
            f"{name} must be an EmpiricalRisk or an operator (such as HessianOperator(loss, "
            f"parameters)), got {type(operator).__name__}"
        )
    return operator


def _check_batches(data: object) -> None:
    if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise TypeError(
            "data must be a pair (inputs, targets) with targets a tensor, or an iterable of such "
            f"pairs, got {type(data).__name__}"
        )
    if iter(data) is data:
        raise TypeError(
            "data must be an iterable that can be iterated again, such as a list or a DataLoader; "
            f"got a {type(data).__name__}, which ends after one pass"
        )
    if isinstance(getattr(data, "sampler", None), torch.utils.data.RandomSampler):
        raise ValueError("data must not shuffle: give the DataLoader shuffle=False")


def _no_arrays(data: Any) -> None:
    if any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(data)):
        raise TypeError(
            "data must hold tensors, got NumPy arrays: torch.as_tensor(array) makes a tensor of one"
        )


def _told(tree: Any) -> str:
    """What a batch holds, in short."""
    return shown(tree_map_only(Tensor, lambda t: f"{t.dtype} {tuple(t.shape)}", tree))


def _signature(tree: Any) -> list[tuple[float, float]]:
    """Of each tensor a sum that sees (nearly always) what differs, its order too, and its scale."""
    found = []
    for tensor in tree_leaves(tree):
        if isinstance(tensor, Tensor):
            tensor = tensor.detach()
            if tensor.layout != torch.strided:
                tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.values()
            flat = tensor.reshape(-1).double()
            weights = torch.arange(len(flat), dtype=torch.float64, device=flat.device).cos()
            found.append((float(flat @ weights), float(flat.abs().sum())))
    return found


def _same(one: list, other: list) -> bool:
    """Equal signatures, but for the order in which a GPU may sum."""
    return len(one) == len(other) and all(
        _near(a, b, scale) for (a, scale), (b, _) in zip(one, other, strict=True)
    )


def _near(one: float, other: float, scale: float) -> bool:
    return one == other or abs(one - other) <= 1e-5 * scale


def _quoted(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
