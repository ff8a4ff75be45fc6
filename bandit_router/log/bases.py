"""Bases: what decisions that left the log have taught, kept for ever as sums.

Each archive has one base for each of its routers, so that a user's evidence leaves one of them and a reset
model leaves those from before. ``fold(log)`` is all bases and the fold of what the log still has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from bandit_router.drift import Marks, earlier, factor_of, later
from bandit_router.errors import ArchiveError, FormatError
from bandit_router.evidence import Evidence, evidence_from_bytes, evidence_to_bytes
from bandit_router.log import tables as t
from bandit_router.log.lens import Lens
from bandit_router.log.rows import Row
from bandit_router.predictions import Predictions

_b = t.bases.c


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """What one archive has taught one router.

    Attributes
    ----------
    archive : str
        Its id.
    features_version, half_life_s, born, drifts
        The lens through which it was folded. Changes of a model after all its decisions are not in the sums:
        `under` multiplies these by them.
    plain : bool
        Only each model's plain mean is left: every decision counts with the constant feature alone.
    before : float
        All its decisions were made before this moment [s since 1970].
    decisions, rewards, skipped : int
        How many decisions, and rewards that count; and that do not, for their features are of another version.
    since : float
        Of when the budget was [s since 1970].
    requests : int
        Decisions since then.
    paid_usd : float
        What they cost [USD].
    changed : mapping of str to int
        When the last reward row of each model was made [us since 1970].
    """

    archive: str
    router: str
    features_version: str
    half_life_s: float | None
    evidence: Mapping[str, Evidence]
    predictions: Predictions
    before: float
    born: Mapping[str, float] = field(default_factory=dict)
    drifts: Mapping[str, Marks] = field(default_factory=dict)
    plain: bool = False
    decisions: int = 0
    rewards: int = 0
    skipped: int = 0
    since: float = 0.0
    requests: int = 0
    paid_usd: float = 0.0
    changed: Mapping[str, int] = field(default_factory=dict)

    def under(self, lens: Lens) -> dict[str, Evidence]:
        """Return the evidence as another lens would have made it of the same decisions.

        Raises
        ------
        ArchiveError
            That needs the decisions themselves.
        """
        if not self.fits(lens):
            made = f"features {self.features_version}, a half-life of {self.half_life_s} s"
            raise ArchiveError(
                f"router {self.router!r}: the {self.decisions} decisions of archive {self.archive} were folded "
                f"with {made}; other beliefs need its files: run a rebuild where they are"
            )
        return {
            model: self._since_then(model, sums, lens)
            for model, sums in self.evidence.items()
            if self._born_then(model, lens)
        }

    def _since_then(self, model: str, sums: Evidence, lens: Lens) -> Evidence:
        """Every decision lies before the changes that came after the last of them."""
        left = sums.copy()
        left.scale(factor_of(later(lens.drifts.get(model, ()), self.before)))
        return left

    def fits(self, lens: Lens) -> bool:
        """Whether its sums are those of a lens, once models that were reset since are left out."""
        same = (self.features_version, self.half_life_s) == (lens.features_version, lens.half_life_s)
        return same and all(
            (self._born_then(model, lens) and self._drifted_then(model, lens))
            or lens.born.get(model, 0.0) >= self.before
            for model in self.evidence
        )

    def _drifted_then(self, model: str, lens: Lens) -> bool:
        known = self.drifts.get(model, ())
        return tuple(known) == earlier(lens.drifts.get(model, ()), self.before)

    def _born_then(self, model: str, lens: Lens) -> bool:
        return lens.born.get(model, 0.0) == self.born.get(model, 0.0)

    def as_plain(self, lens: Lens) -> Base:
        """Return what is left for other features, where the decisions are out of reach: plain means."""
        plain = {model: sums.plain(lens.dim) for model, sums in self.evidence.items()}
        return replace(
            self,
            features_version=lens.features_version,
            evidence=plain,
            predictions=self.predictions.plain(lens.dim),
            plain=True,
        )

    def to_row(self) -> dict[str, Any]:  # Any: a value of each column's own type
        """Return its row of ``bases``."""
        told = {name: getattr(self, name) for name in _TOLD}
        if self.drifts:  # a program that knows none goes on beside it
            told["drifts"] = dict(self.drifts)
        row = {
            "archive": self.archive,
            "router": self.router,
            "features_version": self.features_version,
            "half_life_s": self.half_life_s,
            "plain": self.plain,
            "told": json.dumps(told, sort_keys=True),
            "evidence": evidence_to_bytes(self.evidence),
            "predictions": self.predictions.to_bytes(),
        }
        return row | {"sha256": _sha256(row)}


_TOLD = ("before", "born", "decisions", "rewards", "skipped", "since", "requests", "paid_usd", "changed")


def _sha256(row: Row) -> str:
    hashed = hashlib.sha256()
    for name in ("archive", "router", "features_version", "half_life_s", "plain", "told"):
        hashed.update(f"{row[name]!r}\n".encode("utf-8", "surrogatepass"))
    for name in ("evidence", "predictions"):
        hashed.update(row[name])
    return hashed.hexdigest()


def read_bases(connection: sa.Connection, router: str) -> list[Base]:
    """Return all bases of a router, the oldest archive first.

    Raises
    ------
    ArchiveError
        One is damaged: nobody may go on as if it had never been.
    """
    mine = sa.select(t.bases).where(_b.router == router).order_by(_b.archive)
    return [_base_of(row) for row in connection.execute(mine).mappings()]


def _base_of(row: Row) -> Base:
    try:
        if _sha256(row) != row["sha256"]:
            raise FormatError("another checksum than was written")
        told = json.loads(row["told"])
        marks = told.pop("drifts", {})
        told["drifts"] = {model: tuple((at, f) for at, f in own) for model, own in marks.items()}
        return Base(
            archive=row["archive"],
            router=row["router"],
            features_version=row["features_version"],
            half_life_s=row["half_life_s"],
            plain=row["plain"],
            evidence=evidence_from_bytes(row["evidence"]),
            predictions=Predictions.from_bytes(row["predictions"]),
            **told,
        )
    except (FormatError, TypeError, ValueError) as error:
        where = f"router {row['router']!r}: what archive {row['archive']} has taught is damaged"
        raise ArchiveError(f"{where}: {error}; restore the log from a backup") from error


def write_base(connection: sa.Connection, base: Base) -> None:
    """Keep a base, in the place of the one that was there."""
    mine = (_b.archive == base.archive, _b.router == base.router)
    connection.execute(sa.delete(t.bases).where(*mine))
    connection.execute(sa.insert(t.bases), base.to_row())


def has_bases(connection: sa.Connection, router: str) -> bool:
    """Return whether decisions of a router were archived."""
    return (
        connection.execute(sa.select(_b.archive).where(_b.router == router).limit(1)).first() is not None
    )


def archived_spending(connection: sa.Connection, router: str, since: float) -> tuple[int, float]:
    """Return (requests, dollars) of archived decisions since the budget was set at that moment [s]."""
    texts = connection.execute(sa.select(_b.told).where(_b.router == router)).scalars()
    mine = [told for text in texts if (told := json.loads(text))["since"] == since]
    return sum(found["requests"] for found in mine), sum(found["paid_usd"] for found in mine)


def archived_changes(connection: sa.Connection, router: str) -> dict[str, int]:
    """Return when the archived reward rows of each model last changed [us since 1970]."""
    changed: dict[str, int] = {}
    for text in connection.execute(sa.select(_b.told).where(_b.router == router)).scalars():
        for model, made in json.loads(text)["changed"].items():
            changed[model] = max(made, changed.get(model, 0))
    return changed
