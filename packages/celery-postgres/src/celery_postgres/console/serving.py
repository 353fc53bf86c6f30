"""Serving the console on its own: its keys, its host names, and uvicorn."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from celery_postgres.console.access import ConfiguredKeys, Keys, ThisMachine, lines_of
from celery_postgres.console.application import create
from celery_postgres.console.errors import ConsoleError
from celery_postgres.console.source import source_of

KEYS = "CELERY_CONSOLE_KEYS"
SECRET = "CELERY_CONSOLE_SECRET"  # noqa: S105  # the name of a variable
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", re.ASCII)
_SHORTEST_SECRET = 32
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
#: Seconds for requests to end when the server stops.
STOP_S = 5
#: uvicorn's status when it cannot listen.
_NOT_STARTED = 3


def keys_for(host: str, environment: Mapping[str, str]) -> Keys:
    """The keys of a console that listens on this address.

    Raises:
        ConsoleError: others could reach it, and there are no keys; or a line of them has another form.
    """
    lines = lines_of(environment.get(KEYS, ""))
    if lines:
        return ConfiguredKeys(lines)
    if not _is_loopback(host):
        raise ConsoleError(
            f"without keys it listens on a loopback address only, not on {host}: everybody who reaches it would be an "
            f"operator. Make a key with `--new-key operator NAME` and put its line into {KEYS}"
        )
    return ThisMachine()


def serve(
    app: Any, *, host: str, port: int, title: str, allowed_hosts: Sequence[str] = (), root_path: str = ""
) -> None:
    """Serve the console of a Celery application until a signal ends it.

    Raises:
        ConsoleError: it may not listen there, the path is none, or the broker is not this package's.
    """
    if root_path and not _PATH.fullmatch(root_path):
        raise ConsoleError(f"--root-path {root_path!r} is not a path such as /celery, without a slash at its end")
    secret = os.environ.get(SECRET) or None
    if secret is not None and len(secret) < _SHORTEST_SECRET:
        raise ConsoleError(f"{SECRET} is shorter than {_SHORTEST_SECRET} characters")
    keys = keys_for(host, os.environ)
    console = create(source_of(app), keys, title=title, secret=secret)
    config = uvicorn.Config(
        OwnHosts(console, [host, *allowed_hosts]),
        host=host,
        port=port,
        root_path=root_path,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    server = Server(config, console)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


class Server(uvicorn.Server):
    """A server that ends the streams of live pages before it stops: uvicorn waits for every request.

    Args:
        config: of uvicorn.
        console: what `create` has returned.
    """

    def __init__(self, config: uvicorn.Config, console: Starlette) -> None:
        super().__init__(config)
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.state.live.end()
        await super().shutdown(sockets)


class OwnHosts:
    """ASGI middleware that answers only to names of this server.

    An attacker may let the name of his own page resolve to this address (DNS rebinding). A browser then treats his page
    and the console as one origin, and only the Host header distinguishes them.

    Args:
        app: the application behind it.
        names: host names, besides localhost, this machine's name and every address.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
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
        parts = _HOST.fullmatch(header)
        if parts is None:
            return not header  # HTTP/1.0 has none
        name = (parts[1] or parts[2]).lower().rstrip(".")
        return name in self._names or _is_address(name)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
