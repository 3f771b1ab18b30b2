"""What a training run did, and what can be asked of it: traces, episodes, arrival at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flatminima._validation import one_of
from flatminima.training.episodes import Episode, find_episodes

__all__ = [
    "Cooling",
    "History",
]


@dataclass(frozen=True)
class History:
    """What a run did. Arrays end where it ended: a diverged run keeps only what came before.

    Attributes:
        learning_rate: the step size, of the first update if it changes.
        steps: (T,) number of updates made before each loss was measured: 0, 1, ...
        loss: (T,) training loss; on minibatches, the loss of the batch of that step.
        gradient_norm: (T,) Euclidean norm of the gradient of that loss over all parameters.
        probe_steps: (P,) the steps at which the probes were called.
        probes: name -> (P,) or (P, ...) values of the probe.
        diverged: whether the loss became non-finite or too large, see `loop.DIVERGENCE_FACTOR`.
        diverged_at: the first step whose loss did so, else None.
        seconds: wall time of the loop, probes included, over all sittings of a resumed run.
        learning_rates: (T,) step size of the update that follows each loss; None: constant.

    Example:
        The sharpness crosses 2/eta = 2, and the loss rises until it is below again:

        >>> loss = np.array([1.0, 0.5, 0.8, 0.9, 0.4])
        >>> probed = np.array([0, 2, 4]), {"sharpness": np.array([1.0, 3.0, 1.0])}
        >>> run = History(1.0, np.arange(5), loss, loss, *probed)
        >>> run.trace("sharpness")
        array([ 1., nan,  3., nan,  1.])
        >>> run.episodes()
        [Episode(start=1, peak=3, end=4)]
        >>> run.edge_arrival()
        2
    """

    learning_rate: float
    steps: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    probe_steps: np.ndarray
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    diverged: bool = False
    diverged_at: int | None = None
    seconds: float = 0.0
    learning_rates: np.ndarray | None = None

    @property
    def rates(self) -> np.ndarray:
        """(T,) step size of the update that follows each loss."""
        if self.learning_rates is None:
            return np.full(len(self.loss), self.learning_rate)
        return self.learning_rates

    def trace(self, name: str) -> np.ndarray:
        """The values of a probe aligned with the loss, NaN at the steps where it was not called.

        Args:
            name: of a probe with values (P,) or (P, ...).

        Returns:
            (T,) or (T, ...).

        Raises:
            ValueError: if the run has no such probe.
        """
        values = np.asarray(self.probes[one_of("name", name, self.probes)], dtype=float)
        trace = np.full((len(self.loss), *values.shape[1:]), np.nan)
        trace[self.probe_steps] = values
        return trace

    def episodes(self, sharpness: str = "sharpness", **options: object) -> list[Episode]:
        """The instabilities of the run, by `episodes.find_episodes` with the run's own rates.

        Args:
            sharpness: name of the probe of the sharpness, (P,) or (P, k) with the largest first.
            options: ``threshold``, ``loss_accuracy`` and ``minimum_rise`` of `find_episodes`.

        Returns:
            The episodes in order of time; none of a run that diverged at once.

        Raises:
            ValueError: if the run has no such probe, or as `find_episodes` does.
        """
        trace = self.trace(sharpness)
        if not len(trace):
            return []
        return find_episodes(self.loss, trace.reshape(len(trace), -1)[:, 0], self.rates, **options)

    def edge_arrival(self, sharpness: str = "sharpness") -> int | None:
        """First probed step at which the sharpness is at least 2 / eta after having been below it.

        With a schedule, eta is the rate at each step. The threshold is that of plain gradient
        descent: other optimizers have their own, see `quadratic.stability_threshold`.

        Args:
            sharpness: name of the probe of the sharpness, (P,) or (P, k) with the largest first.

        Returns:
            The step, or None if the sharpness never crosses 2 / eta from below. A run that starts
            beyond 2 / eta, and is thrown below it at once, arrives only when it comes back.

        Raises:
            ValueError: if the run has no such probe.
        """
        one_of("sharpness", sharpness, self.probes)
        values = self.probes[sharpness]
        rates = self.learning_rate
        if self.learning_rates is not None:
            rates = self.learning_rates[self.probe_steps]
        beyond = values.reshape(len(values), -1)[:, 0] >= 2 / rates
        arrivals = np.flatnonzero(~beyond[:-1] & beyond[1:])
        return int(self.probe_steps[arrivals[0] + 1]) if len(arrivals) else None


@dataclass(frozen=True)
class Cooling:
    """How `train_to_loss` ended, whether it reached its target or not.

    Attributes:
        target_loss: the loss asked for.
        reached: whether the training loss came down to it.
        steps: the updates made.
        loss: the last training loss; NaN if the run diverged at once.
        history: the run. ``history.diverged`` says whether it diverged.

    Example:
        >>> none = np.empty(0)
        >>> run = History(0.1, none, none, none, none)
        >>> round(Cooling(0.05, True, 12, 0.049, run).undershoot, 6)
        0.02
    """

    target_loss: float
    reached: bool
    steps: int
    loss: float
    history: History

    @property
    def undershoot(self) -> float:
        """Share of the target by which the loss is below it. Near zero: the loss is matched.

        Large for a run that was below its target when it began: no cooling can match that one.
        Negative for a run that did not reach its target.
        """
        return 1 - self.loss / self.target_loss
