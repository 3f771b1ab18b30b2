"""Numbers as text, shared by all that is printed."""

import re

_SIGNED_ZERO = re.compile(r"^[+-](?=0[.0]*%?$)")


def number_text(value: float, spec: str) -> str:
    """A number by a format: with a true minus sign, and without a sign where zero is shown."""
    return _SIGNED_ZERO.sub("", format(value, spec)).replace("-", "−")
