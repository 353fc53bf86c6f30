"""Kombu's classes without the types that celery-types gives them, which describe another transport's attributes."""

from __future__ import annotations

from typing import Any

import kombu
import kombu.transport
import kombu.transport.base
from kombu.transport import virtual as _virtual

virtual: Any = _virtual
base: Any = kombu.transport.base
transports: Any = kombu.transport
Connection: Any = kombu.Connection
