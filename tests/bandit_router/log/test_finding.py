"""Which router has a decision, a conversation or a word, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bandit_router import EventLog, Router, UnknownFeedbackError
from bandit_router.events import new_id
from bandit_router.log import finding


def test_everything_is_found_in_its_own_router(log_url: str, open_router: Callable[..., Router]) -> None:
    routers = {name: open_router(log=log_url, name=name) for name in ("one", "two")}
    made = {name: router.choose("x", conversation=name) for name, router in routers.items()}
    heard = {name: routers[name].feedback(made[name].id, "thumb", True) for name in routers}
    early = routers["two"].feedback(new_id(), "thumb", True, source="ann")
    assert early.pending
    later = routers["one"].choose("x", conversation="two")
    with EventLog.open(log_url) as log:
        ids = [decision.id for decision in made.values()]
        found = log.read(lambda c: finding.routers_of(c, [*ids, "nobody"] * 300))
        assert found == {decision.id: name for name, decision in made.items()}
        for name, word in heard.items():
            assert log.read(lambda c, w=word: finding.router_of_feedback(c, w.id)) == name
        assert log.read(lambda c: finding.router_of_feedback(c, early.id)) == "two"
        assert log.read(lambda c: finding.router_of_feedback(c, "nobody")) is None
        for talk, router in (("one", "one"), ("two", later.router), ("nobody", None)):
            found_in = log.read(
                lambda c, talk=talk: finding.router_of_conversation(c, talk, ["one", "two"])
            )
            assert found_in == router


def test_a_word_is_found_as_it_was_recorded(router: Router) -> None:
    said = router.feedback(router.choose("x").id, "rating", 0.5, source="ann", comment="so so")
    early = router.feedback(new_id(), "comment", "text", source="bob")
    for word in (said, early):
        found = router.find_feedback(word.id)
        assert (found.name, found.value, found.source) == (word.name, word.value, word.source)
        assert (found.decision_id, found.comment) == (word.decision_id, word.comment)
    with pytest.raises(UnknownFeedbackError):
        router.find_feedback("nobody")
