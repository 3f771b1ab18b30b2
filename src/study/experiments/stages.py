"""How closely a rerun of a stored row must agree, for the columns that several experiments share.

Once an instability or noise has amplified rounding, nothing is reproducible on another processor
but in distribution: such a value is held to the spread over the stored seeds.
"""

__all__ = [
    "AT_THE_END",
    "COOLING",
    "spread",
]

AT_THE_END = (
    "sharpness",
    "trace",
    "trace_error",
    "adaptive_sharpness",
    "average_sharpness",
    "average_sharpness_error",
    "relative_flatness",
    "relative_flatness_error",
    "test_accuracy",
    "test_loss",
)
"""What `study.experiments.flatness.measure` returns."""
COOLING = ("reached", "cooling_steps", "final_loss", "undershoot")
"""What the last stage, down to the matched loss, tells of itself."""


def spread(*columns: str) -> dict[str, str]:
    """The columns with the tolerance ``"spread"``."""
    return dict.fromkeys(columns, "spread")
