"""What is read from a request over HTTP: strict JSON, and fields that agree with the library's own limits."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bandit_router.values import (
    AMOUNT_LIMIT,
    COUNT_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    check_name,
    clean_text,
)

DEPTH_LIMIT = 64  # of objects and lists in each other


class Body(BaseModel):
    """A JSON body: nothing unknown, nothing converted, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def either(*names: str) -> dict[str, Any]:  # Any: JSON schema
    """Return the part of a schema that says: one of these fields, and no more."""
    return {"oneOf": [{"required": [name]} for name in names]}


def _printable(value: str) -> str:
    return check_name("name", value)


def _clean(value: object) -> object:
    """A lone half of a character comes from texts that were cut: it is replaced, not refused."""
    return clean_text("text", value) if isinstance(value, str) else value


# The pattern is for readers of the schema; what is printable is more than it can say.
_SHAPE = Field(
    min_length=1, max_length=NAME_LIMIT, json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f-\xa0]+$"}
)
Name = Annotated[str, _SHAPE, AfterValidator(_printable)]
Text = Annotated[str, BeforeValidator(_clean), Field(max_length=TEXT_LIMIT)]
Amount = Annotated[float, Field(ge=0, le=AMOUNT_LIMIT)]
Count = Annotated[int, Field(ge=0, le=COUNT_LIMIT)]


def read_json(data: bytes) -> Any:  # Any: what JSON can say
    """Read JSON as RFC 8259 has it: UTF-8, finite numbers, each name once, not too deep.

    Raises
    ------
    ValueError
        The message says what is wrong.

    Examples
    --------
    >>> read_json(b'{"value": true}')
    {'value': True}
    >>> read_json(b'{"value": NaN}')
    Traceback (most recent call last):
    ValueError: expected JSON, got NaN
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise ValueError("expected UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"expected JSON at most {DEPTH_LIMIT} levels deep") from error
    if data.count(b"[") + data.count(b"{") > DEPTH_LIMIT:
        _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: what JSON can say
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in read if names.count(name) > 1)
        raise ValueError(f"expected each name once, got {twice!r:.60} twice")
    return read


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected JSON, got {name}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"expected a finite number, got {text:.40}")
    return number


def _check_depth(value: object) -> None:
    level = _nested([value])
    for _ in range(DEPTH_LIMIT):
        level = [inner for outer in level for inner in _nested(outer)]
    if level:
        raise ValueError(f"expected JSON at most {DEPTH_LIMIT} levels deep")


def _nested(outer: Any) -> list[Any]:  # Any: an object or a list
    """The objects and lists in one."""
    inside = outer.values() if isinstance(outer, dict) else outer
    return [inner for inner in inside if isinstance(inner, dict | list)]
