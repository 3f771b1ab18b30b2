"""Numbers as text, shared by all that is printed."""


def number_text(value: float, spec: str) -> str:
    """A number by a format: with a true minus sign, and without a sign where zero is shown."""
    text = format(value, spec).replace("-", "−")
    return text if text.strip("+−0.%") else text.lstrip("+−")
