"""Servers for tests: a Redis Cluster, and databases of one PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from simulations.chaos.servers import (
    HOST,
    START_TIMEOUT_S,
    NotStartedError,
    PostgresServer,
    RedisServer,
    start_new,
)


class RedisCluster:
    """Three Redis servers that share the slots of one cluster."""

    def __init__(self) -> None:
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Where its first node answers; that one names the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start the nodes and make them one cluster."""
        for epoch in (1, 2, 3):
            node = start_new(RedisServer, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
            self.nodes.append(node)
            slots = range((epoch - 1) * 16384 // 3, epoch * 16384 // 3)
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
                for other in self.nodes[:-1]:
                    client.execute_command("CLUSTER", "MEET", HOST, other.port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(map(_is_whole, self.nodes)):
            if time.monotonic() > deadline:
                raise NotStartedError("the nodes of the cluster do not find each other")
            time.sleep(0.02)

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def remove(self) -> None:
        """Stop the nodes and forget their data."""
        for node in self.nodes:
            node.remove()


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        told = client.execute_command("CLUSTER INFO")
    return (told["cluster_state"], told["cluster_slots_ok"], told["cluster_size"]) == (
        "ok",
        "16384",
        "3",
    )


SCHEMA = """
SELECT relname, relkind::text, attname, atttypid, attnotnull, pg_get_indexdef(relation.oid)
FROM pg_class AS relation LEFT JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0
WHERE relnamespace = 'public'::regnamespace ORDER BY relname, attnum
"""
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
GONE = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{}'"


class Lent:
    """Databases with the same tables: emptied and lent again, as making one takes longer than most tests.

    Parameters
    ----------
    server : PostgresServer
    template : str
        The database that they are like.
    """

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server, self._template = server, template
        self._there = False  # a database named "free"
        with self._connection(template) as connection:
            self._schema = connection.execute(SCHEMA).fetchall()
            self._rows = _rows(connection)

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Lend one under a new name; whoever is still connected at the end is thrown out."""
        if self._there:
            self._server.execute(f"ALTER DATABASE free RENAME TO {name}")
        else:
            self._server.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        self._there = False
        yield self._server.url_of(name)
        self._server.start()  # where a test has ended it
        for statement in (
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
            GONE.format(name),
            f"ALTER DATABASE {name} RENAME TO free",
            "ALTER DATABASE free ALLOW_CONNECTIONS true",
            "ALTER DATABASE free RESET ALL",
        ):
            self._server.execute(statement)
        self._there = self._emptied()
        if not self._there:
            self._server.execute("DROP DATABASE free WITH (FORCE)")

    def _emptied(self) -> bool:
        """Make "free" as it was; False where its tables are others now."""
        with self._connection("free") as connection:
            if connection.execute(SCHEMA).fetchall() != self._schema:
                return False
            filled = [sql.Identifier(table) for table in _rows(connection).keys() - self._rows.keys()]
            if filled:  # truncated, so that no statistics of theirs stay behind
                connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(filled)))
            connection.execute("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")
            return _rows(connection) == self._rows

    def _connection(self, name: str) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST, port=self._server.port, user="postgres", dbname=name, autocommit=True
        )


def _rows(connection: psycopg.Connection) -> dict[str, list[tuple[object, ...]]]:
    """The first rows of all tables that have any."""
    found = {}
    for (table,) in connection.execute(TABLES).fetchall():
        some = sql.SQL("SELECT * FROM {} LIMIT 5").format(sql.Identifier(table))
        if rows := connection.execute(some).fetchall():
            found[table] = rows
    return found
