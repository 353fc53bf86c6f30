"""The state of a test's own socket."""

from __future__ import annotations

import socket


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it.  Reads what has arrived, without waiting."""
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        return connection.recv(65_536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        connection.settimeout(timeout)
