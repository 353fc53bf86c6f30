"""What an application does with results beside Celery's API; part of `celery_postgres.operations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celery_postgres.results.backend import DatabaseBackend
from celery_postgres.results.listener import listener
from celery_postgres.results.serializer import Pickle, load


def load_result(data: bytes | None, *, pickles: Literal["write", "read", "refuse"] = "read") -> Any:
    """The value of a stored result. Executes nothing, whatever the bytes are.

    Args:
        data: `TaskState.result`.
        pickles: the option `pickle` of `result_backend_transport_options`; `refuse` reads no pickle.

    Raises:
        celery.exceptions.SecurityError: it is neither JSON nor a pickle of plain values.
    """
    return load(data, Pickle(pickles))


@contextmanager
def watching(app: Any, task_id: str, ended: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `ended` once when the task has a final state, from the thread that listens.

    All watchers of a process share one thread and one connection. It polls where notifications do not arrive.

    Args:
        app: the Celery application.
        task_id: of the task.
        ended: must return at once.

    Raises:
        TypeError: the application's result backend is not this package's.
    """
    backend = app.backend
    if not isinstance(backend, DatabaseBackend):
        raise TypeError(f"the application's result backend is {type(backend).__module__}, not celery_postgres")
    shared = backend.elsewhere.watchers(listener(backend.sessions, backend.listening))

    def sink(_: Any) -> None:
        ended()

    shared.watch([task_id], sink)
    try:
        yield
    finally:
        shared.unwatch([task_id], sink)
