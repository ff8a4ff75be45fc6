"""Pseudonyms: users are kept as keyed hashes, at every door; nobody speaks as another by knowing a hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router import Router
from bandit_router.config import Config, read_config
from bandit_router.errors import ConflictError, SettingsError
from bandit_router.pseudonyms import Pseudonym, Pseudonyms

KEY = b"0123456789abcdef"
NAMES = Pseudonyms(KEY)
Open = Callable[..., Router]


@given(st.text(min_size=1), st.text(min_size=1))
def test_one_hash_for_each_name_and_key(one: str, other: str) -> None:
    hashed = NAMES.of(one)
    assert len(hashed) == 34
    assert (NAMES.of(other) == hashed) == (one == other)
    assert Pseudonyms(KEY + b"x").of(one) != hashed
    assert NAMES.of(hashed) == hashed
    assert NAMES.of(str(hashed)) != hashed  # said by somebody outside


def test_what_only_looks_like_ours_is_hashed() -> None:
    for name in ("ann", "h:", "h:" + "0" * 31, "judge:gpt", "anonymous:x"):
        assert NAMES.of(Pseudonym(name)) == NAMES.of(name)
    nobody = Pseudonym("anonymous:0195a3c4-5b6d-7e8f-9a0b-1c2d3e4f5061")
    assert NAMES.of(nobody) == nobody
    assert NAMES.all_of("ann") == (NAMES.of("ann"), "ann")
    assert NAMES.all_of(str(NAMES.of("ann"))) == (NAMES.of(str(NAMES.of("ann"))),)


@pytest.mark.parametrize("key", [b"", b"short", "a text that is long enough", None, 7])
def test_a_key_that_is_none(key: object) -> None:
    with pytest.raises(SettingsError, match="at least 16 bytes") as told:
        Pseudonyms(key)  # type: ignore[arg-type]
    assert "short" not in str(told.value)
    assert "KEY" not in repr(NAMES)
    assert KEY.decode() not in repr(Config(user_key=KEY))


def test_the_whole_loop_goes_by_hashes(open_router: Open, url: str) -> None:
    router, ann = open_router(user_key=KEY), NAMES.of("ann")
    decision = router.choose("hi", user="ann", key="k")
    assert decision.user == ann
    assert router.choose("hi", user="ann", key="k").duplicate
    with pytest.raises(ConflictError):
        router.choose("hi", user=str(ann), key="k")  # another user
    own, named, other = (
        router.feedback(decision.id, "thumb", True, source=source) for source in (None, "ann", "bob")
    )
    assert (own.source, named.source, named.duplicate) == (ann, ann, True)
    assert other.source == router.kept_as("bob") == NAMES.of("bob")
    assert router.feedback(decision.id, "judge", 0.5, source="judge:gpt").source == "judge:gpt"
    anonymous = router.choose("hi")
    assert router.feedback(anonymous.id, "thumb", True).source == f"anonymous:{anonymous.id}"
    imposter = router.feedback(decision.id, "thumb", False, source=str(ann))
    assert imposter.source not in (ann, str(ann))  # who says Ann's hash is not Ann
    assert router.forget_user(str(ann)).decisions == 0  # and cannot have her erased
    assert router.forget_user("ann").decisions == 1


def test_who_was_kept_by_name_before_is_erased_too(open_router: Open) -> None:
    with open_router() as before:
        before.choose("hi", user="ann")
        assert before.kept_as("ann") == "ann"
    router = open_router(user_key=KEY)
    router.choose("hi", user="ann")
    assert router.forget_user("ann").decisions == 2


def test_where_the_key_is_kept(tmp_path: Path) -> None:
    file, kept = tmp_path / "router.toml", tmp_path / "key"
    file.write_text('[privacy]\nuser_key_env = "USERS"')
    assert read_config(file, environ={"USERS": KEY.decode() + "\n"}).user_key == KEY
    assert read_config(file, environ={"USERS": KEY.decode()}).arguments()["user_key"] == KEY
    with pytest.raises(SettingsError, match="USERS: expected a key of at least 16 bytes, got 0"):
        read_config(file, environ={})
    kept.write_bytes(KEY + b"\n")
    assert read_config(environ={"BANDIT_ROUTER_USER_KEY_FILE": str(kept)}).user_key == KEY
    with pytest.raises(SettingsError, match="user_key_file"):
        read_config(environ={"BANDIT_ROUTER_USER_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(SettingsError, match="got both"):
        read_config(file, environ={"USERS": KEY.decode(), "BANDIT_ROUTER_USER_KEY_FILE": str(kept)})
    assert read_config().user_key is None
