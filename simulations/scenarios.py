"""Scenarios: a world that changes while a policy lives in it, as a TOML file says.

A scenario concatenates tables, changes prices and qualities at given rounds, adds and retires models, and says
what feedback comes, how late and how often. It has no randomness of its own: `simulations.streams` makes one
stream of rounds of it for each order.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from bandit_router.errors import SettingsError
from bandit_router.rewards import METRICS
from bandit_router.values import check_amount, check_count, check_name, check_number, check_unit

Entry = TypeVar("Entry")
Kept = Literal["shared", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """A table that follows.

    Parameters
    ----------
    table : str
        Its file; a relative one is looked for beside the scenario, then beside the first table, then one
        folder up.
    rows : int, optional
        At most so many rounds of it; all by default.
    name : str, optional
        What to call it; by default the file's name without its ending.
    where : mapping of str to str
        Only such rows.
    """

    table: str
    rows: int | None = None
    name: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("table", self.table)
        _check_rows(self.rows)
        if self.name is not None:
            check_name("name", self.name)
        if not isinstance(self.where, Mapping) or not all(
            isinstance(text, str) for text in self.where.values()
        ):
            raise TypeError("where: expected columns and texts, such as {task = 'maths'}")

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or Path(self.table).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Rounds, from 0; `at` is the first of them, `until` the first after.

    Parameters
    ----------
    at : int
    until : int, optional
        By default the end.
    after : str, optional
        The table from whose first round they are counted; by default all rounds are.
    """

    at: int
    until: int | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        check_count("at", self.at)
        if self.until is not None and check_count("until", self.until) <= self.at:
            raise ValueError(f"until: expected more than at={self.at}, got {self.until}")
        if self.after is not None:
            check_name("after", self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(When):
    """A model's price is multiplied by `factor`; everybody is told at once."""

    model: str
    factor: float

    def __post_init__(self) -> None:
        When.__post_init__(self)
        check_name("model", self.model)
        if check_amount("factor", self.factor) == 0.0:
            raise ValueError("factor: expected more than 0, got 0")

    @property
    def called(self) -> str:
        """What happens, in words."""
        return f"price of {self.model} x{self.factor:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(When):
    """A model's quality is multiplied by `factor`, then moved by `offset`; or it is `set`. Nobody is told.

    What would leave [0, 1] stays at its end.
    """

    model: str
    factor: float | None = None
    offset: float | None = None
    set: float | None = None

    def __post_init__(self) -> None:
        When.__post_init__(self)
        check_name("model", self.model)
        if self.factor is not None:
            check_amount("factor", self.factor)
        if self.offset is not None:
            check_number("offset", self.offset)
        if self.set is not None:
            check_unit("set", self.set)
        moved = self.factor is not None or self.offset is not None
        if moved == (self.set is not None):
            raise ValueError("expected factor or offset or both, or else set")

    @property
    def called(self) -> str:
        """What happens, in words."""
        if self.set is not None:
            return f"quality of {self.model} {self.set:g}"
        factor = "" if self.factor is None else f" x{self.factor:g}"
        return f"quality of {self.model}{factor}" + ("" if self.offset is None else f" {self.offset:+g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(When):
    """A model can be asked from now on; if nothing else is said of it, it could not before."""

    model: str

    def __post_init__(self) -> None:
        _check_moment(self)

    @property
    def called(self) -> str:
        """What happens, in words."""
        return f"{self.model} comes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire(When):
    """A model cannot be asked any more, until it is added again."""

    model: str

    def __post_init__(self) -> None:
        _check_moment(self)

    @property
    def called(self) -> str:
        """What happens, in words."""
        return f"{self.model} goes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(When):
    """Nothing happens, but these rounds get a line of their own in the results."""

    name: str

    def __post_init__(self) -> None:
        When.__post_init__(self)
        check_name("name", self.name)

    @property
    def called(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """How feedback comes.

    Parameters
    ----------
    delay_rounds : int or (int, int)
        After how many rounds; two numbers are the least and the most of an even spread.
    drop : float
        The share of decisions whose feedback is lost.
    """

    delay_rounds: int | Sequence[int] = 0
    drop: float = 0.0

    def __post_init__(self) -> None:
        check_unit("drop", self.drop)
        low, high = self.delays
        if low > high:
            raise ValueError(f"delay_rounds: expected the least first, got {[low, high]}")

    @property
    def delays(self) -> tuple[int, int]:
        """The least and the most rounds."""
        both = _pair("delay_rounds", self.delay_rounds)
        return check_count("delay_rounds", both[0]), check_count("delay_rounds", both[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Somebody who says something about a share of the answers.

    Parameters
    ----------
    name : str
        A built-in kind of feedback that has a value: ``thumb``, ``rating`` or ``judge``. A thumb is up with the
        probability that the quality is; the others say the quality, with noise.
    share : float or (float, float)
        How often something is said; two numbers are of an answer of quality 0 and one of quality 1, and in
        between on the line between them, so that what is missing is not missing at random.
    noise : float
        The standard deviation of what is said.
    bias : float
        How much is added to the quality.
    """

    name: str
    share: float | Sequence[float] = 1.0
    noise: float = 0.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in METRICS or METRICS[self.name].kind == "text":
            known = ", ".join(name for name, metric in METRICS.items() if metric.kind != "text")
            raise ValueError(f"name: expected one of {known}, got {self.name!r}")
        for share in self.shares:
            check_unit("share", share)
        check_amount("noise", self.noise)
        check_number("bias", self.bias)

    @property
    def shares(self) -> tuple[float, float]:
        """How often something is said of quality 0, and of quality 1."""
        return _pair("share", self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens, in which round.

    Parameters
    ----------
    name : str
    path : Path, optional
        The file that it was read from.
    rows : int, optional
        At most so many rounds of the first table.
    pool : str or sequence of str, optional
        Models of the first table, as ``--pool``, which wins.
    models : {"shared", "all"}
        Whether only those models take part that every table has; or all, each where its table has it.
    then, price, quality, add, retire, mark : tuple
        What follows and happens.
    feedback : Coming
    signal : tuple of Signal
        Who says something; without any, the quality of every answer is told as it is.

    Raises
    ------
    TypeError, ValueError
        A value of the wrong type or out of range.
    """

    name: str
    path: Path | None = None
    rows: int | None = None
    pool: str | Sequence[str] | None = None
    models: Kept = "shared"
    then: tuple[Then, ...] = ()
    price: tuple[Price, ...] = ()
    quality: tuple[Quality, ...] = ()
    add: tuple[Add, ...] = ()
    retire: tuple[Retire, ...] = ()
    mark: tuple[Mark, ...] = ()
    feedback: Coming = field(default_factory=Coming)
    signal: tuple[Signal, ...] = ()

    def __post_init__(self) -> None:
        check_name("name", self.name)
        _check_rows(self.rows)
        if self.models not in ("shared", "all"):
            raise ValueError(f'models: expected "shared" or "all", got {self.models!r}')
        if self.pool is not None and not isinstance(self.pool, str):
            for model in _listed("pool", self.pool):
                check_name("pool", model)
        names = [signal.name for signal in self.signal]
        if len(set(names)) < len(names):
            raise ValueError(f"signal: expected each name once, got {', '.join(names)}")

    @property
    def events(self) -> tuple[Price | Quality | Add | Retire, ...]:
        """What changes the world, in the order in which it is applied."""
        return (*self.price, *self.quality, *self.add, *self.retire)


def read_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a TOML file.

    Raises
    ------
    SettingsError
        It is missing or malformed, a key is unknown, a value of the wrong type or out of range.
    """
    path = Path(path)
    try:
        entries = tomllib.loads(path.read_text("utf-8"))
        return scenario_from(entries, path=path)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"{path}: {error}") from error


def scenario_from(entries: Mapping[str, Any], *, path: Path | None = None) -> Scenario:  # Any: TOML
    """Return the scenario that the entries of a TOML file say.

    Raises
    ------
    TypeError, ValueError
        A key is unknown, a value of the wrong type or out of range.

    Examples
    --------
    >>> scenario_from({"price": [{"at": 500, "model": "large", "factor": 0.1}]}).price[0].called
    'price of large x0.1'
    """
    known = {"name": path.stem if path else "scenario"} | dict(entries)
    made: dict[str, Any] = {name: value for name, value in known.items() if name not in _KINDS}
    for name, kind in _KINDS.items():
        if name in known:
            made[name] = _many(name, kind, known[name])
    if "feedback" in known:
        made["feedback"] = _one("feedback", Coming, known["feedback"])
    if "path" in entries:
        raise ValueError("no key 'path' at the top")
    return _made("at the top", Scenario, made | {"path": path})


_KINDS: Mapping[str, type[Any]] = {  # Any: each its own entries
    "then": Then,
    "price": Price,
    "quality": Quality,
    "add": Add,
    "retire": Retire,
    "mark": Mark,
    "signal": Signal,
}


def _many(name: str, kind: Callable[..., Entry], entries: object) -> tuple[Entry, ...]:
    if not isinstance(entries, list):
        raise TypeError(f"{name}: expected [[{name}]], got {type(entries).__name__}")
    return tuple(_one(f"{name} {i}", kind, entry) for i, entry in enumerate(entries, start=1))


def _one(where: str, kind: Callable[..., Entry], entry: object) -> Entry:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where}: expected keys and values, got {type(entry).__name__}")
    try:
        return _made("there", kind, entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _made(where: str, kind: Callable[..., Entry], entry: Mapping[str, Any]) -> Entry:  # Any: TOML
    wanted = {f.name: f for f in fields(kind)}  # type: ignore[arg-type] # every kind is a dataclass
    for key in entry:
        if key not in wanted:
            known = ", ".join(name for name in wanted if name != "path")
            raise ValueError(f"no key {key!r:.80} {where}; there are {known}")
    for name, f in wanted.items():
        if name not in entry and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"expected a key {name!r}")
    return kind(**entry)


def _check_rows(rows: object) -> None:
    if rows is not None and check_count("rows", rows) < 1:
        raise ValueError(f"rows: expected at least 1, got {rows}")


def _check_moment(event: Add | Retire) -> None:
    When.__post_init__(event)
    check_name("model", event.model)
    if event.until is not None:
        raise ValueError("until: expected none: say [[add]] and [[retire]], each where it happens")


def _listed(what: str, value: object) -> Sequence[Any]:  # Any: checked by the caller
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{what}: expected a list, got {type(value).__name__}")
    return value


def _pair(what: str, value: Any) -> tuple[Any, Any]:  # Any: checked by the caller
    if not isinstance(value, list | tuple):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{what}: expected a number or two, got {len(value)}")
    return value[0], value[1]
