"""Check: one clause of a contract, with a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

Made = TypeVar("Made")
Clause = Callable[[Callable[[], Made]], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One clause of a contract.

    Attributes
    ----------
    name : str
        What it holds to, such as ``sums_to_one``.
    run : callable
        Raises AssertionError where the clause is broken.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Raise AssertionError where the clause is broken."""
        self.run()

    def __str__(self) -> str:
        return self.name


def checks_of(clauses: tuple[Clause[Made], ...], make: Callable[[], Made]) -> Iterator[Check]:
    """Yield a check of each clause, on what `make` makes."""
    for clause in clauses:
        yield Check(clause.__name__.strip("_"), partial(clause, make))


def demand(kept: bool, sentence: str, *values: object) -> None:
    """Raise AssertionError with a sentence, its ``{}`` filled, unless something is kept."""
    if not kept:  # no assert: it must bite under python -O too
        raise AssertionError(sentence.format(*values) if values else sentence)


def demand_error(kind: type[Exception], call: Callable[[], object], sentence: str) -> None:
    """Raise AssertionError with a sentence unless a call raises an error of a kind."""
    try:
        call()
    except kind:
        return
    except Exception as error:  # whatever it is, it is not what was wanted
        raise AssertionError(f"{sentence}: expected {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"{sentence}: expected {kind.__name__}, got an answer")
