"""What the rooms above need of the driver, which they do not import themselves."""

from __future__ import annotations

import psycopg2
import psycopg2.extensions
from psycopg2 import Error, InterfaceError, OperationalError, errorcodes

NAME = "psycopg2"
#: A connection was lost, or could not be made.
LOST_CONNECTION = (OperationalError, InterfaceError)
SERIALIZATION_FAILURE: str = errorcodes.SERIALIZATION_FAILURE


def libpq_version() -> str:
    """The version of libpq, as libpq has it: 150004 is 15.4."""
    return str(psycopg2.extensions.libpq_version())


def can_copy() -> bool:
    """Whether COPY works: not while another library (gevent's psycogreen) waits for the answers."""
    return psycopg2.extensions.get_wait_callback() is None


__all__ = [
    "LOST_CONNECTION",
    "NAME",
    "SERIALIZATION_FAILURE",
    "Error",
    "InterfaceError",
    "OperationalError",
    "can_copy",
    "libpq_version",
]
