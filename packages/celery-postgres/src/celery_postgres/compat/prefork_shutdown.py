"""A prefork worker that is told to stop, and runs a task that it gives back, or hangs for 30 s.

When Celery closes its consumer it forgets the tasks that no child has accepted yet, as far as it has read, because the
broker delivers them again; but a child that was free runs the one that is written to it. So a task ran twice for every
second stop of a busy worker. Here the pool first waits until such children have accepted their tasks. Under `-O fast`,
where tasks wait in the pipes of busy children, that would take as long as their tasks, so it is left as it is.

Celery's pool then reads what children report only while it knows of an unfinished task, and waits for the children to
end. But each child waits until the report of its last task is read, 30 s at most (billiard's
`_ensure_messages_consumed`), which is as long as containers wait before they kill. Here the pool reads until its
children have ended. Unnecessary once Celery's `AsynPool` does both.
"""

from __future__ import annotations

import inspect
import select
import sys
import time
from functools import wraps
from typing import Any

from kombu.asynchronous import get_event_loop

_READ_MS = 100
#: A free child accepts a task within milliseconds; one that ends has a successor, which has to start.
_ACCEPTING_S = 5.0


def install() -> None:
    """Patch the pool, if it is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.concurrency.asynpool")
    if loaded is not None and not hasattr(loaded.ResultHandler.on_stop_not_started, "celery_postgres"):
        loaded.ResultHandler.on_stop_not_started = _reading_on(loaded.ResultHandler.on_stop_not_started)
        loaded.AsynPool.flush = _after_acceptance(loaded.AsynPool.flush, loaded.SCHED_STRATEGY_FAIR)


# -- when the consumer closes


def _after_acceptance(original: Any, fair: Any) -> Any:
    @wraps(original)
    def flush(self: Any) -> None:
        if self.sched_strategy == fair:
            _read_until_accepted(self, time.monotonic() + _ACCEPTING_S)
        original(self)

    return flush


def _read_until_accepted(pool: Any, until: float) -> None:
    """Read what children report, until they have accepted the tasks that have been written to them."""
    from billiard.pool import TERMINATE  # loaded already

    while pool._state != TERMINATE and time.monotonic() < until:
        pool.maintain_pool()  # unless the pool closes, the successor of a child that has ended reads the same pipe
        written = [job for job in list(pool._cache.values()) if not job._accepted and _is_read(job._write_to)]
        if not written:
            return
        poller = select.poll()
        for job in written:
            if (writer := job._writer and job._writer()) in pool._active_writers:
                pool._flush_writer(job._write_to, writer)
            poller.register(job._write_to.outqR_fd, select.POLLIN)
        for descriptor, _ in poller.poll(_READ_MS):
            _read(pool, descriptor)


def _is_read(process: Any) -> bool:
    """Whether there is a child that reads what is written to it."""
    return process is not None and bool(process._is_alive())


def _read(pool: Any, descriptor: int) -> None:
    """As the event loop does: what is to be read may be the rest of a message."""
    loop: Any = get_event_loop()
    callback, arguments = pool._result_handler.handle_event, (descriptor,)
    if loop is not None:
        callback, arguments = loop.readers.get(descriptor, (callback, arguments))
    if inspect.isgenerator(callback):
        next(callback, None)
    else:
        callback(*arguments)


# -- when the pool stops


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
