"""What every room agrees on: arrays, limits, and the checks at the doors."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NAME_LIMIT = 255  # characters of a name, id, key or source
TEXT_LIMIT = 4_000_000  # characters of a prompt or an answer
TAG_LIMIT = 64
COUNT_LIMIT = 10**12  # tokens of one call
AMOUNT_LIMIT = 1e12  # dollars or seconds of one call


def check_name(what: str, value: object) -> str:
    """Return `value` if it is a usable name, else raise TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a text, got {type(value).__name__}")
    if not value or len(value) > NAME_LIMIT:
        raise ValueError(f"{what}: expected 1 to {NAME_LIMIT} characters, got {len(value)}")
    if not value.isprintable():
        odd = next(character for character in value if not character.isprintable())
        raise ValueError(f"{what}: expected printable characters, got {odd!r}")  # not who it is
    return value


def check_number(what: str, value: object) -> float:
    """Return `value` as a float if it is a finite number, else raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{what}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{what}: expected a finite number, got one too large") from error
    if not math.isfinite(number):
        raise ValueError(f"{what}: expected a finite number, got {number}")
    return number


def check_unit(what: str, value: object) -> float:
    """Return `value` as a float if it lies in [0, 1], else raise TypeError or ValueError."""
    number = check_number(what, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{what}: expected a number from 0 to 1, got {number:g}")
    return number


def check_amount(what: str, value: object) -> float:
    """Return `value` as a float if it is finite and not negative, else raise TypeError or ValueError."""
    number = check_number(what, value)
    if not 0.0 <= number <= AMOUNT_LIMIT:
        raise ValueError(f"{what}: expected a number from 0 to {AMOUNT_LIMIT:g}, got {number:g}")
    return number


def check_count(what: str, value: object) -> int:
    """Return `value` as an int if it counts something, else raise TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what}: expected a whole number, got {type(value).__name__}")
    if not 0 <= value <= COUNT_LIMIT:
        raise ValueError(f"{what}: expected a whole number from 0 to {COUNT_LIMIT}, got {value}")
    return int(value)


def check_vector(what: str, value: object, dim: int | None = None) -> Array:
    """Return `value` as a float64 vector that cannot be written to and holds only finite numbers.

    Raises
    ------
    ValueError
        Wrong shape, or a NaN or an infinity in it.
    """
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: expected a vector of numbers, got {type(value).__name__}") from error
    if raw.dtype.kind not in "iuf":
        raise ValueError(
            f"{what}: expected a vector of numbers, got {raw.dtype} in {type(value).__name__}"
        )
    vector = np.array(raw, dtype=np.float64)
    wanted = f"({dim},)" if dim is not None else "(dim,)"
    if vector.ndim != 1 or (dim is not None and vector.shape != (dim,)):
        raise ValueError(f"{what}: expected shape {wanted}, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{what}: expected finite numbers, got {vector[~np.isfinite(vector)][0]}")
    vector.flags.writeable = False
    return vector


def check_time(what: str, value: datetime | float | str | None, now: float) -> float:
    """Return a moment as seconds since 1970 to the microsecond; None is `now`, a text is RFC 3339.

    Raises
    ------
    TypeError, ValueError
        Not a moment, a time without a zone, or outside the years 1970 to 9999.
    """
    if value is None:
        return now
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{what}: expected a time as RFC 3339 has it") from error
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{what}: expected a time with a zone, got {value.isoformat()}")
        value = value.timestamp()
    moment = check_number(what, value)
    if not 0 <= moment < 253402300800:
        raise ValueError(f"{what}: expected a time from 1970 to 9999, got {moment:g}")
    return round(moment, 6)


def utc(moment: float) -> datetime:
    """Return seconds since 1970 as a UTC datetime."""
    return datetime.fromtimestamp(moment, UTC)


def clean_text(what: str, value: object, limit: int = TEXT_LIMIT) -> str:
    """Return a text that can be encoded: lone surrogates become U+FFFD, NUL too (PostgreSQL has none).

    Raises
    ------
    TypeError, ValueError
        Not a text, or longer than `limit` characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a text, got {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"{what}: expected at most {limit} characters, got {len(value)}")
    text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
