"""Feedback tokens: what was signed comes back, and nothing else does."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.events import new_id
from feedback.tokens import Token, TokenError, read_token

NOW = 1_800_000_000
SECRETS = [b"new" * 10, b"old" * 10]


def token(**changes: object) -> Token:
    return Token(**{"decision_id": new_id(NOW), "ends": NOW + 10, **changes})  # type: ignore[arg-type]


@given(user=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=255))
def test_what_was_signed_comes_back(user: str | None) -> None:
    for secret in SECRETS:
        signed = token(user=user)
        assert read_token(signed.sign(secret), SECRETS, now=NOW) == signed


def test_in_whose_name_its_holder_speaks() -> None:
    assert token(user="user:42").source == "user:42"
    anonymous = token()
    assert anonymous.source == f"anonymous:{anonymous.decision_id}"


def test_it_ends_and_its_secret_can_be_retired() -> None:
    signed = token().sign(SECRETS[1])
    with pytest.raises(TokenError, match="ended"):
        read_token(signed, SECRETS, now=NOW + 10)
    with pytest.raises(TokenError, match="not signed here"):
        read_token(signed, SECRETS[:1], now=NOW)
    with pytest.raises(TokenError, match="not signed here"):
        read_token(signed, [], now=NOW)


@pytest.mark.parametrize(
    "text", ["", "brt1", "brt1.", "brt1..", "brt2.a.b", "brt1.é.ü", "a.b.c", "brt1.a"]
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(TokenError):
        read_token(text, SECRETS, now=NOW)


def test_every_secret_is_tried_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, compare = [], hmac.compare_digest

    def spied(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    signed = [token().sign(secret) for secret in SECRETS]
    monkeypatch.setattr(hmac, "compare_digest", spied)
    for text in signed:
        read_token(text, SECRETS, now=NOW)
    assert compared == [(43, 43)] * 4  # all of them, whichever it was
    compared.clear()
    for text in (signed[0][:-1], signed[0] + "x"):
        with pytest.raises(TokenError):
            read_token(text, SECRETS, now=NOW)
    assert compared == []


@given(place=st.integers(0, 200), character=st.sampled_from("Aa0-_.="))
def test_no_character_can_be_changed(place: int, character: str) -> None:
    signed = token(user="user:42").sign(SECRETS[0])
    place %= len(signed)
    changed = signed[:place] + character + signed[place + 1 :]
    if changed != signed:
        with pytest.raises(TokenError):
            read_token(changed, SECRETS, now=NOW)
