"""Where the effects come from: stored results, executed chapters, and tests of proved statements.

What is asked for and not there raises `MissingEvidenceError`, whose message says what makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flatminima import sweep
from flatminima.statistics import Interval
from study import presets, results
from study.claims.verdicts import MissingEvidenceError
from study.figures import GluedNumber
from study.results import Result

__all__ = ["Evidence"]

LARGE_PRESETS = ("default", "gpu")
"""The presets whose stored results count; that of ``ci`` is for tests."""
DATA = {
    "fashion-mnist-subset": "Fashion-MNIST subset",
    "cifar10": "CIFAR-10",
    "cifar10-subset": "CIFAR-10 subset",
}
"""Data set of a table -> what it is called here."""
REPEATS = {"flatness": ("flatness", "cifar")}
"""Experiments that put the same question to other data; the claims are judged by all of them."""


@dataclass
class Evidence:
    """Where the effects come from, and a list of what was used.

    Every method raises `MissingEvidenceError` for what is not there or not of its kind; where
    stored results are read, also CorruptResultError, as `results.load` does.

    Attributes:
        glued: document -> name -> number of the executed chapter, as `figures.glued_numbers`.
        proved: label of a theorem -> names of the tests that check it.
        load: (name, preset) -> stored result, as `results.load`.
        used: what made the numbers asked for so far.
    """

    glued: Mapping[str, Mapping[str, GluedNumber]]
    proved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    load: Callable[[str, str], Result] = results.load
    used: list[str] = field(default_factory=list)
    _computed: dict[str, dict[str, Interval]] = field(default_factory=dict)

    def for_one_claim(self) -> Evidence:
        """The same evidence with a list of its own of what is used; what was computed is shared."""
        return Evidence(self.glued, self.proved, self.load, [], self._computed)

    def number(self, document: str, name: str) -> float:
        """A finite number that an executed chapter glued, as it was before it was formatted."""
        found = self._glued(document, name).value
        if found is None or isinstance(found, Interval):
            raise MissingEvidenceError(
                f"{name!r} of chapters/{document}.ipynb must be a finite number, got {found!r}"
            )
        return found

    def interval(self, document: str, name: str) -> Interval:
        """The same of a number with its interval, which is to enclose it."""
        found = self._glued(document, name).value
        if not isinstance(found, Interval) or not found.low <= found.value <= found.high:
            raise MissingEvidenceError(
                f"{name!r} of chapters/{document}.ipynb must be an interval that encloses its "
                f"value, got {found!r}"
            )
        return found

    def shown(self, document: str, name: str) -> str:
        """The same as the chapter's text shows it."""
        return self._glued(document, name).text

    def settings(self, name: str) -> list[tuple[str, Result]]:
        """The stored result and its repeats, one part for each data set and network, with its name.

        The name is what tells a part from the others, and empty if there is one only.
        """
        found = [part for stored in self.stored(name) for part in _split(stored)]
        return found if len(found) > 1 else [("", found[0][1])]

    def stored(self, name: str) -> list[Result]:
        """The stored result and its repeats at each preset that counts; default is required."""
        found = []
        for one, preset in itertools.product(REPEATS.get(name, (name,)), LARGE_PRESETS):
            try:
                stored = self.load(one, preset)
            except results.MissingResultError as error:
                if preset == "default":
                    raise MissingEvidenceError(str(error)) from error
                continue
            self._note(f"preset {preset}, {' and '.join(stored.provenance['devices'])}")
            found.append(stored)
        return found

    def measured(self, name: str) -> list[tuple[str, Result, dict[str, Interval]]]:
        """The same, each part with the effects that its experiment has.

        Raises:
            ValueError: if a comparison has too few seeds.
        """
        found = []
        for number, (setting, stored) in enumerate(self.settings(name)):
            key = f"{name} {number}"
            if key not in self._computed:
                self._computed[key] = results.experiment(name).effects(stored)
            found.append((setting, stored, self._computed[key]))
        return found

    def tests(self, *labels: str) -> None:
        """Note that statements are proved; each must have a test at least.

        That a proof is there is no effect: it could not be absent, and the verdict would not move.
        """
        for label in labels:
            if not self.proved.get(label):
                raise MissingEvidenceError(f"{label} must be proved in a chapter and have tests")
        self._note("proof")

    def _glued(self, document: str, name: str) -> GluedNumber:
        try:
            found = self.glued[document][name]
        except KeyError:
            raise MissingEvidenceError(
                f"the number {name!r} of chapters/{document}.ipynb is missing: execute the chapter "
                "with `make book`, or mend the claim that asks for it"
            ) from None
        self._note(f"preset {presets.current()}, {sweep.device_name('cpu')}, in the chapter")
        return found

    def _note(self, source: str) -> None:
        if source not in self.used:
            self.used.append(source)


def _split(stored: Result) -> list[tuple[str, Result]]:
    """The parts of a result that differ in data set, network or width, each with a name."""
    fields = [c for c in ("dataset", "model", "width") if c in stored.columns]
    parts = []
    for place in dict.fromkeys(zip(*(stored[c].tolist() for c in fields), strict=True)):
        names = [DATA.get(place[0], place[0]), *map(str, place[1:-1])]
        part = stored.where(**dict(zip(fields, place, strict=True)))
        parts.append((", ".join(names), part))
    return parts
