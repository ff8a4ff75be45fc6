"""Who may call the service, and the secrets that sign feedback tokens. Of a key only its hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bandit_router.errors import SettingsError
from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.rows import Row, from_us, to_us
from bandit_router.values import check_amount, check_name

PREFIX = "br_"
SCOPES = ("route", "feedback", "admin", "judge")
FEEDBACK_INFLUENCE = 1_000.0  # full observations, of a key that may do nothing but speak
BACKEND_INFLUENCE = 5_000.0  # of one that decides too: of names that its decisions did not name
_KEY_BYTES = 32
_k, _s = t.keys.c, t.secrets.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as the log has it.

    Attributes
    ----------
    hash : str
        SHA-256 of the key, as 64 hexadecimal digits.
    scopes : frozenset of str
        What its holder may do.
    created, expires, revoked : float, optional
        Since when it is there, and when it ends or ended [s since 1970].
    influence : float, optional
        How much all words through it count at a time [full observations]; None is any amount.
    """

    id: str
    name: str
    hash: str
    scopes: frozenset[str]
    created: float
    expires: float | None = None
    revoked: float | None = None
    influence: float | None = None

    def valid(self, now: float) -> bool:
        """Whether it opens anything at a moment [s since 1970]."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def new_key() -> str:
    """Return a key that nobody can guess."""
    return PREFIX + randomness.token_urlsafe(_KEY_BYTES)


def hash_key(key: str) -> str:
    """Return what is kept of a key: it was drawn at random, so that a plain hash does not give it away."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_key(keys: Sequence[Key], key: str) -> Key | None:
    """Return which of these a key is, in a time that does not tell how much of it was right."""
    hashed = hash_key(key)
    found = [known for known in keys if hmac.compare_digest(known.hash, hashed)]  # all, not the first
    return found[0] if found and key.startswith(PREFIX) else None


def usual_influence(scopes: Collection[str]) -> float | None:
    """Return how much a new key counts; None is any amount.

    Of a key that decides too, only the words of those count against it whom its decisions did not name.

    Examples
    --------
    >>> usual_influence(["feedback"]), usual_influence(["feedback", "route"]), usual_influence(["admin"])
    (1000.0, 5000.0, None)
    """
    if not {"admin", "judge"}.isdisjoint(scopes):
        return None
    return BACKEND_INFLUENCE if "route" in scopes else FEEDBACK_INFLUENCE


def add_key(
    connection: sa.Connection,
    key: str,
    *,
    name: str,
    scopes: Collection[str],
    now: float,
    expires: float | None = None,
    influence: float | None = None,
) -> Key:
    """Keep the hash of a key.

    Raises
    ------
    SettingsError
        A scope that there is not.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise SettingsError(
            f"scope: expected some of {', '.join(SCOPES)}, got {', '.join(unknown) or 'none'}"
        )
    row = {
        "id": new_id(now),
        "name": check_name("name", name),
        "hash": hash_key(key),
        "scopes": " ".join(sorted(set(scopes))),
        "created_us": to_us(now),
        "expires_us": None if expires is None else to_us(expires),
        "revoked_us": None,
        "influence": None if influence is None else check_amount("influence", influence),
    }
    connection.execute(sa.insert(t.keys), row)
    return _key_of(row)


def rotate_key(
    connection: sa.Connection,
    key_id: str,
    key: str,
    *,
    now: float,
    overlap_s: float,
    expires: float | None = None,
) -> Key | None:
    """Keep the hash of a successor that may what a key may; the old one ends after the overlap [s].

    Parameters
    ----------
    expires : float, optional
        When the successor ends [s since 1970]; by default it lives as long as the old one was made for.

    Returns
    -------
    Key or None
        The successor; None where there is no such key that opens anything.
    """
    mine = sa.select(t.keys).where(_k.id == key_id).with_for_update()
    row = connection.execute(mine).mappings().first()
    old = None if row is None else _key_of(row)
    if old is None or not old.valid(now):
        return None
    if expires is None and old.expires is not None:
        expires = now + old.expires - old.created
    ends = now + overlap_s if old.expires is None else min(now + overlap_s, old.expires)
    connection.execute(sa.update(t.keys).where(_k.id == key_id).values(expires_us=to_us(ends)))
    return add_key(
        connection,
        key,
        name=old.name,
        scopes=old.scopes,
        now=now,
        expires=expires,
        influence=old.influence,
    )


def read_keys(connection: sa.Connection) -> tuple[Key, ...]:
    """Return all keys, revoked and expired ones too, the oldest first."""
    rows = connection.execute(sa.select(t.keys).order_by(_k.created_us, _k.id)).mappings()
    return tuple(_key_of(row) for row in rows)


def revoke_key(connection: sa.Connection, key_id: str, now: float) -> bool:
    """Make a key open nothing any more; return whether it did before."""
    mine = (_k.id == key_id, _k.revoked_us.is_(None))
    revoked = connection.execute(sa.update(t.keys).where(*mine).values(revoked_us=to_us(now)))
    return revoked.rowcount > 0


def ensure_secret(connection: sa.Connection, now: float) -> None:
    """Make the first secret. Two workers may both make one: then either verifies what the other signs."""
    if not read_secrets(connection, now):
        _add_secret(connection, now)


def rotate_secret(connection: sa.Connection, now: float, *, overlap_s: float) -> None:
    """Make a secret that signs from now on; the others verify for so long [s], or until they end anyway."""
    ends = to_us(now + overlap_s)
    longer = _s.retired_us.is_(None) | (_s.retired_us > ends)
    connection.execute(sa.update(t.secrets).where(longer).values(retired_us=ends))
    _add_secret(connection, now)


def read_secrets(connection: sa.Connection, now: float) -> tuple[bytes, ...]:
    """Return the secrets that verify at a moment [s since 1970], the newest first: that one signs."""
    newest_first = sa.select(_s.secret).where(_s.retired_us.is_(None) | (_s.retired_us > to_us(now)))
    rows = connection.execute(newest_first.order_by(_s.created_us.desc(), _s.id.desc()))
    return tuple(bytes(secret) for secret in rows.scalars())


def _add_secret(connection: sa.Connection, now: float) -> None:
    row = {"id": new_id(now), "secret": randomness.token_bytes(_KEY_BYTES), "created_us": to_us(now)}
    connection.execute(sa.insert(t.secrets), row)


def _key_of(row: Row) -> Key:
    expires, revoked = row["expires_us"], row["revoked_us"]
    return Key(
        id=row["id"],
        name=row["name"],
        hash=row["hash"],
        scopes=frozenset(row["scopes"].split()),
        created=from_us(row["created_us"]),
        expires=None if expires is None else from_us(expires),
        revoked=None if revoked is None else from_us(revoked),
        influence=row["influence"],
    )
