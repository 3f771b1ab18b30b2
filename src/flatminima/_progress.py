"""Progress bars that are never the reason for a failure."""

import io
import sys
from typing import Any, Self


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


class _Nothing:
    """What of a bar is called here, for one that is not shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        pass

    def set_postfix(self, signs: object) -> None:
        pass


def bar(*, disable: bool = False, **options: object) -> Any:
    """A bar of tqdm's, with its options, on whatever standard error now is.

    One that is not shown needs no tqdm.
    """
    if disable:
        return _Nothing()
    from tqdm import tqdm

    return tqdm(file=_Screen(), **options)
