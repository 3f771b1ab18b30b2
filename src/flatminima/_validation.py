"""Checks of arguments, shared by the whole library: an error says what was given and allowed."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np


def shown(value: object) -> str:
    """A value as an error message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:
        # The repr of a very long whole number raises, as others may.
        text = f"a value of {type(value).__name__}"
    return text if len(text) <= 300 else f"{text[:300]}..."


def positive_float(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is finite and greater than 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a finite number greater than 0, got {shown(value)}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number greater than 0, got {shown(value)}")
    return float(value)


def positive_int(name: str, value: int, minimum: int = 1) -> int:
    """Return ``value`` as an int; ValueError unless it is a whole number >= ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {shown(value)}")
    return int(value)


def finite_array(name: str, value: object, dtype: type = float) -> np.ndarray:
    """Return ``value`` as an array of ``dtype``, or raise ValueError if an entry is not finite."""
    try:
        array = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {shown(value)}") from error
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must hold finite numbers only, got {shown(array)}")
    return array


def nonnegative_array(name: str, value: object) -> np.ndarray:
    """Return ``value`` as an array of finite floats >= 0, or raise ValueError."""
    array = finite_array(name, value)
    if np.any(array < 0):
        raise ValueError(f"{name} must be at least 0, got {shown(value)}")
    return array


def checked_rates(value: object) -> np.ndarray:
    """Return the learning rates as an array of floats; all must be finite and greater than 0."""
    rates = finite_array("learning_rate", value)
    if np.any(rates <= 0):
        raise ValueError(f"learning_rate must be greater than 0, got {shown(value)}")
    return rates


def one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``, or raise ValueError unless it is one of the names in ``allowed``."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}")
    return value
