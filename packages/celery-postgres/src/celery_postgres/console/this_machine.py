"""A console without keys answers to this machine alone, also where it is mounted."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from celery_postgres.console.hosts import host_of, is_loopback

#: Headers by which a proxy says for whom it asks. Their values are the sender's text; that there is one is enough.
_FORWARDED = frozenset({
    b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-original-forwarded-for",
    b"x-original-host", b"cf-connecting-ip", b"true-client-ip", b"fastly-client-ip", b"x-envoy-external-address",
})  # fmt: skip
_FORWARDED_BEGIN = b"x-forwarded"
_KEYS = "give it keys: console.create(source, console.ConfiguredKeys(lines)), or CELERY_CONSOLE_KEYS for the command"


class ThisMachineAlone:
    """ASGI middleware that refuses what does not come from this machine.

    The address of the peer decides, and no header of it. A proxy on this machine has a loopback address for all whom it
    serves, so what a proxy has written on a request refuses it: a header, a name of another host, HTTP/1.0.

    Args:
        app: the console behind it.
        hosts: host names of the Host header, besides localhost and loopback addresses.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The console has no websockets, and what is neither is the server's own start and end.
        refusal = self._refusal(scope) if scope["type"] == "http" else ""
        if not refusal:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        text = f"This console has no keys and answers to this machine alone; {refusal}: {_KEYS}.\n".encode()
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty if it is not."""
        client = scope.get("client")
        if client is None or not _is_loopback_address(str(client[0])):
            return "this request came from elsewhere"
        names = {name.lower() for name, _ in scope["headers"]}
        if names & _FORWARDED or any(name.startswith(_FORWARDED_BEGIN) for name in names):
            return "this request came through a proxy"
        if scope.get("http_version") == "1.0":  # of no browser; of some proxies, which then say nothing else
            return "this request is HTTP/1.0, as proxies send it"
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) != 1 or not self._is_own(host_of(hosts[0])):
            return "this request names another host"
        return ""

    def _is_own(self, name: str | None) -> bool:
        return name is not None and (is_loopback(name) or name in self._hosts)


def _is_loopback_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
