"""flatminima: the library under the book *Unstable by Design*.

The modules ``quadratic``, ``maps``, ``scalar_network``, ``diagonal_network``, ``label_noise``,
``rotation``, ``instability`` and ``plotting`` need NumPy alone (SciPy and matplotlib where a
function says so); ``curvature``, ``datasets``, ``models`` and ``training`` need PyTorch. A module
is loaded when it is first used, so that ``import flatminima`` costs next to nothing.
"""

import importlib
import importlib.util

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
