"""What was reproduced: each claim with its measured effects, and a verdict by a stated criterion.

A claim is judged by *effects*. Each is a number, with an interval where seeds were repeated, and
the answer to one question: does it have the sign (or the size) that the claim says? The question,
the claim's criterion, is that of the chapter that shows it. Effects are computed from the stored
results, or are the values of numbers that an executed chapter shows; what is shown is never read.

`verdicts` says what a verdict is, `evidence` where numbers come from, `measured` how each claim is
measured, and `paper` lists the claims.
"""

from study.claims.evidence import Evidence
from study.claims.measured import ARCHITECTURES, MEASURES
from study.claims.paper import CLAIMS, judge_all
from study.claims.verdicts import (
    ACCURACY,
    SHARPNESS,
    SMALLEST_GAIN,
    VERDICTS,
    Claim,
    Effect,
    Finding,
    MissingEvidenceError,
    combined,
    decided,
    every,
    fallen,
    gained,
    judge,
)

__all__ = [
    "ACCURACY",
    "ARCHITECTURES",
    "CLAIMS",
    "MEASURES",
    "SHARPNESS",
    "SMALLEST_GAIN",
    "VERDICTS",
    "Claim",
    "Effect",
    "Evidence",
    "Finding",
    "MissingEvidenceError",
    "combined",
    "decided",
    "every",
    "fallen",
    "gained",
    "judge",
    "judge_all",
]
