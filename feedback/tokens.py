"""Tokens for browsers: each lets its holder say how one answer was, for a limited time.

A token is ``brt1.<payload>.<signature>``, both in base64url: the decision's id, when the token ends, and who
speaks, signed with HMAC-SHA256. Nothing is kept of it; whoever knows the secret can check it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

PREFIX = "brt1"
LIFETIME = timedelta(days=7)
MAY_SAY = ("thumb", "rating", "comment")
_SIGNATURE = 43  # characters
_HEAD = struct.Struct(">16sQ")  # the decision's id; when it ends [s since 1970]


class TokenError(ValueError):
    """Raised when a token was not signed by us, or has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a feedback token says.

    Parameters
    ----------
    decision_id : str
        The one decision it is about.
    ends : int
        When it stops being valid [s since 1970].
    user : str, optional
        The decision's user, in whose name the holder speaks.
    """

    decision_id: str
    ends: int
    user: str | None = None

    @property
    def source(self) -> str:
        """Who speaks: the decision's user, else ``anonymous:<decision id>``."""
        return self.user or f"anonymous:{self.decision_id}"

    def sign(self, secret: bytes) -> str:
        """Return the token as its holder gets it.

        Examples
        --------
        >>> token = Token(decision_id="0195a3c4-5b6d-7e8f-9a0b-1c2d3e4f5061", ends=1_800_000_000)
        >>> text = token.sign(b"secret")
        >>> text[:5], read_token(text, [b"secret"], now=1_700_000_000) == token
        ('brt1.', True)
        """
        head = _HEAD.pack(uuid.UUID(self.decision_id).bytes, self.ends)
        payload = _encode(head + (self.user or "").encode())
        return f"{PREFIX}.{payload}.{_signature(secret, payload)}"


def read_token(text: str, secrets: Sequence[bytes], *, now: float) -> Token:
    """Return what a token says, if one of the secrets signed it and it has not ended.

    Raises
    ------
    TokenError
        Malformed, signed by nobody we know, or too old.
    """
    prefix, _, rest = text.partition(".")
    payload, _, signature = rest.partition(".")
    if prefix != PREFIX or not text.isascii() or len(signature) != _SIGNATURE:
        raise TokenError("expected a feedback token")
    signed = [hmac.compare_digest(signature, _signature(secret, payload)) for secret in secrets]
    if not any(signed):
        raise TokenError("the feedback token was not signed here")
    token = _parse(payload)
    if token.ends <= now:
        raise TokenError("the feedback token has ended")
    return token


def _parse(payload: str) -> Token:
    try:
        data = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        identifier, ends = _HEAD.unpack_from(data)
        user = data[_HEAD.size :].decode()
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise TokenError("the feedback token is malformed") from error
    return Token(decision_id=str(uuid.UUID(bytes=identifier)), ends=ends, user=user or None)


def _signature(secret: bytes, payload: str) -> str:
    # Not `hmac.digest`: it lets another thread run first, and that may take milliseconds.
    return _encode(hmac.new(secret, f"{PREFIX}.{payload}".encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
