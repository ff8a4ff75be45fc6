"""Priors: what was known of a router's models before it heard of any answer, from an evaluation or battles.

It is kept apart from what the log itself teaches. `Beliefs` choose how much of it counts: all of it, until
what is seen contradicts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from bandit_router.errors import FormatError, LogUnavailableError
from bandit_router.evidence import Evidence, evidence_from_bytes, evidence_to_bytes
from bandit_router.log import tables as t
from bandit_router.log.lens import Lens
from bandit_router.log.registration import begin_generation, hold
from bandit_router.log.rows import from_us, to_us

_p = t.priors.c


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What was known before.

    Attributes
    ----------
    evidence : mapping of str to Evidence
        The sums of each model, without a half-life: such evidence does not fade, it is outweighed.
    features_version : str
        Of the features that they were made with.
    origin : str
        Where it comes from.
    at : float
        When it was told [s since 1970].
    """

    evidence: Mapping[str, Evidence]
    features_version: str
    origin: str
    at: float

    def under(self, lens: Lens) -> dict[str, Evidence]:
        """Return the sums as a router sees them; with other features only each model's mean is left."""
        if self.features_version == lens.features_version:
            return dict(self.evidence)
        return {model: sums.plain(lens.dim) for model, sums in self.evidence.items()}


def write_prior(connection: sa.Connection, router: str, known: Known) -> None:
    """Keep what is known, in place of what was told before; every worker takes it up."""
    hold(connection, router)
    connection.execute(sa.delete(t.priors).where(_p.router == router))
    row = {
        "router": router,
        "at_us": to_us(known.at),
        "origin": known.origin,
        "features_version": known.features_version,
        "evidence": evidence_to_bytes(known.evidence),
    }
    connection.execute(sa.insert(t.priors), row)
    begin_generation(connection, router)


def drop_prior(connection: sa.Connection, router: str) -> bool:
    """Forget what was known before; return whether there was anything."""
    hold(connection, router)
    found = connection.execute(sa.delete(t.priors).where(_p.router == router)).rowcount > 0
    if found:
        begin_generation(connection, router)
    return found


def read_prior(connection: sa.Connection, router: str) -> Known | None:
    """Return what is known before, or None.

    Raises
    ------
    LogUnavailableError
        It is damaged, or of a newer program.
    """
    row = connection.execute(sa.select(t.priors).where(_p.router == router)).first()
    if row is None:
        return None
    try:
        evidence = evidence_from_bytes(row.evidence)
    except FormatError as error:
        raise LogUnavailableError(f"log: the prior of router {router!r}: {error}") from error
    return Known(
        evidence=evidence,
        features_version=row.features_version,
        origin=row.origin,
        at=from_us(row.at_us),
    )
