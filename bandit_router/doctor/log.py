"""The log: does it answer, with the right schema, partitions and time; and who may call the service."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from bandit_router.config import Config
from bandit_router.doctor.finding import Finding, ok, problem, warning
from bandit_router.doctor.reader import Reader
from bandit_router.errors import BanditRouterError
from bandit_router.log.engine import schema_fits
from bandit_router.log.keys import Key, read_keys, read_secrets
from bandit_router.log.partitions import database_time, read_partitions, read_size
from bandit_router.log.tables import HEAD
from bandit_router.values import utc
from feedback.standing import DAY_S, PARTITIONS_S, partitions_left, schema_said
from feedback.thresholds import Thresholds

EXPIRING_S = 14 * DAY_S
_SLOW_S = 0.5  # that a look at the schema should not take


def check_log(reader: Reader) -> Finding:
    """Whether the log answers, and how fast."""
    place = reader.engine.url.set(query={}).render_as_string(hide_password=True)
    began = time.monotonic()
    try:
        reader.read(lambda connection: connection.execute(sa.text("SELECT 1")))
    except BanditRouterError as error:
        return problem(
            "log", f"{place}: {str(error).removeprefix('log: ')}: start it, or correct its URL"
        )
    took_s = time.monotonic() - began
    if took_s > _SLOW_S:
        return warning(
            "log", f"{place} answers slowly, after {took_s:.1f} s: see its load and the network"
        )
    return ok("log", f"{place} answers")


def check_schema(reader: Reader) -> Finding:
    """Whether this program works on the log's schema."""
    unfit = schema_fits(reader.engine)
    said = schema_said(reader.engine)
    if unfit is not None:
        return problem("schema", unfit)
    return ok("schema", f"version {HEAD}") if said is None else warning("schema", said)


def check_partitions(reader: Reader, *, now: float) -> Iterator[Finding]:
    """Whether the weeks to come have their partitions."""
    left_s = reader.read(lambda connection: partitions_left(connection, now))
    if left_s is None:
        return
    days = max(left_s, 0.0) / DAY_S
    run = "workers make them as they start: run `bandit-router migrate` as the owner of the tables"
    if left_s <= DAY_S:
        yield problem("partitions", f"they reach {days:.1f} days ahead: {run}")
    elif left_s <= PARTITIONS_S:
        yield warning("partitions", f"they reach {days:.1f} days ahead: {run}")
    else:
        yield ok("partitions", f"they reach {days:.0f} days ahead")
    rows = reader.read(_in_default)
    if rows:
        yield warning(
            "partitions",
            f"about {rows:,} rows are in default partitions, which cannot be dropped: {run}",
        )


def _in_default(connection: sa.Connection) -> int:
    rest = [part for part in read_partitions(connection) if part.rest]
    return sum(read_size(connection, part)[0] for part in rest)


def check_clock(
    reader: Reader, thresholds: Thresholds, *, clock: Callable[[], float]
) -> Iterator[Finding]:
    """How far this machine's clock is from the database's."""
    if reader.engine.dialect.name == "postgresql":
        before = clock()
        told = reader.read(database_time)
        yield skewed("PostgreSQL", (before + clock()) / 2 - told, thresholds)


def skewed(server: str, skew_s: float, thresholds: Thresholds) -> Finding:
    """Say how far this machine's clock is ahead of a server's [s]."""
    said = f"this machine is {abs(skew_s):.3f} s {'ahead of' if skew_s > 0 else 'behind'} {server}"
    if abs(skew_s) > thresholds.skew_s:
        return problem("clock", f"{said}: keep all machines in time (NTP)")
    return ok("clock", said)


def check_keys(reader: Reader, config: Config, *, now: float) -> Iterator[Finding]:
    """Whether those who shall call can, and nobody else."""
    keys = reader.read(read_keys)
    valid = [key for key in keys if key.valid(now)]
    if not valid and not is_loopback(config.service.host):
        yield problem(
            "keys",
            f"there is none, and the service listens on {config.service.host}: every call is refused; "
            "make one by `bandit-router keys create`",
        )
    elif not keys:
        yield ok("keys", "there is none: callers on this machine may do everything")
    else:
        yield ok("keys", f"{len(valid)} of {len(keys)} are valid")
    for key in valid:
        yield from _expiring(key, now)
    if not reader.read(lambda connection: read_secrets(connection, now)):
        yield ok("secrets", "none signs feedback tokens yet: the service makes one as it starts")


def _expiring(key: Key, now: float) -> Iterator[Finding]:
    if key.expires is not None and key.expires - now < EXPIRING_S:
        when = utc(key.expires).isoformat(timespec="minutes")
        yield warning(
            "keys", f"{key.name!r} ({key.id}) ends at {when}: `bandit-router keys rotate {key.id}`"
        )
    if "admin" in key.scopes and key.expires is None:
        yield warning(
            "keys",
            f"{key.name!r} ({key.id}) may do everything and never ends: give it an end, "
            "or keep it where the service cannot be reached from outside",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
