"""Checks of arguments, shared by the whole library: an error says what was given and allowed."""

import math
import os
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path

import numpy as np

LARGEST = 1e100
"""The largest number that is taken: beyond it squares of squares overflow, and nothing here is of
that size unless it has gone wrong before."""

MOST = 10**9
"""The largest count that is taken, of steps, say: a list of as many numbers fills a memory."""


def shown(value: object) -> str:
    """A value as an error message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:
        # The repr of a very long whole number raises, as others may.
        text = f"a value of {type(value).__name__}"
    return text if len(text) <= 300 else f"{text[:300]}..."


def finite_float(name: str, value: float) -> float:
    """Return ``value`` as a float; ValueError unless it is a real number, at most LARGEST in size.

    A number in an array without axes will do; a bool will not.
    """
    number = _as_float(value)
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(
            f"{name} must be a finite number, got {shown(value)} (at most {LARGEST:.0e} in size)"
        )
    return number


def _as_float(value: object) -> float:
    """A real number as a float, NaN for anything else and a whole number beyond all floats."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def positive_float(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is finite and greater than 0."""
    number = _as_float(value)
    # Its inverse is taken, as a rule, and the square of that.
    if not 1 / LARGEST <= number <= LARGEST:
        raise ValueError(
            f"{name} must be a finite number greater than 0, got {shown(value)} (from "
            f"{1 / LARGEST:.0e} to {LARGEST:.0e})"
        )
    return number


def positive_int(name: str, value: int, minimum: int = 1, maximum: int = MOST) -> int:
    """Return ``value`` as an int; ValueError unless it is a whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {shown(value)}")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {shown(value)}")
    return int(value)


def numbers(name: str, value: object, dtype: type = float) -> np.ndarray:
    """Return ``value`` as an array of ``dtype``, which may hold NaN, or raise ValueError.

    Complex numbers, which would lose a part, and text are refused, whatever they hold.
    """
    array = _as_array(name, value, dtype)
    if np.any(np.abs(array) > LARGEST):
        raise ValueError(
            f"{name} must hold no number that is infinite or beyond {LARGEST:.0e}, got "
            f"{shown(array)}"
        )
    return array


def _as_array(name: str, value: object, dtype: type) -> np.ndarray:
    try:
        array = np.asarray(value)
        if value is None or array.dtype.kind not in "biufO":
            raise TypeError(f"an array of {array.dtype}")
        return np.asarray(array, dtype=dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {shown(value)}") from error


def finite_array(
    name: str, value: object, dtype: type = float, largest: float = LARGEST
) -> np.ndarray:
    """Return ``value`` as an array of ``dtype``; ValueError unless all of it is finite, and at most
    ``largest`` in size."""
    array = _as_array(name, value, dtype)
    if not np.all(np.abs(array) <= largest):
        bound = "" if largest > LARGEST else f" (at most {largest:.0e} in size)"
        raise ValueError(f"{name} must hold finite numbers only, got {shown(array)}{bound}")
    return array


def nonnegative_array(name: str, value: object) -> np.ndarray:
    """Return ``value`` as an array of finite floats >= 0, or raise ValueError."""
    array = finite_array(name, value)
    if np.any(array < 0):
        raise ValueError(f"{name} must be at least 0, got {shown(value)}")
    return array


def checked_rates(value: object, name: str = "learning_rate") -> np.ndarray:
    """Return the learning rates as an array of floats; all must be finite and greater than 0."""
    rates = finite_array(name, value)
    # 2 / eta is taken of them, and its square.
    if np.any(rates < 1 / LARGEST):
        raise ValueError(
            f"{name} must be greater than 0, got {shown(value)} (at least {1 / LARGEST:.0e})"
        )
    return rates


def broadcast(**arrays: np.ndarray) -> list[np.ndarray]:
    """Broadcast arrays against one another; ValueError names them all with their shapes."""
    common_shape(**{name: array.shape for name, array in arrays.items()})
    return np.broadcast_arrays(*arrays.values())


def common_shape(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that all broadcast to; ValueError names them all."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError as error:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"these shapes must broadcast, got {given}") from error


def one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``, or raise ValueError unless it is one of the names in ``allowed``."""
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}")
    return value


def instance_of(name: str, value: object, *kinds: type) -> object:
    """Return ``value``, or raise TypeError unless it is an instance of one of the classes."""
    if not isinstance(value, kinds):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        article = "an" if allowed[0] in "AEIOUaeiou" else "a"
        given = f"{type(value).__name__}: {shown(value)}"
        raise TypeError(f"{name} must be {article} {allowed}, got {given}")
    return value


def a_bool(name: str, value: bool) -> bool:
    """Return ``value``, or raise TypeError unless it is true or false."""
    return bool(instance_of(name, value, bool, np.bool))


def a_generator(name: str, value: np.random.Generator) -> np.random.Generator:
    """Return ``value``, or raise ValueError unless it is a generator of NumPy."""
    if not isinstance(value, np.random.Generator):
        raise ValueError(f"{name} must be a numpy Generator, got {shown(value)}")
    return value


def a_function(name: str, value: Callable) -> Callable:
    """Return ``value``, or raise TypeError unless it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")
    return value


def a_path(name: str, value: str | os.PathLike) -> Path:
    """Return ``value`` as a path, ``~`` being one's home, or raise ValueError."""
    try:
        if isinstance(value, bytes) or b"\0" in os.fsencode(value):
            raise ValueError("no text that can name a file")
        return Path(os.path.expanduser(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a path, got {shown(value)}") from error


def a_list(name: str, value: Iterable) -> list:
    """The entries of ``value``; TypeError for text, a mapping, or what has none."""
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, got {shown(value)}")
    try:
        return list(value)
    except TypeError as error:  # an array without axes
        raise TypeError(f"{name} must be a sequence, got {shown(value)}") from error
