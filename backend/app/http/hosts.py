"""Which host names a request may use.

An attacker may let the name of his own page resolve to this address (DNS rebinding). A browser then treats that page
and this server as one origin, and only the Host header of its requests distinguishes them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", re.ASCII)


class AllowedHosts:
    """The names of WEB_ALLOWED_HOSTS, this machine's name, and every address: DNS rebinding needs a name."""

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
