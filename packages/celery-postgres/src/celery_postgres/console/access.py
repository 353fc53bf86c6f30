"""Who looks at the console, and what that person may see and do."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Protocol
from uuid import UUID

from celery_postgres.console.errors import ConsoleError

_WORDS = 3
_NAME = re.compile(r"[^\s;]{1,100}")


class Role(StrEnum):
    """What a key is for."""

    #: Sees everything but arguments, results and error messages; changes nothing.
    READER = "reader"
    #: Sees the same, and acts.
    OPERATOR = "operator"
    #: Sees the tasks and dead letters of one tenant.
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Viewer:
    """The holder of a key.

    Attributes:
        role: what the key is for.
        name: what the console calls its holder.
        key: the key's id, which is no secret; by it a session finds its key again.
        tenant: whose tasks a tenant sees; None for the other roles.
        payloads: whether an operator may also see the error messages of tasks, which may quote data.
    """

    role: Role
    name: str
    key: str
    tenant: UUID | None = None
    payloads: bool = False

    def __post_init__(self) -> None:
        if (self.role == Role.TENANT) != (self.tenant is not None):
            raise ValueError("a tenant's key, and no other, names its tenant")

    @property
    def sees_messages(self) -> bool:
        """Whether error messages are shown: a tenant's own, or with the right `payloads`."""
        return self.role is Role.TENANT or (self.role is Role.OPERATOR and self.payloads)

    @property
    def acts(self) -> bool:
        """Whether it may change the broker."""
        return self.role is Role.OPERATOR

    def shared(self) -> Viewer:
        """What all have in common who see the same as this one."""
        return replace(self, name="", key="")


class Keys(Protocol):
    """Where keys are known. Both methods are called in threads, for each request."""

    def enter(self, key: str) -> Viewer | None:
        """The holder of a key that was typed; None if it is not valid."""
        ...

    def find(self, key_id: str) -> Viewer | None:
        """The holder of the key with this `Viewer.key`, if it is still valid."""
        ...


class ConfiguredKeys:
    """The keys of readers and operators, from lines of configuration that hold no secret.

    Args:
        lines: each `ROLE NAME SHA256`: `reader` or `operator` (`operator+payloads` for one that may see error
            messages), a name without spaces, and the SHA-256 of the key in hexadecimal. `new_key` makes such a line.

    Raises:
        ConsoleError: a line has another form. The message does not quote it.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._viewers: dict[str, Viewer] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            role, _, right = words[0].partition("+") if words else ("", "", "")
            if (
                len(words) != _WORDS
                or role not in (Role.READER, Role.OPERATOR)
                or right not in ("", "payloads")
                or not _is_digest(words[2])
            ):
                raise ConsoleError(f"key {number} of the console is not `ROLE NAME SHA256`, as --new-key prints it")
            digest = words[2].lower()
            self._viewers[digest] = Viewer(Role(role), words[1], f"c:{digest[:16]}", payloads=bool(right))

    def __len__(self) -> int:
        return len(self._viewers)

    def enter(self, key: str) -> Viewer | None:
        """See `Keys`. Every key is compared, each in constant time."""
        given = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = [viewer for digest, viewer in self._viewers.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    def find(self, key_id: str) -> Viewer | None:
        """See `Keys`."""
        return next((viewer for viewer in self._viewers.values() if viewer.key == key_id), None)


def new_key(role: str, name: str) -> tuple[str, str]:
    """A new key, and the line by which `ConfiguredKeys` knows it.

    Raises:
        ConsoleError: there is no such role, or the name has spaces.
    """
    if role not in (Role.READER, Role.OPERATOR, f"{Role.OPERATOR}+payloads"):
        raise ConsoleError("a key is for a `reader`, an `operator` or an `operator+payloads`")
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise ConsoleError("the name of a key is at most 100 printable characters without spaces")
    key = f"ck_{secrets.token_urlsafe(32)}"
    return key, f"{role} {name} {sha256(key.encode()).hexdigest()}"


def lines_of(text: str) -> list[str]:
    """The lines of keys in a variable, separated by line breaks or semicolons."""
    return [line for line in re.split(r"[\n;]", text) if line.strip()]


class ThisMachine:
    """For a console that listens on the loopback address alone: everybody who reaches it is an operator."""

    def __init__(self) -> None:
        self.viewer = Viewer(Role.OPERATOR, "This machine", "loopback", payloads=True)

    def enter(self, key: str) -> Viewer | None:
        """See `Keys`."""
        return None

    def find(self, key_id: str) -> Viewer | None:
        """See `Keys`."""
        return None


class FirstOf:
    """The keys of several places: the first that knows a key counts."""

    def __init__(self, *places: Keys) -> None:
        self._places = places

    def enter(self, key: str) -> Viewer | None:
        """See `Keys`."""
        return self._first(lambda place: place.enter(key))

    def find(self, key_id: str) -> Viewer | None:
        """See `Keys`."""
        return self._first(lambda place: place.find(key_id))

    def _first(self, ask: Callable[[Keys], Viewer | None]) -> Viewer | None:
        for place in self._places:
            if (found := ask(place)) is not None:
                return found
        return None


def _is_digest(text: str) -> bool:
    return len(text) == sha256().digest_size * 2 and set(text.lower()) <= set("0123456789abcdef")
