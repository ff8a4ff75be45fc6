"""Forgetting: a user's rows are erased and unlearned; texts expire while evidence stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from bandit_router.errors import StaleGenerationError
from bandit_router.log import tables as t
from bandit_router.log.archiving import start_over
from bandit_router.log.checkpoints import drop_checkpoints, subtract_from_checkpoints
from bandit_router.log.forgotten import note_erasure
from bandit_router.log.hearing import DECISIONS, rater_of, revise
from bandit_router.log.lens import Lens
from bandit_router.log.pending import forget_pending
from bandit_router.log.registration import begin_generation, hold, versions
from bandit_router.log.rows import to_us
from bandit_router.rewards import Metric

_CHUNK = 500  # ids in one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How much of a user was erased.

    Attributes
    ----------
    archives_pending : int
        Archives whose files were out of reach: they are looked through by the next retention run that sees
        them, and until then they, and what they have taught, may still hold something of the user.
    """

    decisions: int = 0
    outcomes: int = 0
    feedback: int = 0
    rewards: int = 0
    texts: int = 0
    archives_pending: int = 0

    def __add__(self, other: Forgotten) -> Forgotten:
        mine, others = asdict(self), asdict(other)
        return Forgotten(**{name: mine[name] + others[name] for name in mine})


def forget_user(
    connection: sa.Connection,
    lens: Lens,
    user: str,
    *,
    generation: int,
    metrics: Mapping[str, Metric],
    now: float,
) -> Forgotten:
    """Erase a user's decisions with all that hangs on them, and the user's words about others' decisions.

    What they contributed is taken out of every checkpoint, and a new generation makes every worker fold
    again from there, so that no belief holds it any more. That they asked is written down, as a hash: for
    archives, which `retention.erase_archived` looks through afterwards, and for journals that still hold
    decisions of before.

    Raises
    ------
    StaleGenerationError
        `lens` belongs to another generation than the log's, and would subtract what is not there.
    """
    hold(connection, lens.router)  # no checkpoint and no settings come in between
    current = versions(connection, lens.router)
    if current is None or current[1] != generation:
        raise StaleGenerationError(
            f"log: router {lens.router!r} is no longer at generation {generation}"
        )
    drop_checkpoints(connection, lens.router, but=generation)
    start_over(connection)  # whoever is archiving copies rows that go
    c = t.decisions.c
    own = [
        row.id
        for row in connection.execute(
            sa.select(c.id)
            .where(c.router == lens.router, c.user == user)
            .order_by(c.id)
            .with_for_update()  # nobody may say a word about them meanwhile
        )
    ]
    waiting = forget_pending(connection, lens.router, user)  # in no belief yet
    words = _erase_words(connection, lens.router, user, metrics, now)
    counts = dict.fromkeys(("decisions", "outcomes", "feedback", "rewards", "texts"), 0)
    for ids in _chunked(own):
        subtract_from_checkpoints(connection, lens, ids)
        for name in ("rewards", "outcomes", "feedback", "texts"):
            table = t.metadata.tables[name]
            counts[name] += connection.execute(
                sa.delete(table).where(table.c.decision_id.in_(ids))
            ).rowcount
        for table in (t.judgements, t.decision_keys):
            connection.execute(sa.delete(table).where(table.c.decision_id.in_(ids)))
        # Other users' turns may follow a first turn that goes: they stand on their own then.
        connection.execute(sa.update(t.decisions).where(c.head.in_(ids)).values(head=None))
        counts["decisions"] += connection.execute(sa.delete(t.decisions).where(c.id.in_(ids))).rowcount
    counts["feedback"] += words
    if any(counts.values()):
        generation = begin_generation(connection, lens.router)
        mine = t.checkpoints.c.router == lens.router
        connection.execute(sa.update(t.checkpoints).where(mine).values(generation=generation))
    counts["feedback"] += waiting
    _erase_rater(connection, lens.router, user)
    b = t.bases.c
    left = connection.execute(sa.select(b.archive).where(b.router == lens.router)).scalars().all()
    note_erasure(connection, lens.router, user, asked=now, left=left)
    return Forgotten(**counts, archives_pending=len(left))


def _erase_rater(connection: sa.Connection, router: str, user: str) -> None:
    """Forget how much a user has said."""
    r = t.raters.c
    connection.execute(sa.delete(t.raters).where(r.router == router, r.rater == rater_of(user)))


def _erase_words(
    connection: sa.Connection, router: str, source: str, metrics: Mapping[str, Metric], now: float
) -> int:
    """Erase what a user said about decisions that stay, and revise those."""
    said, c = t.feedback.c, t.decisions.c
    staying = sa.select(c.id).where(c.router == router, c.user.is_distinct_from(source))
    mine = (said.router == router, said.source == source, said.decision_id.in_(staying))
    erasing = sa.delete(t.feedback).where(*mine).returning(said.decision_id)
    erased = connection.execute(erasing).scalars().all()
    for decision_id in sorted(set(erased)):  # closed ones too: they are copied again
        spoken_of = DECISIONS.where(c.id == decision_id).with_for_update()
        decision = connection.execute(spoken_of, {"router_name": router}).mappings().one()
        revise(connection, decision, metrics, now)
    return len(erased)


def expire_texts(connection: sa.Connection, router: str, before: float) -> int:
    """Erase prompts and answers of decisions made before a moment [s]; return how many."""
    c = t.texts.c
    old = sa.delete(t.texts).where(c.router == router, c.at_us < to_us(before))
    return int(connection.execute(old).rowcount)


def _chunked(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
