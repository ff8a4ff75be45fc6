"""What must hold when all is healed and quiet, checked against rows, sums and answers.

It folds the log by arithmetic of its own, so that a fault of the package's fold is not repeated here.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.evidence import Evidence
from bandit_router.values import Array
from simulations.chaos.ledger import Choice, Ledger, Word

TOLERANCE = 1e-9  # of the largest entry
PROMISED = 1e-6  # how far the workers' predictions for one prompt may differ
DEGRADED = "degraded"  # the reason of decisions that were made while the log was away
WEIGHT = {"thumb": 1.0, "rating": 1.0, "judge": 0.5}
Row = Mapping[str, Any]  # Any: a value of each column's own type


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one worker says of its beliefs.

    Attributes
    ----------
    beliefs : mapping
        Per model: ``n`` and ``mean_reward``.
    promises : mapping
        Per model: mean and standard deviation for one prompt.
    """

    beliefs: Mapping[str, Row]
    promises: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is there: the rows of the log, what the store holds, what workers say, what is left over.

    Attributes
    ----------
    tables : mapping of str to rows
    stored : mapping of str to Evidence
        The sums of each model in the shared store.
    told : mapping of str to Told
        By worker.
    journals : mapping of str to int
        Bytes in each worker's journal.
    """

    tables: Mapping[str, Sequence[Row]]
    stored: Mapping[str, Evidence]
    told: Mapping[str, Told]
    journals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One thing that must hold.

    Attributes
    ----------
    checked : int
        Of how many it was seen.
    differing : tuple of str
        Where it does not hold.
    """

    name: str
    what: str
    checked: int
    differing: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it holds everywhere."""
        return not self.differing


TABLES = ("decisions", "outcomes", "feedback", "rewards", "pending", "models", "routers")


def read_tables(connection: sa.Connection) -> dict[str, list[Row]]:
    """Return all rows of the log, in one state."""
    whole: dict[str, list[Row]] = {}
    for table in TABLES:
        rows = connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()
        whole[table] = [dict(row) for row in rows]
    return whole


def prove(ledger: Ledger, found: Found) -> list[Proof]:
    """Check everything."""
    log = _Log(found.tables)
    checks: list[tuple[str, str, Iterable[str | None]]] = [
        ("answers", "no answer broke a promise, and nothing was refused without reason", _answers(ledger)),
        ("decisions", "what was acknowledged is in the log once, as it was heard", _decisions(ledger, log)),
        ("probabilities", "they sum to 1, and that of the model drawn is the one logged", _chances(log)),
        ("outcomes", "what was acknowledged counts, and no revision is doubled", _outcomes(ledger, log)),
        ("words", "what was acknowledged is in the log once, as it was said", _words(ledger, log)),
        ("unknown", "what nobody heard of is there at most once, and nothing else is", _unknown(ledger, log)),
        ("refused", "what was refused is not there", _refused(ledger, log)),
        ("revisions", "no gaps, no doubles, and the last says what the words amount to", _revisions(log)),
        ("keys", "ids and keys are unique", _keys(log)),
        ("erased", "what was erased stays away", _erased(ledger, log)),
        ("models", "they are as they were last set", _models(ledger, log)),
        ("pending", "no word waits any more", _pending(log)),
        ("journals", "nothing is left in them", _journals(found)),
        ("fold", "the shared sums are the fold of the log", _fold(log, found)),
        ("beliefs", "every worker believes the fold", _beliefs(log, found)),
        ("promises", "all workers promise the same", _promises(found)),
    ]  # fmt: skip
    return [_proof(name, what, results) for name, what, results in checks]


def _proof(name: str, what: str, results: Iterable[str | None]) -> Proof:
    """Count the results of a check: None where it holds, else what is wrong."""
    seen = list(results)
    wrong = tuple(result for result in seen if result is not None)
    return Proof(name=name, what=what, checked=len(seen), differing=wrong)


class _Log:
    """The rows, found by what they are about."""

    def __init__(self, tables: Mapping[str, Sequence[Row]]) -> None:
        self.tables = tables
        self.decisions = {str(row["id"]): row for row in tables["decisions"]}
        self.words = {str(row["id"]): row for row in tables["feedback"]}
        self.outcomes = _grouped(tables["outcomes"])
        self.rewards = _grouped(tables["rewards"])
        self.said: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(tables["feedback"], key=lambda row: (row["at_us"], row["seq"])):
            self.said[row["decision_id"]].append(row)

    def latest_rewards(self) -> Iterable[tuple[Row, Row]]:
        """Decisions with what is made of them, where that is anything."""
        for decision_id, rewards in self.rewards.items():
            if decision_id in self.decisions and rewards[-1]["value"] is not None:
                yield self.decisions[decision_id], rewards[-1]


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["revision"]):
        groups[row["decision_id"]].append(row)
    return groups


# -- what clients heard -------------------------------------------------------------------------------


def _answers(ledger: Ledger) -> Iterable[str | None]:
    yield from ledger.broken
    for refusal in ledger.refusals:
        yield None if refusal.expected else f"{refusal.what}: {refusal.status} {refusal.message}"
    for choice in ledger.choices:
        for answer in choice.answers:
            chance = {c["model"]: c["probability"] for c in answer["candidates"]}
            right = chance.get(answer["model"]) == answer["probability"]
            yield None if right else f"decision {answer['id']}: heard another probability"


def _decisions(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    erased = ledger.erased_users
    for choice in ledger.choices:
        for answer in choice.answers if choice.user not in erased else ():
            yield _decision(choice, answer, log)


def _decision(choice: Choice, answer: Row, log: _Log) -> str | None:
    row = log.decisions.get(answer["id"])
    if row is None:
        return f"decision {answer['id']} is lost (reason {answer['reason']})"
    heard = (answer["model"], answer["probability"], choice.user)
    logged = (row["model"], row["probability"], row["user"])
    # Another worker may find what the first one, which had given up the commit, calls degraded later.
    if heard != logged or row["reason"] not in (answer["reason"], DEGRADED):
        return (
            f"decision {answer['id']}: heard {heard, answer['reason']}, logged {logged, row['reason']}"
        )
    chance = {c["model"]: c["probability"] for c in answer["candidates"]}
    there = {model: p for model, p, *_ in json.loads(row["candidates"])}
    return None if chance == there else f"decision {answer['id']}: other candidates"


def _chances(log: _Log) -> Iterable[str | None]:
    for row in log.decisions.values():
        p = {model: chance for model, chance, *_ in json.loads(row["candidates"])}
        right = math.isclose(sum(p.values()), 1.0, abs_tol=TOLERANCE) and min(p.values()) >= 0
        drawn = p.get(row["model"]) == row["probability"]
        yield None if right and drawn else f"decision {row['id']}: {p}, drawn {row['probability']}"


def _outcomes(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    reported = defaultdict(list)
    for report in ledger.reports:
        reported[report.decision_id].append(report)
    for decision_id, reports in reported.items():
        rows = log.outcomes.get(decision_id, [])
        contents = [_content(report.body, log.decisions.get(decision_id)) for report in reports]
        there = [_content(row, log.decisions.get(decision_id)) for row in rows]
        if any(content not in contents for content in there):
            yield f"decision {decision_id}: an outcome that nobody reported"
        elif any(
            report.acknowledged and content not in there
            for report, content in zip(reports, contents, strict=True)
        ):
            yield f"decision {decision_id}: an outcome is lost"
        elif all(r.acknowledged and r.sure for r in reports) and there[-1] != contents[-1]:
            yield f"decision {decision_id}: another outcome counts than the last one"
        else:
            yield None
    for decision_id, rows in log.outcomes.items():
        yield _gap("outcome", decision_id, rows)
        contents = [_content(row, None) for row in rows]
        doubled = any(one == other for one, other in pairwise(contents))
        yield f"decision {decision_id}: an outcome is doubled" if doubled else None


def _content(said: Row, decision: Row | None) -> tuple[object, ...]:
    model = said.get("model") or (None if decision is None else decision["model"])
    return model, said["output_tokens"], said["latency_s"]


def _words(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    gone, moved = _gone(ledger), _moved(ledger)
    for word in ledger.words:
        if word.id is None or word.decision_id in gone or word.source in ledger.erased_users:
            continue
        yield _word(word, log.words.get(word.id), moved)


def _word(word: Word, row: Row | None, moved: Mapping[object, set[int]]) -> str | None:
    if row is None:
        return f"word {word.id} is lost"
    said = (word.decision_id, word.name, word.source, json.loads(json.dumps(word.value)))
    if said != (row["decision_id"], row["name"], row["source"], json.loads(row["value"])):
        return f"word {word.id}: other content"
    if not word.duplicate and row["key"] != word.key:
        return f"word {word.id}: another key"
    if row["at_us"] != _us(word.at) and row["at_us"] not in moved[_saying(word)]:
        return f"word {word.id}: said at another time"
    if word.taken_back is not None and (row["retracted_us"] is not None) != word.taken_back:
        return None if word.duplicate else f"word {word.id}: retracted {not word.taken_back}"
    return None


def _moved(ledger: Ledger) -> dict[object, set[int]]:
    """When each thing was said without a key: a word that says it holds from its latest time on."""
    moments: dict[object, set[int]] = defaultdict(set)
    for word in ledger.words:
        if word.key is None:
            moments[_saying(word)].add(_us(word.at))
    return moments


def _saying(word: Word) -> object:
    return word.decision_id, word.name, word.source, json.dumps(word.value)


def _us(moment: float) -> int:
    return round(moment * 1e6)


def _gone(ledger: Ledger) -> set[str]:
    """Decisions of users that were to be erased."""
    erased = ledger.erased_users
    return {
        answer["id"] for choice in ledger.choices if choice.user in erased for answer in choice.answers
    }


def _unknown(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    """Rows that a client asked for, each once; and no others."""
    keys = {choice.key for choice in ledger.choices}
    heard = {answer["id"] for choice in ledger.choices for answer in choice.answers}
    unheard = sum(
        number
        for (what, how), number in ledger.requests.items()
        if what == "decisions" and not how.startswith("2")
    )
    for row in log.tables["decisions"]:
        asked = row["key"] in keys or row["id"] in heard or row["tags"] is not None
        if not asked and row["reason"] == DEGRADED and unheard > 0:
            # Kept while the log was away, and nobody heard of it; its key went to the next attempt.
            asked, unheard = True, unheard - 1
        yield None if asked else f"decision {row['id']} ({row['reason']}): nobody asked for it"
    wanted = Counter(_sent(word) for word in ledger.words)
    there = Counter(
        (row["decision_id"], row["name"], row["source"], row["value"], row["key"])
        for row in log.tables["feedback"]
    )
    for sent, number in there.items():
        yield None if number <= wanted[sent] else f"word {sent}: {number} times, sent {wanted[sent]}"


def _sent(word: Word) -> tuple[object, ...]:
    return word.decision_id, word.name, word.source, json.dumps(word.value), word.key


def _refused(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    keys = Counter(row["key"] for row in log.tables["feedback"] if row["key"] is not None)
    said = {word.key for word in ledger.words if word.id is not None}
    for refusal in ledger.refusals:
        if refusal.what == "feedback" and refusal.key is not None:
            there = keys[refusal.key] - (refusal.key in said)
            yield f"key {refusal.key}: refused, and there" if there > 0 else None


# -- what the log says of itself ------------------------------------------------------------------------


def _gap(what: str, decision_id: str, rows: Sequence[Row]) -> str | None:
    revisions = [row["revision"] for row in rows]
    if revisions == list(range(len(rows))):
        return None
    return f"decision {decision_id}: {what} revisions {revisions}"


def _revisions(log: _Log) -> Iterable[str | None]:
    for decision_id in log.decisions:
        rows = log.rewards.get(decision_id, [])
        gap = _gap("reward", decision_id, rows)
        made = [(row["model"], row["value"], row["weight"]) for row in rows]
        if gap is not None:
            yield gap
        elif any(one == other for one, other in pairwise(made)):
            yield f"decision {decision_id}: a reward row is doubled"
        else:
            yield _amounts(decision_id, made[-1] if made else None, log)
    for decision_id in log.rewards.keys() - log.decisions.keys():
        yield f"decision {decision_id}: a reward without a decision"


def _amounts(decision_id: str, made: tuple[str, float | None, float] | None, log: _Log) -> str | None:
    """See that the last reward row is what the active words amount to."""
    outcomes = log.outcomes.get(decision_id)
    served = (outcomes[-1] if outcomes else log.decisions[decision_id])["model"]
    wanted = _reward(log.said.get(decision_id, []))
    if made is None or made[1] is None or wanted is None:
        right = wanted is None and (made is None or made[1] is None)
    else:
        close = np.allclose((made[1], made[2]), wanted, atol=TOLERANCE, rtol=0)
        right = made[0] == served and bool(close)
    if right:
        return None
    return f"decision {decision_id}: reward {made}, the words amount to {served, wanted}"


def _reward(said: Sequence[Row]) -> tuple[float, float] | None:
    """The latest word of each rater under each name, in a weighted mean that counts once at most."""
    latest = {(row["name"], row["source"]): row for row in said}
    votes = []
    for (name, _), row in latest.items():
        value = json.loads(row["value"])
        if row["retracted_us"] is None and value is not None and name in WEIGHT:
            share = 1.0 if row.get("share") is None else row["share"]
            votes.append((WEIGHT[name] * share, float(value)))
    total = sum(weight for weight, _ in votes)
    if total == 0:
        return None
    return sum(weight * value for weight, value in votes) / total, min(total, 1.0)


def _keys(log: _Log) -> Iterable[str | None]:
    tables = log.tables
    yield from _unique("decision", (row["id"] for row in tables["decisions"]))
    yield from _unique("word", (row["id"] for row in tables["feedback"]))
    keys = ((row["router"], row["key"]) for row in tables["decisions"] if row["key"] is not None)
    yield from _unique("key", keys)
    spoken = ((row["decision_id"], row["key"]) for row in tables["feedback"] if row["key"] is not None)
    yield from _unique("key", spoken)


def _unique(what: str, things: Iterable[object]) -> Iterable[str | None]:
    for thing, number in Counter(things).items():
        yield None if number == 1 else f"{what} {thing}: {number} times"


def _erased(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    left = {row["user"] for row in log.decisions.values()}
    left |= {row["source"] for table in ("feedback", "pending") for row in log.tables[table]}
    for erasure in ledger.erasures:
        if erasure.acknowledged and erasure.sure:
            yield f"user {erasure.user} is still there" if erasure.user in left else None


def _models(ledger: Ledger, log: _Log) -> Iterable[str | None]:
    active = {row["name"] for row in log.tables["models"] if not row["retired"]}
    for name, kept in ledger.models.items():
        if kept is not None:
            yield None if (name in active) == kept else f"model {name}: expected kept={kept}"


def _pending(log: _Log) -> Iterable[str | None]:
    yield None
    for row in log.tables["pending"]:
        yield f"word {row['id']} waits for decision {row['decision_id']}"


def _journals(found: Found) -> Iterable[str | None]:
    for worker, size in found.journals.items():
        yield f"{worker}: {size} bytes" if size else None


# -- what is believed -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sums:
    A: Array
    b: Array
    c: float
    n: float


def _folded(log: _Log) -> dict[str, _Sums]:
    """The sums of each model, from the last reward rows alone."""
    born = {row["name"]: row["born_us"] for row in log.tables["models"]}
    rows: dict[str, list[tuple[Array, float, float]]] = defaultdict(list)
    for decision, reward in log.latest_rewards():
        if reward["at_us"] >= born.get(reward["model"], 0):
            x = np.frombuffer(decision["features"], "<f8")
            rows[reward["model"]].append((x, reward["weight"], reward["value"]))
    return {model: _summed(own) for model, own in rows.items()}


def _summed(rows: Sequence[tuple[Array, float, float]]) -> _Sums:
    X = np.stack([x for x, _, _ in rows])
    w, r = np.array([weight for _, weight, _ in rows]), np.array([value for *_, value in rows])
    return _Sums((X * w[:, None]).T @ X, X.T @ (w * r), float(w @ r**2), float(w.sum()))


def _fold(log: _Log, found: Found) -> Iterable[str | None]:
    folded = _folded(log)
    for model in sorted({*folded, *found.stored}):
        yield _same_sums(model, folded.get(model), found.stored.get(model))


def _same_sums(model: str, wanted: _Sums | None, held: Evidence | None) -> str | None:
    if wanted is None or held is None:
        n = (held.n if held is not None else 0.0) - (wanted.n if wanted is not None else 0.0)
        return None if abs(n) < TOLERANCE else f"model {model}: {n:+g} observations"
    scale = TOLERANCE * max(1.0, float(np.abs(wanted.A).max()))
    gaps = {
        "A": np.abs(held.A - wanted.A).max(),
        "b": np.abs(held.b - wanted.b).max(),
        "c": abs(held.c - wanted.c),
        "n": abs(held.n - wanted.n),
    }
    wrong = {name: f"{gap:.3g}" for name, gap in gaps.items() if gap > scale}
    return f"model {model}: {wrong}, n {held.n:g} held, {wanted.n:g} folded" if wrong else None


def _beliefs(log: _Log, found: Found) -> Iterable[str | None]:
    folded = _folded(log)
    for worker, told in found.told.items():
        for model, belief in told.beliefs.items():
            sums = folded.get(model)
            n = 0.0 if sums is None else sums.n
            mean = None if sums is None or n == 0 else sums.b[0] / n
            yield _belief(f"{worker}, model {model}", belief, n, mean)


def _belief(who: str, belief: Row, n: float, mean: float | None) -> str | None:
    same = math.isclose(belief["n"], n, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if mean is not None and belief["mean_reward"] is not None:
        same = same and math.isclose(belief["mean_reward"], mean, abs_tol=TOLERANCE)
    return None if same else f"{who}: {belief['n']:g} of {belief['mean_reward']}, folded {n:g} of {mean}"


def _promises(found: Found) -> Iterable[str | None]:
    (first, one), *others = found.told.items()
    for name, other in others:
        yield None if _agree(one, other) else f"{first} and {name}: {one.promises}, {other.promises}"


def _agree(one: Told, other: Told) -> bool:
    return one.promises.keys() == other.promises.keys() and all(
        np.allclose(one.promises[model], other.promises[model], rtol=0, atol=PROMISED)
        for model in one.promises
    )
