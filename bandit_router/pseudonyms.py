"""Pseudonyms: users are known by keyed hashes instead of their names, wherever anything is kept."""

from __future__ import annotations

import hashlib
import hmac
import re

from bandit_router.errors import SettingsError

MARK = "h:"
KEY_BYTES = 16  # at least, lest it is guessed
_DIGITS = 32  # hexadecimal: 128 bits
_HASH = re.compile(rf"{MARK}[0-9a-f]{{{_DIGITS}}}")
_NOBODY = re.compile(r"anonymous:[0-9a-f-]{36}")


class Pseudonym(str):
    """A name that came out of this program: a hash, or ``anonymous:<decision id>``.

    The type says so, and nothing that comes from outside has it: a text of that look is a name like any
    other, and gets a hash of its own, so that nobody can speak as somebody else by knowing their hash.
    """

    __slots__ = ()


class Pseudonyms:
    """Turns users' names into keyed hashes: HMAC-SHA256, of which 128 bits are kept.

    Whoever has the key can tell whether a name belongs to a hash; without it, names cannot be tried. Another
    key makes other people of all users.

    Parameters
    ----------
    key : bytes
        At least 16; all workers need the same.

    Examples
    --------
    >>> names = Pseudonyms(b"0123456789abcdef")
    >>> names.of("user:42")
    'h:24c38d7f3f36267d550ce10767a9a7b5'
    >>> names.of(names.of("user:42")) == names.of("user:42")
    True
    >>> names.of(str(names.of("user:42"))) == names.of("user:42")  # said by somebody outside
    False
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = check_user_key("user_key", key)

    def __repr__(self) -> str:
        return "<Pseudonyms>"

    def of(self, name: str) -> Pseudonym:
        """Return what a name is kept as; what `of` returned stays."""
        if isinstance(name, Pseudonym) and (_HASH.fullmatch(name) or _NOBODY.fullmatch(name)):
            return name
        digest = hmac.digest(self._key, name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return Pseudonym(MARK + digest.hex()[:_DIGITS])

    def all_of(self, name: str) -> tuple[str, ...]:
        """Return what a name may be kept as: its hash, and the name itself from before there was a key.

        A name that looks like a hash was never kept as it is, or is another's hash.
        """
        hashed = str(self.of(name))
        return (hashed,) if _HASH.fullmatch(name) else (hashed, name)


def check_user_key(what: str, key: object) -> bytes:
    """Return a key that is long enough.

    Raises
    ------
    SettingsError
        It is not; the message does not quote it.
    """
    if not isinstance(key, bytes) or len(key) < KEY_BYTES:
        got = f"{len(key)}" if isinstance(key, bytes) else type(key).__name__
        raise SettingsError(f"{what}: expected a key of at least {KEY_BYTES} bytes, got {got}")
    return key
