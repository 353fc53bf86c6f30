"""Values that tasks of the probe program return."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

#: Values that are read back unchanged with any serializer of messages.
VALUES: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "numbers": lambda: [0, -1, 1 << 80, 1.5, True],
    "text": lambda: {"ü": "你好 🐘", "empty": ""},
    "nul": lambda: "a\x00b",
    "surrogate": lambda: "half \ud800 a pair",
    "bytes": lambda: b"\x00\xff",
    "time": lambda: [
        datetime.datetime(2024, 2, 29, 12, 30, 1, 5),  # noqa: DTZ001
        datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
        datetime.date(2024, 2, 29),
        datetime.time(1, 2, 3),
        datetime.timedelta(days=1, microseconds=7),
    ],
    "exact": lambda: {"price": Decimal("1.10"), "id": uuid.UUID(int=7)},
    "collections": lambda: {"set": {1, 2}, "frozen": frozenset({"a"}), "tuple": (1, (2, [3])), 5: "number as a key"},
    "deep": lambda: [[[[[{"a": ({"b": [Decimal(1)]},)}]]]]],
}
