"""What was reproduced: each claim with its measured effects, and a verdict by a stated criterion.

A claim is judged by *effects*. Each is a number, with an interval where seeds were repeated, and
the answer to one question: does it have the sign (or the size) that the claim says? The question,
the claim's criterion, is that of the chapter that shows it. Effects are computed from the stored
results, or are the values of numbers that an executed chapter shows; what is shown is never read.

`verdicts` says what a verdict is, `evidence` where numbers come from, `measured` how each claim is
measured, and `paper` lists the claims.
"""

from study.claims.evidence import LARGE_PRESETS, REPEATS, Evidence
from study.claims.measured import ARCHITECTURES, MEASURES, NETWORKS
from study.claims.paper import CLAIMS, judge_all
from study.claims.verdicts import (
    NOT,
    PARTLY,
    REPRODUCED,
    UNTESTED,
    VERDICTS,
    Claim,
    Effect,
    Finding,
    MissingEvidenceError,
    combined,
    judge,
    verdict,
)

__all__ = [
    "ARCHITECTURES",
    "CLAIMS",
    "LARGE_PRESETS",
    "MEASURES",
    "NETWORKS",
    "NOT",
    "PARTLY",
    "REPEATS",
    "REPRODUCED",
    "UNTESTED",
    "VERDICTS",
    "Claim",
    "Effect",
    "Evidence",
    "Finding",
    "MissingEvidenceError",
    "combined",
    "judge",
    "judge_all",
    "verdict",
]
