"""A prefork worker that is told to stop, and hangs for 30 s.

When Celery closes its consumer it forgets the tasks that no child has accepted yet, as far as it has read; a child may
run one of them. Celery's pool then reads what children report only while it knows of an unfinished task, and waits for
the children to end. But each child waits until the report of its last task is read, 30 s at most (billiard's
`_ensure_messages_consumed`), which is as long as containers wait before they kill. Here the pool reads until its
children have ended. Unnecessary once the result handler of Celery's `AsynPool` does.
"""

from __future__ import annotations

import select
import sys
from functools import wraps
from typing import Any

_READ_MS = 100


def install() -> None:
    """Patch the pool, if it is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.concurrency.asynpool")
    if loaded is not None and not hasattr(loaded.ResultHandler.on_stop_not_started, "celery_postgres"):
        loaded.ResultHandler.on_stop_not_started = _reading_on(loaded.ResultHandler.on_stop_not_started)


def _reading_on(original: Any) -> Any:
    @wraps(original)
    def on_stop_not_started(self: Any) -> None:
        original(self)
        _read_until_ended(self, {fd: process for fd, process in self.fileno_to_outq.items() if process._is_alive()})

    on_stop_not_started.celery_postgres = True  # type: ignore[attr-defined]
    return on_stop_not_started


def _read_until_ended(handler: Any, processes: dict[int, Any]) -> None:
    from billiard.pool import DEATH, TERMINATE  # loaded already

    while processes and handler._state != TERMINATE:
        poller = select.poll()
        for descriptor in processes:
            poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(_READ_MS):
            report = _report(processes[descriptor].outq._reader)
            if report is None or report[0] == DEATH:  # the child ends by itself
                del processes[descriptor]
            else:
                handler.on_state_change(report)
        processes = {descriptor: process for descriptor, process in processes.items() if process._is_alive()}


def _report(reader: Any) -> Any:
    """What a child reports; None if it has closed its end."""
    from billiard.compat import setblocking

    try:
        setblocking(reader, True)
        return reader.recv()
    except (OSError, EOFError):
        return None
    finally:
        setblocking(reader, False)
