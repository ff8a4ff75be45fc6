"""How Alembic reaches the log: through the connection that the program hands it."""

from __future__ import annotations

from alembic import context

from bandit_router.log.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with: bandit-router migrate --log URL")
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
