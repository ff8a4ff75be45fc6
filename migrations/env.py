"""How Alembic reaches the log: through the connection that the program hands it.

Each migration names the oldest schema whose programs still work on what it makes (``oldest``); one that does
not fits only programs of its own. The log keeps the newest one's, for programs that are older than the log.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context
from alembic.script import ScriptDirectory

from bandit_router.log.tables import compatibility, metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with: bandit-router migrate --log URL")


def _tell_oldest(connection: sa.Connection, head: str | None) -> None:
    if head is None or not sa.inspect(connection).has_table(compatibility.name):
        return
    module = ScriptDirectory.from_config(context.config).get_revision(head).module
    connection.execute(sa.delete(compatibility))
    connection.execute(sa.insert(compatibility), {"oldest": getattr(module, "oldest", head)})


context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
    _tell_oldest(connection, context.get_context().get_current_revision())
