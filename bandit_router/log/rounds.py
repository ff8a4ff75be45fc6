"""A period of the log as columns: read in chunks of bounded memory, with next to no object per field.

What was said of every candidate is JSON. Where pyarrow is installed its CSV reader takes that apart, about ten
times as fast as Python's own reader; whatever could be misread there goes the slow way.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from bandit_router.events import id_floor
from bandit_router.log import tables as t
from bandit_router.log.rows import to_us
from bandit_router.values import Array

try:
    import pyarrow as pa
    from pyarrow import csv
except ImportError:  # pragma: no cover # the slow way does without
    pa = csv = None  # type: ignore[assignment] # asked for before each use

CHUNK = 2_048  # decisions; what is held in memory at a time, and in the caches of a processor
_COLUMNS = ("id", "at_us", "model", "probability", "reason", "features", "features_version")
_MORE = ("candidates", "head", "conversation")
NUMBERS = ("probability", "mean", "std", "cost_usd", "latency_s")
_NEXT = b'], ["'  # between two candidates; inside a name the quote would have a backslash
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """What was logged of m candidates of some decisions.

    Attributes
    ----------
    names : tuple of str
    code : ndarray of int, shape (m,)
        Which name each has.
    row : ndarray of int, shape (m,)
        Of which decision each is, counted within the chunk.
    numbers : ndarray of shape (m, 5)
        Probability, mean, std, cost [USD] and latency [s]; NaN where nothing was known.
    """

    names: tuple[str, ...]
    code: Ints
    row: Ints
    numbers: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some decisions that follow each other by id, and what came of them: one entry for each.

    Attributes
    ----------
    reward, cost_usd : ndarray of shape (n,)
        NaN where nothing was heard.
    served : sequence of (str or None)
        The model of the outcome that counts.
    """

    id: Sequence[str]
    at_us: Ints
    model: Sequence[str]
    probability: Array
    reason: Sequence[str]
    features: Sequence[bytes]
    features_version: Sequence[str]
    candidates: Candidates
    head: Sequence[str | None]
    conversation: Sequence[str | None]
    served: Sequence[str | None]
    cost_usd: Array
    reward: Array
    weight: Array

    def __len__(self) -> int:
        return len(self.id)


def count_rounds(
    connection: sa.Connection, router: str, *, since: float | None = None, until: float | None = None
) -> int:
    """Return how many decisions a router made in a period [s since 1970]."""
    count = sa.select(sa.func.count()).select_from(t.decisions)
    counted = connection.execute(_within(count.where(t.decisions.c.router == router), since, until))
    return int(counted.scalar_one())


def read_parts(
    connection: sa.Connection,
    router: str,
    *,
    since: float | None = None,
    until: float | None = None,
    chunk: int = CHUNK,
) -> Iterator[Part]:
    """Yield a router's decisions of a period by their ids, which is the order of time to the millisecond.

    Parameters
    ----------
    connection : Connection
    router : str
    since, until : float, optional
        The period [s since 1970].
    chunk : int
        At most so many decisions at a time.
    """
    c = t.decisions.c
    # Not by the index on routers: every chunk would then sort all that follows.
    own = sa.select(*(c[name] for name in (*_COLUMNS, *_MORE))).where(c.router + "" == router)
    page = _within(own, since, until).order_by(c.id).limit(chunk)
    last = ""
    while rows := connection.execute(page.where(c.id > last)).fetchall():
        last = rows[-1][0]
        yield _part(connection, rows)


def _within(statement: Any, since: float | None, until: float | None) -> Any:  # Any: any select
    c = t.decisions.c
    if since is not None:
        statement = statement.where(c.at_us >= to_us(since), c.id >= id_floor(since))
    if until is not None:
        # An id tells the millisecond: nothing after the period is looked at.
        statement = statement.where(c.at_us < to_us(until), c.id < id_floor(until + 0.001))
    return statement


def _part(connection: sa.Connection, rows: Sequence[Sequence[Any]]) -> Part:  # Any: columns
    of: dict[str, Any] = dict(zip((*_COLUMNS, *_MORE), zip(*rows, strict=True), strict=True))
    rewards = _newest(connection, t.rewards, ("value", "weight"), of["id"])
    outcomes = _newest(connection, t.outcomes, ("cost_usd", "model"), of["id"])
    of["candidates"] = parse_candidates(of["candidates"])
    of |= {name: np.array(of[name]) for name in ("at_us", "probability")}
    reward, weight = zip(*(rewards.get(i, (None, None)) for i in of["id"]), strict=True)
    cost, served = zip(*(outcomes.get(i, (None, None)) for i in of["id"]), strict=True)
    weights = np.nan_to_num(np.array(weight, dtype=np.float64))
    return Part(reward=_floats(reward), weight=weights, cost_usd=_floats(cost), served=served, **of)


def _floats(values: Sequence[float | None]) -> Array:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _newest(
    connection: sa.Connection, table: sa.Table, names: Sequence[str], ids: Sequence[str]
) -> dict[str, tuple[Any, Any]]:  # Any: columns
    """Two columns of each decision's last revision, where it has one."""
    c = table.c
    statement = (
        sa.select(c.decision_id, *(c[name] for name in names))
        .where(c.decision_id >= ids[0], c.decision_id <= ids[-1])
        .order_by(c.decision_id, c.revision)
    )
    return {one: (first, second) for one, first, second in connection.execute(statement).fetchall()}


def parse_candidates(texts: Sequence[str]) -> Candidates:
    """Return what many decisions' ``candidates`` say.

    Examples
    --------
    >>> found = parse_candidates(['[["a", 0.25, 0.5, 0.1, null, null], ["b", 0.75, 0.6, 0.1, 0.01, 2.0]]'])
    >>> found.names, found.code.tolist(), found.numbers[:, 0].tolist()
    (('a', 'b'), [0, 1], [0.25, 0.75])
    """
    bodies = [text[2:-2].encode() for text in texts]
    counts = [body.count(_NEXT) + 1 if body else 0 for body in bodies]
    row = np.repeat(np.arange(len(texts)), counts)
    joined = b"], [".join([body for body in bodies if body])
    if csv is None or b"\\" in joined or not joined:
        return _parse_slowly(texts)
    return _parse_fast(joined.replace(_NEXT, b'\n"'), row)


def _parse_fast(text: bytes, row: Ints) -> Candidates:
    types = dict.fromkeys(NUMBERS, pa.float64()) | {"name": pa.dictionary(pa.int32(), pa.string())}
    table = csv.read_csv(
        io.BytesIO(text),
        read_options=csv.ReadOptions(
            column_names=["name", *NUMBERS], block_size=len(text) + 1, use_threads=False
        ),
        convert_options=csv.ConvertOptions(column_types=types, null_values=["null", " null"]),
    ).combine_chunks()
    names: Any = table["name"].combine_chunks()  # Any: its types do not know of dictionaries
    names = names.chunk(0) if isinstance(names, pa.ChunkedArray) else names
    numbers = [table[name].to_numpy() for name in NUMBERS]
    code = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Candidates(
        names=tuple(names.dictionary.to_pylist()), code=code, row=row, numbers=np.stack(numbers, axis=1)
    )


def _parse_slowly(texts: Sequence[str]) -> Candidates:
    read = [json.loads(text) for text in texts]
    flat = [one for some in read for one in some]
    names: dict[str, int] = {}
    code = [names.setdefault(one[0], len(names)) for one in flat]
    numbers = np.array([one[1:] for one in flat], dtype=np.float64).reshape(-1, len(NUMBERS))
    row = np.repeat(np.arange(len(texts)), [len(some) for some in read])
    return Candidates(names=tuple(names), code=np.array(code, dtype=np.int64), row=row, numbers=numbers)
