"""How soon the two ends of a connection notice that the network between them is gone.

Without these parameters a worker whose link was cut waits for TCP's own limits: 15 minutes for an acknowledgement and
two hours for an answer. With them it noticed after 11 s.
"""

from __future__ import annotations

import os
import socket

from psycopg2.extensions import parse_dsn

#: Seconds for which a consumer counts as alive after its last sign of life.
LEASE_S = 30

#: libpq's parameters. Well within a lease, so that a short cut costs nothing. The other host has to confirm
#: packets, not its PostgreSQL: a server that is slow or stopped ends no connection.
PARAMETERS = {
    "tcp_user_timeout": "10000",  # ms
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}

#: The server's settings for the same connection: the other kernel may be silent for as long as a lease. Then the
#: session ends, and with it the lock that shows that a consumer lives. The default of two hours would also keep the
#: connection slots of a vanished worker, which takes new ones each time it returns.
SETTINGS = {
    "tcp_keepalives_idle": str(LEASE_S // 2),  # s
    "tcp_keepalives_interval": str(LEASE_S // 6),
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": str(LEASE_S * 1000),  # ms
}


def completed(dsn: str) -> dict[str, str]:
    """Those of `PARAMETERS` that a libpq connection string does not set."""
    given = parse_dsn(dsn)
    return {name: value for name, value in PARAMETERS.items() if name not in given}


def local_address(descriptor: int) -> list[str | int | None]:
    """Host and port of a connection's own end, as PostgreSQL's `inet_client_addr` and `inet_client_port` have them."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if end.family == socket.AF_UNIX:
            return [None, None]
        host, port = end.getsockname()[:2]
    return [host.partition("%")[0], port]
