"""Probes that follow the leading eigenpairs along a run: values, vectors, and how far they turn.

They share one `curvature.EigenTracker`, and its cost: k + 1 products a call, or more.
"""

import weakref
from typing import Any

import numpy as np

from flatminima.curvature import EigenTracker, TrackedPairs
from flatminima.training.probes import State


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
            # What was loaded from a checkpoint need not be on the device of this run.
            self._pairs = self.tracker.to(state.inputs.device).update(state.hessian)
            self._seen = weakref.ref(state)
        return self._pairs

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on."""
        return self.tracker.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, of a probe made with the same options."""
        self.tracker.load_state_dict(state)
        self._seen = None
