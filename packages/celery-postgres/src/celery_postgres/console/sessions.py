"""Signing in: a key is exchanged for a signed cookie that names the key, and for form tokens.

A cookie works in every process that has the same secret, and ends with its key, after `LIFETIME_S`, when the secret
changes, or by signing out, of which the database has a row.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256

#: The prefix lets browsers accept the cookie only with `Secure`, `Path=/` and without `Domain`: no other host sets it.
COOKIE = "__Host-console"
LIFETIME_S = 12 * 3600
#: The longest cookie that is read; ours have some 200 bytes.
_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class Session:
    """What a valid cookie says.

    Attributes:
        key: the `Viewer.key` that signed in.
        nonce: random, one for each sign-in.
    """

    key: str
    nonce: str


class Sessions:
    """Makes and reads cookies and form tokens.

    Args:
        secret: the same in all processes of a console. Without one it is random: sessions then end with the process.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret.encode() if secret else secrets.token_bytes(32)

    def cookie(self, key: str, *, now_s: float | None = None) -> str:
        """A cookie for the holder of a key."""
        ends_at = int((time.time() if now_s is None else now_s) + LIFETIME_S)
        content = json.dumps([key, ends_at, secrets.token_urlsafe(16)]).encode()
        said = base64.urlsafe_b64encode(content).decode().rstrip("=")
        return f"{said}.{self._signature('session', said)}"

    def read(self, cookie: str | None) -> Session | None:
        """What a cookie says; None if this secret did not sign it or its time is over."""
        said, _, signature = (cookie or "").partition(".")
        if len(said) > _LONGEST or not hmac.compare_digest(
            self._signature("session", said).encode(), signature.encode("utf-8", "replace")
        ):
            return None
        try:
            key, ends_at, nonce = json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        except (ValueError, binascii.Error):  # a secret that signs something else too
            return None
        return Session(str(key), str(nonce)) if time.time() < float(ends_at) else None

    def token(self, session: Session) -> str:
        """The token that each form of this session carries."""
        return self._signature("form", session.nonce)

    def is_token(self, session: Session, token: str) -> bool:
        """Whether a form carried the token of its session."""
        return hmac.compare_digest(self.token(session).encode(), token.encode("utf-8", "replace"))

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode("utf-8", "replace"), sha256).hexdigest()


class Attempts:
    """Limits failed sign-ins: `MOST` in `WINDOW_S` seconds from one address. Use it in one thread: the event loop's."""

    MOST = 10
    WINDOW_S = 60.0
    #: Addresses that are remembered. Beyond them the oldest is forgotten: 256 random bits are not guessed anyway.
    MOST_ADDRESSES = 10_000

    def __init__(self) -> None:
        self._failed: dict[str, list[float]] = {}

    def allows(self, address: str) -> bool:
        """Whether this address may try again now."""
        return len(self._recent(address)) < self.MOST

    def failed(self, address: str) -> None:
        """Count a wrong key."""
        recent = [*self._recent(address), time.monotonic()]
        self._failed.pop(address, None)
        self._failed[address] = recent
        while len(self._failed) > self.MOST_ADDRESSES:
            del self._failed[next(iter(self._failed))]

    def _recent(self, address: str) -> list[float]:
        since = time.monotonic() - self.WINDOW_S
        return [at for at in self._failed.get(address, ()) if at > since]
