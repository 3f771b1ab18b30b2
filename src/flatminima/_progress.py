"""Progress bars that are never the reason for a failure."""

import io
import sys

from tqdm import tqdm


class _Screen(io.TextIOBase):
    """Standard error, until it cannot be written: closed, full, or a pipe that nobody reads."""

    def __init__(self) -> None:
        self.stream = sys.stderr

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return bool(getattr(self.stream, "isatty", bool)())

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError, AttributeError):
            self.stream = None
        return len(text)


def bar(**options: object) -> tqdm:
    """A bar of tqdm's, with its options, on whatever standard error now is."""
    return tqdm(file=_Screen(), **options)
