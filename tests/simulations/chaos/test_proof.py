"""A proof that cannot fail proves nothing: each one fails where the thing that it is about was spoiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest

from bandit_router import Model, Outcome, Router
from bandit_router.evidence import Observation
from simulations.chaos.ledger import Choice, Erasure, Ledger, Refusal, Report, Word
from simulations.chaos.proof import Found, Told, prove, read_tables

EVENTS = ("refused", "erased")  # nothing of this happened
AT = 1_790_000_000.0
Tables = dict[str, list[dict[str, Any]]]  # Any: rows


@dataclass(slots=True, kw_only=True)
class World:
    """What a ledger says, and what is there."""

    ledger: Ledger
    tables: Tables
    found: Found

    def failing(self) -> set[str]:
        """The proofs that fail."""
        found = replace(self.found, tables=self.tables)
        return {proof.name for proof in prove(self.ledger, found) if not proof.holds}


def said(router: Router, ledger: Ledger, of: str, name: str, value: Any, **more: Any) -> Word:
    """Let a word be said, and write it down as clients do."""
    number = len(ledger.words)
    word = Word(
        decision_id=of, name=name, source=f"u{number}", value=value, key=f"w{number}", at=AT + number
    )
    heard = router.feedback(of, name, value, source=word.source, key=word.key, at=word.at, **more)
    word.id = heard.id
    ledger.words.append(word)
    return word


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three decisions, outcomes, words and a retraction; all of it in order."""
    url = f"sqlite:///{tmp_path_factory.mktemp('log') / 'chat.db'}"
    with Router.open(url, models=[Model("small"), Model("large")]) as router:
        return lived(router)


@pytest.fixture
def world(whole: World) -> World:
    """A copy to be spoiled."""
    return deepcopy(whole)


def lived(router: Router) -> World:
    """Let clients play with a router."""
    ledger = Ledger(models={"small": True})
    for number in range(3):
        key, user = f"k{number}", f"user:{number}"
        decision = router.choose(f"request {number}", key=key, user=user)
        answer = {"id": decision.id, "model": decision.model, "probability": decision.probability}
        answer |= {"reason": decision.reason}
        answer["candidates"] = [asdict(candidate) for candidate in decision.candidates]
        ledger.choices.append(Choice(key=key, user=user, answers=[answer]))
        for tokens in (50, 60):
            router.report(decision.id, Outcome(output_tokens=tokens, latency_s=1.5))
            body = {"output_tokens": tokens, "latency_s": 1.5}
            ledger.reports.append(
                Report(decision_id=decision.id, body=body, acknowledged=True, sure=True)
            )
        said(router, ledger, decision.id, "thumb", number > 0)
        said(router, ledger, decision.id, "rating", 0.25)
    router.retract(ledger.words[-1].id or "")
    ledger.words[-1].taken_back = True
    beliefs = router.beliefs()
    evidence = router._worker.learner.view.beliefs.evidence
    promises = {"small": (0.5, 0.1), "large": (0.6, 0.1)}
    told = {name: Told(beliefs=beliefs, promises=promises) for name in ("worker 1", "worker 2")}
    tables = router.log.read(read_tables)
    found = Found(tables=tables, stored=evidence, told=told, journals={"worker 1": 0})
    return World(ledger=ledger, tables=tables, found=replace(found, stored=deepcopy(dict(evidence))))


def test_everything_holds_where_nothing_was_spoiled(world: World) -> None:
    assert world.failing() == set()
    assert all(proof.checked for proof in prove(world.ledger, world.found) if proof.name not in EVENTS)


def _drop(table: str, at: int = 0) -> Callable[[World], None]:
    return lambda world: world.tables[table].pop(at) and None


def _double(table: str) -> Callable[[World], None]:
    return lambda world: world.tables[table].append(dict(world.tables[table][0]))


def _set(table: str, **values: Any) -> Callable[[World], None]:
    return lambda world: world.tables[table][0].update(values)


def _grow(world: World) -> None:
    evidence = deepcopy(dict(world.found.stored))
    first = evidence[max(evidence, key=lambda model: evidence[model].n)]
    first.add(Observation.of([1.0] + [0.0] * (first.dim - 1), 1.0, at=0.0))
    world.found = replace(world.found, stored=evidence)


def _believe_more(world: World) -> None:
    told = deepcopy(dict(world.found.told))
    beliefs: Mapping[str, Any] = told["worker 2"].beliefs
    beliefs["small"]["n"] += 1e-6
    world.found = replace(world.found, told=told)


def _promise_more(world: World) -> None:
    other = replace(world.found.told["worker 2"], promises={"small": (0.5, 0.1), "large": (0.7, 0.1)})
    world.found = replace(world.found, told={**world.found.told, "worker 2": other})


def _revise_to_the_same(world: World) -> None:
    last = world.tables["rewards"][-1]
    world.tables["rewards"].append({**last, "seq": last["seq"] + 1, "revision": last["revision"] + 1})


def _decide_twice(world: World) -> None:
    world.ledger.broken.append("key k0: a second decision")


def _refuse(world: World) -> None:
    refusal = Refusal(what="feedback", status=404, message="no decision", expected=False)
    world.ledger.refusals.append(refusal)


def _take_what_was_refused(world: World) -> None:
    refusal = Refusal(what="feedback", status=422, message="too much", expected=True, key="w1")
    world.ledger.refusals.append(refusal)
    world.ledger.words.pop(1)


def _erase(world: World) -> None:
    world.ledger.erasures.append(Erasure(user="user:0", acknowledged=True, sure=True))


def _retire(world: World) -> None:
    world.ledger.models["small"] = False


def _leave_something(world: World) -> None:
    world.found = replace(world.found, journals={"worker 1": 12})


def _swap_outcomes(world: World) -> None:
    one, other = world.tables["outcomes"][:2]
    one["output_tokens"], other["output_tokens"] = other["output_tokens"], one["output_tokens"]


def _wait(world: World) -> None:
    world.tables["pending"].append({"id": "w", "decision_id": "d", "source": None})


SPOILED: list[tuple[Callable[[World], None], set[str]]] = [
    (_drop("decisions"), {"decisions", "revisions", "fold", "beliefs"}),
    (_double("decisions"), {"keys"}),
    (_set("decisions", probability=0.123), {"decisions", "probabilities"}),
    (_set("decisions", key="other", id="other"), {"decisions", "unknown", "revisions"}),
    (_drop("outcomes"), {"outcomes"}),
    (_swap_outcomes, {"outcomes"}),
    (_drop("feedback"), {"words", "revisions"}),
    (_double("feedback"), {"unknown", "keys"}),
    (_set("feedback", value="null"), {"words", "unknown", "revisions"}),
    (_set("feedback", at_us=1), {"words"}),
    (_set("feedback", retracted_us=1), {"words", "revisions"}),
    (_set("feedback", share=0.5), {"revisions"}),
    (_drop("rewards"), {"revisions"}),
    (_drop("rewards", -1), {"revisions", "fold", "beliefs"}),
    (_revise_to_the_same, {"revisions"}),
    (_decide_twice, {"answers"}),
    (_refuse, {"answers"}),
    (_take_what_was_refused, {"refused", "unknown"}),
    (_erase, {"erased"}),
    (_retire, {"models"}),
    (_wait, {"pending"}),
    (_leave_something, {"journals"}),
    (_grow, {"fold"}),
    (_believe_more, {"beliefs"}),
    (_promise_more, {"promises"}),
]


@pytest.mark.parametrize(("spoil", "proofs"), SPOILED)
def test_what_is_spoiled_is_found(
    world: World, spoil: Callable[[World], None], proofs: set[str]
) -> None:
    spoil(world)
    assert proofs <= world.failing()


def test_what_nobody_heard_of_may_be_there_or_not(world: World) -> None:
    word = world.ledger.words[0]
    word.id = None
    world.ledger.choices[1].answers.clear()
    assert world.failing() == set()
    world.ledger.words.append(
        Word(decision_id=word.decision_id, name="thumb", source="x", value=True, key="y", at=AT)
    )
    assert world.failing() == set()
