"""Limits log lines that strangers can cause as often as they like."""

from __future__ import annotations

import logging
import threading
import time

#: The number of equal lines that are shown in a period of seconds; after it, one line counts the rest.
SHOWN, PERIOD_S = 5, 10.0
#: The number of different lines that are distinguished.
_MOST_KINDS = 100


class Repeated(logging.Filter):
    """Passes the first few of each line in a period. Lines are equal if their templates, before the arguments, are."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        now, text = time.monotonic(), str(record.msg)
        with self._lock:
            begun, count = self._seen.get(text, (now, 0))
            left_out = 0
            if now - begun >= PERIOD_S:
                begun, count, left_out = now, 0, max(0, count - SHOWN)
            if len(self._seen) >= _MOST_KINDS and text not in self._seen:
                self._seen.clear()
            self._seen[text] = begun, count + 1
        if left_out:
            record.msg = f"{text} (and {left_out} times more since the last of these lines)"
        return count < SHOWN
