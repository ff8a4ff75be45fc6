"""The tables of the log. Every change here is a migration too (``migrations/versions``).

Moments are whole microseconds since 1970, UTC; arrays are lossless little-endian float64; ``seq`` orders
what followers read. Text of prompts and answers lives apart, so that it can expire while evidence stays.

On PostgreSQL the tables that grow with traffic are partitioned by the id of the decision, which is a moment
too (``partitions``). There every unique constraint holds the decision's id, so that ``seq`` is unique only
because one sequence counts for all partitions.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)

HEAD = "0007"  # the newest migration, which this program reads and writes

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_ID = String(36)
# Decisions' ids sort by time only byte by byte, which is not how every database sorts text.
_DECISION = String(36).with_variant(String(36, collation="C"), "postgresql")
_NAME = String(255)
_SEQ = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only an INTEGER by itself

routers = Table(
    "routers",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),  # grows with every change of models or settings
    Column("generation", Integer, nullable=False),  # grows when beliefs must be folded again
)

models = Table(
    "models",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("retired", Boolean, nullable=False),
    Column("born_us", BigInteger, nullable=False),  # decisions before it no longer count as evidence
)

settings = Table(
    "settings",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

# The oldest schema whose programs still work on this one: written by migrations, read by older programs.
compatibility = Table(
    "compatibility",
    metadata,
    Column("oldest", String(32), primary_key=True),
)

extractors = Table(
    "extractors",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("artefact", LargeBinary, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _DECISION, primary_key=True),
    Column("router", _NAME, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("model", _NAME, nullable=False),
    Column("probability", Float(53), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("policy", _NAME, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("features_version", String(64), nullable=False),
    Column("candidates", Text, nullable=False),
    Column("input_tokens", Float(53), nullable=False),  # as guessed from the prompt
    Column("predicted_usd", Float(53)),  # what the model drawn was expected to cost
    Column("cost_unit_usd", Float(53)),
    Column("user", _NAME),
    Column("conversation", _NAME),
    Column("head", _DECISION),  # the decision whose draw this turn of a conversation repeats
    Column("tags", Text),
    Column("key", _NAME),
    Column("body_hash", String(64)),
    Column("prompt_hash", String(64)),
    Index(None, "router", "at_us"),
    Index(None, "router", "user"),
    Index(None, "router", "conversation"),
    postgresql_partition_by="RANGE (id)",
)

# Which decision an idempotency key was used for: apart, for it is unique over all partitions.
decision_keys = Table(
    "decision_keys",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("decision_id", _DECISION, nullable=False),
    Column("body_hash", String(64), nullable=False),
    Index(None, "decision_id"),
)

texts = Table(
    "texts",
    metadata,
    Column("decision_id", _DECISION, primary_key=True),
    Column("router", _NAME, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("prompt", Text),
    Column("answer", Text),
    Index(None, "router", "at_us"),
    postgresql_partition_by="RANGE (decision_id)",
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("seq", _SEQ, autoincrement=True),
    Column("decision_id", _DECISION, nullable=False),
    Column("revision", Integer, nullable=False),  # the highest one counts
    Column("router", _NAME, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("model", _NAME, nullable=False),  # that served
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reported_usd", Float(53)),
    Column("cost_usd", Float(53)),  # as reported, else tokens times prices
    Column("latency_s", Float(53)),
    Column("ttft_s", Float(53)),
    Column("error", Text),
    PrimaryKeyConstraint("seq").ddl_if(dialect="sqlite"),
    UniqueConstraint("decision_id", "revision").ddl_if(dialect="sqlite"),
    Index(None, "router", "seq"),
    sqlite_autoincrement=True,
    postgresql_partition_by="RANGE (decision_id)",
)

feedback = Table(
    "feedback",
    metadata,
    Column("seq", _SEQ, autoincrement=True),
    Column("id", _ID, nullable=False),
    Column("decision_id", _DECISION, nullable=False),
    Column("router", _NAME, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("source", _NAME, nullable=False),
    Column("value", Text, nullable=False),  # JSON
    Column("comment", Text),
    Column("key", _NAME),
    Column("body_hash", String(64), nullable=False),
    Column("at_us", BigInteger, nullable=False),  # when it was said
    Column("received_us", BigInteger, nullable=False),
    Column("retracted_us", BigInteger),
    Column("share", Float(53)),  # how much of a full word it counts; null is all
    Column("channel", _NAME),  # the credential of bounded influence through which it came
    PrimaryKeyConstraint("seq").ddl_if(dialect="sqlite"),
    UniqueConstraint("id").ddl_if(dialect="sqlite"),
    Index(None, "id").ddl_if(dialect="postgresql"),
    UniqueConstraint("decision_id", "key"),
    Index(None, "router", "source"),
    sqlite_autoincrement=True,
    postgresql_partition_by="RANGE (decision_id)",
)

rewards = Table(
    "rewards",
    metadata,
    Column("seq", _SEQ, autoincrement=True),
    Column("decision_id", _DECISION, nullable=False),
    Column("revision", Integer, nullable=False),  # the highest one counts
    Column("router", _NAME, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("made_us", BigInteger, nullable=False),  # when this revision was made
    Column("model", _NAME, nullable=False),  # credited: the one that served
    Column("value", Float(53)),  # null where nothing is known any more
    Column("weight", Float(53), nullable=False),
    PrimaryKeyConstraint("seq").ddl_if(dialect="sqlite"),
    UniqueConstraint("decision_id", "revision").ddl_if(dialect="sqlite"),
    Index(None, "router", "seq"),
    sqlite_autoincrement=True,
    postgresql_partition_by="RANGE (decision_id)",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", _SEQ, primary_key=True, autoincrement=True),
    Column("router", _NAME, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("features_version", String(64), nullable=False),
    Column("half_life_s", Float(53)),
    Column("reward_seq", BigInteger, nullable=False),  # reward rows up to here are contained
    Column("outcome_seq", BigInteger, nullable=False),  # outcomes up to here are contained
    Column("beyond", Text),  # JSON: which later ones are contained too; sequences do not commit in order
    Column("evidence", LargeBinary, nullable=False),
    Column("predictions", LargeBinary, nullable=False),
    Index(None, "router", "id"),
    sqlite_autoincrement=True,
)

# How much of a rater's allowance is used: a source of feedback, or a key through which many speak.
raters = Table(
    "raters",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("rater", _NAME, primary_key=True),
    Column(
        "used", Float(53), nullable=False
    ),  # in full observations, as of `at_us`; it comes back with time
    Column("at_us", BigInteger, nullable=False),
)

# Feedback about decisions that are too young to be visible yet: applied when they are.
pending = Table(
    "pending",
    metadata,
    Column("id", _ID, primary_key=True),  # the feedback's, from the first answer on
    Column("router", _NAME, nullable=False),
    Column("decision_id", _DECISION, nullable=False),
    Column("body", Text, nullable=False),  # JSON: the word as it was said
    Column("source", _NAME),
    Column("key", _NAME),
    Column("body_hash", String(64), nullable=False),
    Column("received_us", BigInteger, nullable=False),
    UniqueConstraint("decision_id", "key"),
    Index(None, "router", "received_us"),
)

# Who may call the service. Of a key only its hash is kept.
keys = Table(
    "keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", _NAME, nullable=False),  # separated by spaces
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
    Column("influence", Float(53)),  # how much all words through it count at a time; null is any amount
    UniqueConstraint("hash"),
)

# What feedback tokens are signed with: the newest signs, the others still verify.
secrets = Table(
    "secrets",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("retired_us", BigInteger),
)

# Answers that wait for a judge.
judgements = Table(
    "judgements",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("router", _NAME, nullable=False),
    Column("decision_id", _DECISION, nullable=False),
    Column("judge", _NAME, nullable=False),  # the model that grades
    Column("probability", Float(53), nullable=False),  # with which this answer was sampled
    Column("state", String(16), nullable=False),  # waiting, graded, malformed, failed
    Column("attempts", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("due_us", BigInteger, nullable=False),  # not before; while claimed: when the claim ends
    Column("claimed_us", BigInteger),  # the last time; the day that its cost counts for
    Column("finished_us", BigInteger),
    Column("grade", Float(53)),  # in [0, 1]
    Column("cost_usd", Float(53)),  # of all attempts so far, and what is reserved for the one under way
    Column("error", Text),
    UniqueConstraint("decision_id", "judge"),
    Index(None, "state", "due_us"),
    Index(None, "judge", "claimed_us"),
)

# Ranges of decisions that left the log for files, and what those files are.
archives = Table(
    "archives",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("first", _DECISION, nullable=False),
    Column("before", _DECISION, nullable=False),  # not included
    Column("state", String(16), nullable=False),  # closing, archived
    Column("revision", Integer, nullable=False),  # grows when what is to be in it changes
    Column("folder", Text, nullable=False),
    Column("closed_us", BigInteger, nullable=False),  # since when nothing more can be said
    Column("archived_us", BigInteger),
    Column("files", Text, nullable=False),  # JSON
    Index(None, "state"),
)

# Which ids were archived, as sorted prints of 32 bits each.
archived = Table(
    "archived",
    metadata,
    Column("id", _SEQ, primary_key=True, autoincrement=True),
    Column("archive", _ID, nullable=False),
    Column("router", _NAME, nullable=False),
    Column("kind", String(16), nullable=False),  # decision, feedback
    Column("first", _DECISION, nullable=False),
    Column("last", _DECISION, nullable=False),
    Column("prints", LargeBinary, nullable=False),
    Index(None, "kind", "last"),
    Index(None, "archive"),
    sqlite_autoincrement=True,
)

# What the archived decisions of one range have taught a router.
bases = Table(
    "bases",
    metadata,
    Column("archive", _ID, primary_key=True),
    Column("router", _NAME, primary_key=True),
    Column("features_version", String(64), nullable=False),
    Column("half_life_s", Float(53)),
    Column("plain", Boolean, nullable=False),  # only each model's plain mean is left
    Column("told", Text, nullable=False),  # JSON: counts, what was spent, when it last changed
    Column("evidence", LargeBinary, nullable=False),
    Column("predictions", LargeBinary, nullable=False),
    Column("sha256", String(64), nullable=False),
    Index(None, "router"),
)

# What was known of a router's models before.
priors = Table(
    "priors",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("origin", _NAME, nullable=False),
    Column("features_version", String(64), nullable=False),
    Column("evidence", LargeBinary, nullable=False),
)

# That a model has changed: what was learnt from decisions before that moment counts less.
drifts = Table(
    "drifts",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("model", _NAME, primary_key=True),
    Column("at_us", BigInteger, primary_key=True),
    Column("factor", Float(53), nullable=False),
    Column("origin", String(16), nullable=False),  # host, surprise, unsettled
    Column("why", Text),
    Column("created_us", BigInteger, nullable=False),
)

# Who asked to be forgotten, as a hash, and which archives still hold something of theirs.
erasures = Table(
    "erasures",
    metadata,
    Column("router", _NAME, primary_key=True),
    Column("user_hash", String(64), primary_key=True),
    Column("asked_us", BigInteger, nullable=False),
    Column("done_us", BigInteger),
    Column("left", Text, nullable=False),  # JSON: ids of archives
    Column("counts", Text, nullable=False),  # JSON
)

# The tables that grow with traffic, and by what PostgreSQL partitions them. Its primary keys hold that column
# too, which SQLAlchemy cannot say beside SQLite's.
PARTITIONED = {decisions: "id"} | dict.fromkeys((texts, outcomes, feedback, rewards), "decision_id")
_KEYS = {
    outcomes: "decision_id, revision",
    feedback: "decision_id, id",
    rewards: "decision_id, revision",
}


def _complete(table: Table, connection: Connection, **_: object) -> None:
    if connection.dialect.name != "postgresql":
        return
    name = table.name
    connection.exec_driver_sql(f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT")
    if table in _KEYS:
        unique = f"CONSTRAINT pk_{name} PRIMARY KEY ({_KEYS[table]})"
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD {unique}")


for _table in PARTITIONED:
    event.listen(_table, "after_create", _complete)
