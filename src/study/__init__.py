"""What this book did: experiments, their stored results, verdicts, and the pages that show them.

The study reads the repository around it and is no part of the wheel; the library, `flatminima`,
knows nothing of it.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the repository."""
