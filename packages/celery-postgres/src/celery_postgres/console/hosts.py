"""The names by which a console is reached: of the Host header, and those that are allowed."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from celery_postgres.console.errors import ConsoleError

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", re.ASCII)
#: A name as `--allowed-host` takes it.
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[?[0-9A-Fa-f:.]+\]?", re.ASCII)
#: In place of a name: every one.
ANY = "*"


def host_of(header: str) -> str | None:
    """The host in a Host header, in small letters; None if it is none."""
    parts = _HOST.fullmatch(header)
    return None if parts is None else (parts[1] or parts[2]).lower().rstrip(".")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and reached by nobody else."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def allowed(names: Sequence[str], *, keys: bool) -> list[str]:
    """The names that were given, checked.

    Args:
        names: each a host name, an address, or `ANY`.
        keys: whether the console has keys.

    Raises:
        ConsoleError: one is another thing, or `ANY` without keys.
    """
    for name in names:
        if name == ANY and not keys:
            raise ConsoleError(
                "--allowed-host '*' needs keys: without them a page of any site could act as an operator through a "
                "browser of this machine (DNS rebinding). Make one with `--new-key operator NAME`, or name the hosts"
            )
        if name != ANY and not _NAME.fullmatch(name):
            raise ConsoleError(
                f"--allowed-host {name!r} is not a host name such as console.example, without a scheme, a port or a "
                "pattern; '*' allows every name"
            )
    return [name.strip("[]") for name in names]


class OwnHosts:
    """ASGI middleware that answers only to names of this server.

    An attacker may let the name of his own page resolve to this address (DNS rebinding). A browser then treats his page
    and the console as one origin, and only the Host header distinguishes them.

    Args:
        app: the application behind it.
        names: host names, besides localhost, this machine's name and every address; `ANY` is every name.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._any = ANY in names
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower().rstrip(".") for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_own(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            text = b"This console does not answer to this host name; --allowed-host lists those that it does.\n"
            await send({"type": "http.response.body", "body": text})
            return
        await self._app(scope, receive, send)

    def _is_own(self, header: str) -> bool:
        if self._any or not header:  # HTTP/1.0 has none
            return True
        name = host_of(header)
        return name is not None and (name in self._names or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
