"""Spans: a seam where a tracer may listen. Until one does, a span is nothing and costs nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

Attribute = str | int | float | bool


class Span(Protocol):
    """A step that takes time, while it is under way."""

    def set(self, **attributes: Attribute) -> None:
        """Say more about it: ids, names and counts, never what somebody wrote."""
        ...


class Tracer(Protocol):
    """Hears of spans."""

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[Span]:
        """Begin a span, which ends with the context."""
        ...


class _Nothing:
    """A span that nobody hears of."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        return None

    def set(self, **attributes: Attribute) -> None:
        return None


_nothing = _Nothing()
_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """Let a tracer hear of all spans of this process from now on; None: nobody."""
    global _tracer
    _tracer = tracer


def span(name: str, **attributes: Attribute) -> AbstractContextManager[Span]:
    """Begin a span: ``with span("choose", router="default") as step: ...``.

    Attributes are ids, names and counts; never a prompt, an answer, a user, a comment or a key.

    Examples
    --------
    >>> with span("choose", router="default") as step:
    ...     step.set(model="small")
    """
    return _nothing if _tracer is None else _tracer.span(name, **attributes)
