"""A tiny experiment for the tests of the list: runs that take as long as they say."""

import time
from dataclasses import dataclass

from study.results import Experiment


@dataclass(frozen=True)
class Config:
    kind: str
    factor: float
    seed: int
    length: float = 0.0
    device: str = "cpu"


def wait(config):
    time.sleep(config.length)
    if config.kind == "broken":
        raise RuntimeError("it does not work")
    return {"product": config.factor * config.seed}


def experiment(*configs):
    return Experiment(
        name="example",
        summary="an example",
        function=wait,
        grid=lambda preset: list(configs),
        depends_on=("flatminima.sweep",),
        tolerances={"product": 0.0},
    )
