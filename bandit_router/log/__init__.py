"""The event log: the truth, in SQL. Everything that happened, and what was made of it, revision by revision."""

from bandit_router.log.eventlog import EventLog
from bandit_router.log.writer import Writer

__all__ = ["EventLog", "Writer"]
