"""A door for numbers: any value becomes an array of real numbers in the precision that holds it, or is refused.

    float32, smaller floats, booleans, whole numbers up to 2^24     ->  float32
    float64, larger whole numbers                                    ->  float64

This file imports nothing but the standard library and NumPy: workers of campaigns run it without JAX. Tables of pandas
and arrays of xarray are read by their methods, so that neither library is needed.
"""

import datetime
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


MAX_EXACT = 2**24  # up to here single precision holds every whole number
SMALL_TYPES = ("bfloat", "float", "int", "uint")  # of ml_dtypes, which NumPy takes for raw bytes
DATES = (datetime.date, datetime.time, datetime.timedelta)
COMPLEX = "must be real numbers, got complex ones; write the real and the imaginary part as two elements"
SECONDS = "must be numbers, got dates or times; write the seconds since the start, such as (t - t[0]).total_seconds()"
TEXT = "must be numbers, got text; '3.5' is no number: convert it, such as np.asarray(x, float)"
NONE = "must be numbers, got None; write NaN for what is missing"
MASKED = "is a masked array with masked elements, whose numbers are no data; leave such rows out"
UNITS = "has a unit, which would be dropped; convert it to a plain array in the unit of the simulator"
RAGGED = (
    "must be numbers in rows of equal length; a set of any size is written as sites (rd.Plate), as a function at "
    "points (rd.At), or with NaN for what is missing"
)


class NotNumbersError(ValueError):
    """The value is not made of real numbers; the message begins with a verb, for a name to stand before it."""


def real_array(value: Any, *, missing: bool = False, integers: bool = False) -> np.ndarray:
    """Returns a value as an array of float32 or float64, whichever holds it.

    Args:
        missing: masked elements are missing and become NaN; otherwise they are refused.
        integers: large types of whole numbers stay, so that the type does not depend on the values.

    Raises:
        NotNumbersError: the value is not made of real numbers.
    """
    if isinstance(value, str | bytes):
        raise NotNumbersError(TEXT)
    if value is None or type(value).__name__ == "NAType":
        raise NotNumbersError(NONE)
    if isinstance(value, DATES):
        raise NotNumbersError(SECONDS)
    if hasattr(value, "to_value") or hasattr(value, "magnitude"):
        raise NotNumbersError(UNITS)
    is_number = isinstance(value, float | int | complex | Sequence | np.generic)
    if not is_number and (not hasattr(value, "__array__") or isinstance(value, type)):
        raise NotNumbersError(f"must be numbers, got {type(value).__name__}")
    array = _filled(_as_array(value), missing=missing)
    return array if integers and array.dtype.kind in "iu" and holds_large(array.dtype) else in_precision(array)


def in_precision(array: np.ndarray) -> np.ndarray:
    """Returns an array of numbers as float32 where that holds every one of them, else as float64.

    Raises:
        NotNumbersError: the array is not made of real numbers.
    """
    kind, bytes_per_number = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        return array.astype(np.float32 if bytes_per_number <= 4 else np.float64, copy=False)
    if kind == "b" or (kind == "V" and array.dtype.name.startswith(SMALL_TYPES)):
        return array.astype(np.float32)
    if kind in "iu":
        is_small = bytes_per_number <= 2 or not array.size
        is_exact = is_small or (int(array.min()) >= -MAX_EXACT and int(array.max()) <= MAX_EXACT)
        return array.astype(np.float32 if is_exact else np.float64)
    raise NotNumbersError(_refusal(array))


def holds_large(kind: np.dtype) -> bool:
    """Whether an array of this type may hold numbers that single precision rounds."""
    return kind.kind in "fiu" and kind.itemsize > (4 if kind.kind == "f" else 2)


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple) and _has_mask(value):
        return np.ma.stack([np.ma.asarray(_as_array(element)) for element in value])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a masked constant in a list becomes NaN
            array = value if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise NotNumbersError(RAGGED if "inhomogeneous" in str(error) else f"must be numbers: {error}") from error
    if array.dtype.kind == "O" and getattr(getattr(value, "dtype", None), "kind", "O") in "iufb":
        return np.asarray(value.to_numpy(dtype=float, na_value=np.nan))  # pandas' numbers with missing ones
    return array


def _has_mask(value: Any) -> bool:
    """Whether a masked array lies in a nested list; the first elements decide how deep lists are nested."""
    if isinstance(value, list | tuple):
        is_nested = len(value) > 0 and isinstance(value[0], list | tuple | np.ma.MaskedArray)
        return is_nested and any(_has_mask(element) for element in value)
    return isinstance(value, np.ma.MaskedArray)


def _filled(array: np.ndarray, *, missing: bool) -> np.ndarray:
    """Returns a plain array, NaN for masked elements.

    Raises:
        NotNumbersError: there are some, and they are not `missing`.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if not np.ma.is_masked(array):
        return np.asarray(array.data)
    if not missing:
        raise NotNumbersError(f"{MASKED} ({int(np.ma.getmaskarray(array).sum())} of {array.size} are masked)")
    numbers = in_precision(np.where(np.ma.getmaskarray(array), np.zeros((), array.dtype), array.data))
    return np.where(np.ma.getmaskarray(array), np.array(np.nan, numbers.dtype), numbers)


def _refusal(array: np.ndarray) -> str:
    """Returns why an array is not made of real numbers."""
    kind = array.dtype.kind
    if kind == "c":
        return COMPLEX
    if kind in "mM":
        return SECONDS
    if kind in "USaT":
        return TEXT
    if kind == "V" and array.dtype.names:
        return f"must be numbers, got records with the fields {', '.join(array.dtype.names)}; pass each field by itself"
    elements = array.ravel().tolist() if kind == "O" else []
    if any(isinstance(element, DATES) for element in elements):
        return SECONDS
    if any(isinstance(element, str) for element in elements):
        return TEXT
    if any(element is None or type(element).__name__ == "NAType" for element in elements):
        return NONE
    if any(isinstance(element, complex) for element in elements):
        return COMPLEX
    if any(hasattr(element, "__len__") for element in elements):
        return RAGGED
    return f"must be numbers, got an array of type {array.dtype}; convert it, such as np.asarray(x, float)"
