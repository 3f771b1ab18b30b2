"""Runs that break off, as a crash would make them."""


class StopAt:
    """A probe that breaks the run off at a step; it is one and the same probe at any step."""

    def __init__(self, step):
        self._step = step

    def __call__(self, state):
        if state.step == self._step:
            raise KeyboardInterrupt
        return 0.0
