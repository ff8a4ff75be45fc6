"""Finding: what one check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem", "unseen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check says.

    Attributes
    ----------
    check : str
        Of what: it stays the same from version to version.
    state : {"ok", "warning", "problem", "unseen"}
        "unseen": it could not be looked at from here.
    message : str
        What was found and, where something is wrong, what to do.
    router : str, optional
        Whose.
    """

    check: str
    state: State
    message: str
    router: str | None = None


def ok(check: str, message: str, *, router: str | None = None) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", message=message, router=router)


def warning(check: str, message: str, *, router: str | None = None) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check=check, state="warning", message=message, router=router)


def problem(check: str, message: str, *, router: str | None = None) -> Finding:
    """It does not work, or soon will not."""
    return Finding(check=check, state="problem", message=message, router=router)


def unseen(check: str, message: str, *, router: str | None = None) -> Finding:
    """It could not be looked at."""
    return Finding(check=check, state="unseen", message=message, router=router)
