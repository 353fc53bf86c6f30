"""The pipes between a prefork worker's main process and its children, with one call of the kernel for each message.

Celery writes a task in two pieces, its length and its body: the child wakes up for the length, preempts the main
process, and waits for the body. Before, it adds the pipes of all free children to its poller, polls, and removes them,
although a free child's pipe has room. It reads what a child reports in two pieces each, and adds the pipe to its poller
again. Of a main process with two children that is a third of its time.

The messages, their order, and who gets which task are Celery's. What does not fit a pipe at once, and what Celery does
not do as it does from 5.4 to 5.7, is left to Celery. Unnecessary once Celery's `AsynPool` does the same.
"""

from __future__ import annotations

import os
import pickle
import select
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from celery_postgres.compat.prefork_messages import with_parsed_body

_LENGTH = struct.Struct(">i")
#: A pipe takes this much completely or not at all (POSIX, write()).
_AT_ONCE = select.PIPE_BUF
_READ_BYTES = 1 << 14
_NOTHING = memoryview(b"")


def install() -> None:
    """Patch the pool, if it is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.concurrency.asynpool")
    if loaded is None:
        return
    pool, handler = loaded.AsynPool, loaded.ResultHandler
    if hasattr(pool, "_create_write_handlers") and not hasattr(pool._create_write_handlers, "celery_postgres"):
        pool._create_write_handlers = _writing(pool._create_write_handlers, fair=loaded.SCHED_STRATEGY_FAIR)
    if hasattr(handler, "_make_process_result") and not hasattr(handler._make_process_result, "celery_postgres"):
        handler._make_process_result = _reading(handler._make_process_result)


# -- what the main process writes


def _writing(original: Any, fair: Any) -> Any:
    @wraps(original)
    def _create_write_handlers(self: Any, hub: Any, *arguments: Any, **options: Any) -> None:
        original(self, hub, *arguments, **options)
        if not _are_pipes(self._queues):
            return
        self._quick_put = _in_one_write(self._quick_put, self._cache)
        if self.sched_strategy == fair:  # else a child may have several tasks, as many as its pipe takes
            _skip_what_is_not_added(hub)
            self.on_poll_start = _at_once(self, hub, self.on_poll_start)

    _create_write_handlers.celery_postgres = True  # type: ignore[attr-defined]
    return _create_write_handlers


def _are_pipes(queues: Any) -> bool:
    return all(stat.S_ISFIFO(os.fstat(inq._writer.fileno()).st_mode) for inq, *_ in queues)


def _in_one_write(original: Callable[[Any], None], jobs: dict[int, Any]) -> Callable[[Any], None]:
    """`_quick_put`, which pickles a task and notes what is to be written."""

    def send_job(task: Any) -> None:
        job = jobs[task[1][0]]
        original(with_parsed_body(task, job))
        header, body, size = job._payload
        if len(header) + size <= _AT_ONCE:
            # Celery writes the first until 4 bytes are written, which is all or nothing, and then none of the second.
            job._payload = memoryview(b"".join((header, body))), _NOTHING, 0

    return send_job


def _at_once(pool: Any, hub: Any, original: Callable[[], None]) -> Callable[[], None]:
    """`on_poll_start`, called before each poll: gives the tasks that wait to the children that are free."""
    waiting, known, writing, busy = pool.outbound_buffer, pool._all_inqueues, pool._active_writes, pool._busy_workers

    def on_poll_start() -> None:
        while waiting and len(busy) < len(known):
            before = len(waiting)
            hub.consolidate_callback(list(known - writing - busy))
            if len(waiting) >= before:
                break
        # Celery's own, for what could not be given now, and to remove what it has added.
        if hub.consolidate or (waiting and len(busy) < len(known)):
            original()

    return on_poll_start


def _skip_what_is_not_added(hub: Any) -> None:
    """Celery removes a pipe from the poller after each write, also one that is not in it: a call that fails."""
    original = hub.remove_writer
    if hasattr(original, "celery_postgres"):
        return

    def remove_writer(descriptor: Any) -> None:
        if (
            type(descriptor) is not int
            or descriptor in hub.writers
            or descriptor in hub.readers
            or descriptor in hub.consolidate
        ):
            original(descriptor)

    remove_writer.celery_postgres = True  # type: ignore[attr-defined]
    hub.remove_writer = remove_writer


# -- what the main process reads


def _reading(original: Any) -> Any:
    @wraps(original)
    def _make_process_result(self: Any, hub: Any) -> Any:
        return _Reader(self, hub).read

    _make_process_result.celery_postgres = True  # type: ignore[attr-defined]
    return _make_process_result


class _Reader:
    """Reads what children report: Celery's `on_result_readable` and `_recv_message`."""

    def __init__(self, handler: Any, hub: Any) -> None:
        self._handler, self._hub = handler, hub
        self._pipes, self._take = handler.fileno_to_outq, handler.on_state_change

    def read(self, descriptor: int) -> None:
        """Everything that is in the pipe of a child, which is readable."""
        data = b""
        if descriptor in self._pipes:  # else the child is gone
            try:
                data = os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
        if not data:
            self._hub.remove_reader(descriptor)
            return
        messages, begun = _messages(data)
        if begun:
            self._hub.add_reader(descriptor, self._rest(descriptor, begun))
        self._dispatch(messages)

    def _rest(self, descriptor: int, begun: bytes) -> Iterator[None]:
        """The rest of a message, and no more: what reads on at the end of a worker resumes this."""
        while missing := _missing(begun):
            try:
                piece = os.read(descriptor, missing)
            except BlockingIOError:
                yield
                continue
            if not piece:
                raise EOFError
            begun += piece
        self._hub.add_reader(descriptor, self._handler.handle_event, descriptor)
        self._dispatch(_messages(begun)[0])

    def _dispatch(self, messages: list[bytes]) -> None:
        """They are out of the pipe, so each has its turn, whatever another raises."""
        for position, packed in enumerate(messages, 1):
            try:
                message = pickle.loads(packed)  # noqa: S301  # from our own child
                if message:
                    self._take(message)
            except BaseException:
                self._dispatch(messages[position:])
                raise


def _messages(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete messages, and what has come of the next."""
    messages, begin, there = [], 0, len(data)
    while (body := begin + _LENGTH.size) <= there:
        (length,) = _LENGTH.unpack_from(data, begin)
        if body + length > there:
            break
        begin = body + length
        messages.append(data[body:begin])
    return messages, data[begin:]


def _missing(data: bytes) -> int:
    """How many bytes more to read: the length's, or the message's."""
    there = len(data)
    if there < _LENGTH.size:
        return _LENGTH.size - there
    return max(0, int(_LENGTH.unpack_from(data)[0]) + _LENGTH.size - there)
