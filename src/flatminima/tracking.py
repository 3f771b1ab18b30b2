"""Probes that follow the leading eigenpairs along a run: values, vectors, and how far they turn.

They share one `curvature.EigenTracker`: following k pairs costs about k + 1 products a call.
"""

import dataclasses
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatminima.curvature import EigenTracker, TrackedPairs
from flatminima.curvature.tracker import _Secant, _Snapshot
from flatminima.probes import State


class Eigenpairs:
    """Probe for k eigenvalues (k,) from one end of the spectrum, in descending order.

    Its methods are probes of the same pairs, at no further cost::

        pairs = tracking.Eigenpairs(k=3)
        probes = {"eigenvalues": pairs, "angles": pairs.angles, "eigenvectors": pairs.eigenvectors}

    Give the object itself as one of the probes wherever there are checkpoints: it holds what a
    resumed run needs. Make a new one for each run.

    Args:
        k: number of eigenpairs.
        tol, options: as `curvature.EigenTracker` takes them, such as ``which="smallest"``.
    """

    def __init__(self, k: int, tol: float = 5e-4, **options: Any) -> None:
        self.tracker = EigenTracker(k, tol, **options)
        self._pairs: TrackedPairs | None = None
        self._seen: weakref.ref[State] | None = None

    def __call__(self, state: State) -> np.ndarray:
        return self.pairs(state).eigenvalues.numpy()

    def angles(self, state: State) -> np.ndarray:
        """Probe for the principal angles (k,), in radians, to the span at the call before."""
        return self.pairs(state).angles.numpy()

    def overlaps(self, state: State) -> np.ndarray:
        """Probe for the inner products (k, k) of the eigenvectors with those of the call before."""
        return self.pairs(state).overlaps.numpy()

    def eigenvectors(self, state: State) -> np.ndarray:
        """Probe for the eigenvectors (k, n), in rows; mind the memory."""
        return self.pairs(state).eigenvectors.cpu().numpy()

    def pairs(self, state: State) -> TrackedPairs:
        """What the tracker says at this state; found once, whoever asks first."""
        if self._seen is None or self._seen() is not state:
            self._to(state.inputs.device)
            self._pairs = self.tracker.update(state.hessian)
            self._seen = weakref.ref(state)
        return self._pairs

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on."""
        tracker = self.tracker
        newest = tracker._newest
        return {
            "past": [_fields(secant) for secant in tracker._past],
            "newest": None if newest is None else _fields(newest),
            "since_scan": tracker._since_scan,
            "products": list(tracker.products),
            "generator": tracker.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, of a probe made with the same options."""
        tracker = self.tracker
        past = [_Secant(**secant) for secant in state["past"]]
        tracker._past = deque(past, maxlen=tracker._past.maxlen)
        tracker._newest = None if state["newest"] is None else _Snapshot(**state["newest"])
        tracker._since_scan = state["since_scan"]
        tracker.products = list(state["products"])
        tracker.generator.set_state(state["generator"].cpu())
        self._seen = None

    def _to(self, device: torch.device) -> None:
        """Put what was loaded on the device of the run."""
        tracker = self.tracker
        tracker._past = deque(_moved(tracker._past, device), maxlen=tracker._past.maxlen)
        if tracker._newest is not None:
            (tracker._newest,) = _moved([tracker._newest], device)


def _fields(record: Any) -> dict[str, Any]:
    """Name -> value, NumPy's numbers as Python's: a checkpoint holds no others."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _moved(records: Iterable[Any], device: torch.device) -> list[Any]:
    return [
        type(record)(
            **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in _fields(record).items()}
        )
        for record in records
    ]
