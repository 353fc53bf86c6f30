"""Queues and bindings that somebody declares.

Whoever declares looks first and writes only what is not so yet: a publisher whose queue is there needs no right to
change any, and makes no dead rows at each start.
"""

from __future__ import annotations

from collections.abc import Callable

from celery_postgres.database.session import Row


def declare(
    run: Callable[..., list[Row]], queue: str, *, auto_delete: bool, expires_ms: int | None, message_ttl_ms: int | None
) -> int:
    """The queue's id; made if it is not there.

    :param run: a session's.
    """
    wanted = {"auto_delete": auto_delete, "expires_ms": expires_ms, "message_ttl_ms": message_ttl_ms}
    lasting = not auto_delete and expires_ms is None  # when it was used last does not matter then
    while True:  # it may come and go between two statements
        found = run("find_queue", queue=queue)
        if found and lasting and found[0][1:] == tuple(wanted.values()):
            return int(found[0][0])
        for (queue_id,) in run("change_queue" if found else "make_queue", queue=queue, **wanted):
            return int(queue_id)


def bind(
    run: Callable[..., list[Row]], queue: str, exchange: str, *, kind: str, routing_key: str, pattern: str | None
) -> None:
    """Bind a queue to an exchange; a queue that is not there is bound to nothing.

    :param run: a session's.
    """
    where = {"queue": queue, "exchange": exchange, "routing_key": routing_key}
    found = run("find_binding", **where)
    if found != [(kind, pattern)]:
        run("change_binding" if found else "bind", type=kind, pattern=pattern, **where)
