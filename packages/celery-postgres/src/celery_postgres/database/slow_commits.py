"""Wake-ups for what became visible long after its statement, because its commit waited: for a standby, or a disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery_postgres.database import driver
from celery_postgres.errors import SchemaError

#: A statement notifies those that sleep when it begins. A consumer that falls asleep, and a listener that registers,
#: polls for this long, and finds what is committed until then.
POLLS_FOR_S = 0.25


@contextlib.contextmanager
def woken_if_slow(run: Callable[..., Any], statement: str, **given: Any) -> Iterator[None]:
    """Run `statement`, which wakes whom the block has missed, if the block takes longer than they poll.

    Without it a message waits until a heartbeat checks (1.2 s), and a result until the listener polls again (5 s).
    """
    begun = time.monotonic()
    yield
    if time.monotonic() - begun > POLLS_FOR_S:
        # What the block has written is committed, whatever happens now.
        with contextlib.suppress(driver.Error, SchemaError):
            run(statement, **given)
