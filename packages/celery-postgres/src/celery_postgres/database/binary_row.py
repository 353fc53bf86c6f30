"""One row in COPY's binary format, in which the server takes a long text without reading it as a literal.

See "Binary Format" in PostgreSQL's manual for COPY, and the `send` and `recv` functions of each type.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

#: Bytes in one message of the protocol.
COPIED_AT_ONCE = 1 << 16
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_END = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)

_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "bigint": struct.Struct("!q").pack,
    "smallint": struct.Struct("!h").pack,
    "text": str.encode,
    #: Microseconds since 2000 began, in UTC.
    "timestamptz": struct.Struct("!q").pack,
    "uuid": lambda value: UUID(value).bytes,
}


#: Bytes of a block after whose release glibc keeps blocks up to this size, instead of returning each to the kernel.
_KEPT = 1 << 23


@lru_cache(maxsize=1)
def _keep_blocks() -> None:
    """Let long messages reuse memory. Otherwise the pages of each are new: 9.0 ms of the publisher for 1 MB, not 5.5.

    See "Dynamic mmap threshold" in mallopt(3). The block is never written to, so it takes no memory.
    """
    bytes(_KEPT)


def binary_row(columns: Sequence[tuple[str, Any]]) -> bytes:
    """A whole COPY of one row.

    Args:
        columns: the type and the value of each. None is null; a timestamp is in microseconds since 2000 began, in UTC.
    """
    _keep_blocks()
    parts = [_HEADER, struct.pack("!h", len(columns))]
    for kind, value in columns:
        if value is None:
            parts.append(_NULL)
        else:
            encoded = _ENCODERS[kind](value)
            parts += [struct.pack("!i", len(encoded)), encoded]
    return b"".join([*parts, _END])
