"""Failover to another URL on transports that parse their own URL.

`kombu.Connection.__init__` leaves the URL whole where the transport sets `can_parse_url`; `Connection.switch`, which a
failover calls, takes it apart all the same, and then connects to a host without a scheme. Unnecessary once `switch`
makes the same distinction. As in `__init__`, a transport that is given by its class or path (`broker_transport`) stays
for every URL without a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery_postgres.compat.upstream import Connection, transports


def install(parameters_of: Callable[[str], dict[str, str] | None]) -> None:
    """Patch Kombu's `Connection`. Calling it again changes nothing.

    Args:
        parameters_of: returns the parameters of a `Connection` to this URL; None for a URL that is Kombu's to parse.
    """
    if not hasattr(Connection.switch, "celery_postgres"):
        Connection.switch = _switching(Connection.switch, parameters_of)


def _switching(original: Any, parameters_of: Callable[[str], dict[str, str] | None]) -> Any:
    @wraps(original)
    def switch(self: Any, conn_str: str) -> None:
        parameters = parameters_of(conn_str)
        if parameters is None:
            original(self, conn_str)
            return
        given = self._initial_params["transport"]
        if given and given not in transports.TRANSPORT_ALIASES and "+" not in conn_str.partition("://")[0]:
            parameters = {**parameters, "transport": given}
        self.close()
        self.declared_entities.clear()
        self._closed = False
        self._init_params(**{**self._initial_params, **parameters})

    switch.celery_postgres = True  # type: ignore[attr-defined]
    return switch
