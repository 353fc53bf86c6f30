"""Removes passwords from texts, and values from fields whose name means that they are secret."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

MASK = "***"
#: Words in a field's name. `tokens` is not among them: prompt_tokens is a number that people want to see.
SECRET_WORDS = frozenset(
    {
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "dsn",
        "passphrase",
        "passwd",
        "password",
        "pwd",
        "secret",
        "secrets",
        "token",
    }
)
SECRET_PAIRS = frozenset({("api", "key"), ("private", "key"), ("database", "url"), ("broker", "url")})

_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
#: Up to the last @ before a blank, so that a password that should have been percent-encoded is removed too. The
#: look-behind keeps it linear: a run of letters is tried once, from its start.
_URL = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z0-9+.-]+://)([^\s:/@]*):\S*@")
_PAIR = re.compile(r"\b((?:ssl)?password|passwd|pwd)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE)


def scrub(text: str) -> str:
    """`text` without the passwords of URLs (`scheme://user:…@`) and of `password=…`."""
    if "://" in text:
        text = _URL.sub(rf"\1\2:{MASK}@", text)
    return _PAIR.sub(rf"\1\2{MASK}", text) if "=" in text else text


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, whatever its value."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return not (SECRET_WORDS.isdisjoint(words) and SECRET_PAIRS.isdisjoint(pairwise(words)))


def field(name: str, value: Any) -> Any:
    """`value` as it may appear in a log line: masked and scrubbed; for collections and objects, only the type."""
    if is_secret(name):
        return MASK
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has no NaN and no infinity
    if isinstance(value, str):
        return scrub(value)
    return f"<{type(value).__name__}>"
