"""Serving the console on its own: its keys, its address, and uvicorn."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import uvicorn
from starlette.applications import Starlette

from celery_postgres.console.access import ConfiguredKeys, Keys, ThisMachine, lines_of
from celery_postgres.console.application import create
from celery_postgres.console.errors import ConsoleError
from celery_postgres.console.hosts import OwnHosts, allowed, is_loopback
from celery_postgres.console.source import source_of

KEYS = "CELERY_CONSOLE_KEYS"
SECRET = "CELERY_CONSOLE_SECRET"  # noqa: S105  # the name of a variable
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
    if not is_loopback(host):
        raise ConsoleError(
            f"without keys it listens on a loopback address only, not on {host}: everybody who reaches it would be an "
            f"operator. Make a key with `--new-key operator NAME` and put its line into {KEYS}"
        )
    return ThisMachine()


def serve(
    app: Any,
    *,
    host: str,
    port: int,
    title: str,
    allowed_hosts: Sequence[str] = (),
    root_path: str = "",
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve the console of a Celery application until a signal ends it.

    Raises:
        ConsoleError: it may not listen there, an option is of no use, or the broker is not this package's.
    """
    if root_path and not _PATH.fullmatch(root_path):
        raise ConsoleError(f"--root-path {root_path!r} is not a path such as /celery, without a slash at its end")
    secret = os.environ.get(SECRET) or None
    if secret is not None and len(secret) < _SHORTEST_SECRET:
        raise ConsoleError(f"{SECRET} is shorter than {_SHORTEST_SECRET} characters")
    keys = keys_for(host, os.environ)
    own = [host, *allowed(allowed_hosts, keys=not isinstance(keys, ThisMachine))]
    trusted = [_network(proxy) for proxy in trusted_proxies]
    console = create(source_of(app), keys, title=title, secret=secret, allowed_hosts=[socket.gethostname(), *own])
    config = uvicorn.Config(
        OwnHosts(console, own),
        host=host,
        port=port,
        root_path=root_path,
        log_level="warning",
        # By default uvicorn believes what anybody on this machine writes into X-Forwarded-For.
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    server = Server(config, console, _greeting(host, port, root_path, keys))
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


class Server(uvicorn.Server):
    """A server that ends the streams of live pages before it stops: uvicorn waits for every request.

    Args:
        config: of uvicorn.
        console: what `create` has returned.
        greeting: printed when it listens.
    """

    def __init__(self, config: uvicorn.Config, console: Starlette, greeting: str = "") -> None:
        super().__init__(config)
        self._console = console
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._greeting:
            print(self._greeting, flush=True)  # noqa: T201  # the command's own output

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.state.live.end()
        await super().shutdown(sockets)


def _greeting(host: str, port: int, root_path: str, keys: Keys) -> str:
    """Where the console is, and how to get in."""
    shown = f"[{host}]" if ":" in host else host
    below = f", below {root_path} of its proxy" if root_path else ""
    if isinstance(keys, ThisMachine):
        how = f"It asks for no key and answers to this machine alone; with keys in {KEYS} also to others."
    else:
        how = f"Sign in with a key of {KEYS}; `--new-key ROLE NAME` makes one."
    return f"The console listens on http://{shown}:{port}{below}. {how} Ctrl+C ends it."


def _network(proxy: str) -> str:
    """The network of a proxy as uvicorn reads it, which takes `10.0.0.5/24` for a name that no peer has.

    Raises:
        ConsoleError: it is none, or everybody is in it, who could then write any address into X-Forwarded-For.
    """
    try:
        network = ip_network(proxy, strict=False)
    except ValueError:
        raise ConsoleError(
            f"--trusted-proxy {proxy!r} is not an address such as 10.0.0.5, nor a network such as 10.0.0.0/24"
        ) from None
    if network.prefixlen == 0:
        raise ConsoleError(f"--trusted-proxy {proxy!r} is everybody: name the network of your proxies")
    return str(network)
