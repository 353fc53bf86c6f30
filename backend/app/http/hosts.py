"""Which names a request may ask for.

Somebody may let the name of his own page point here (DNS rebinding). For a browser that page and this server are then
one origin, and the Host of its requests is all that tells them apart.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", re.ASCII)


class AllowedHosts:
    """The names of WEB_ALLOWED_HOSTS, that of this machine, and every address: only names can be made to point here."""

    def __init__(self, names: Collection[str]) -> None:
        wanted = {name.lower().rstrip(".") for name in names}
        self._any = "*" in wanted
        self._names = wanted | {socket.gethostname().lower()}
        self._endings = tuple(name[1:] for name in wanted if name.startswith("*."))

    def __contains__(self, header: str) -> bool:
        if self._any:
            return True
        parts = _HOST.fullmatch(header)
        if parts is None:
            return False
        name = (parts[1] or parts[2]).lower().rstrip(".")
        return name in self._names or name.endswith(self._endings) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
