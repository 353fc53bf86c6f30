"""How a prefork child leaves to its worker's main process what it cannot store itself.

A child that waits for the database keeps its task from ending: the task's time limit kills it, a stop waits for it, and
where a role's connections are all taken it waits for ever. The main process has connections of its own, and a writer
that never gives up. So the child gives it what is to be stored and goes on.

A descriptor of an own socket pair goes through one datagram, which is there whole or not at all: a child that is killed
halfway disturbs nobody. Only children of this worker have the other end.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from celery_postgres.results.result_store import Write

logger = logging.getLogger(__name__)

Database = tuple[str, ...]
Take = Callable[["Write", bool], bool]


class Handover:
    """Made before the children are forked, and used at its two ends."""

    def __init__(self) -> None:
        self._main, self._children = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._takes: dict[Database, Take] = {}
        self.pid = os.getpid()

    # -- in a child

    def leave(self) -> None:
        """After the fork: the main process' end is its alone, so that a child hears when it is gone."""
        self._main.close()

    def keep(self, database: Database, write: Write, wait: bool) -> bool:
        """Give it to the main process. With `wait` return only when it is stored there; False if it is not.

        Raises:
            OSError: the main process is gone, or stores nothing in this database.
        """
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                socket.send_fds(self._children, [b"-"], [theirs.fileno()])
            with mine.makefile("wb") as stream:
                pickle.dump((database, write, wait), stream)
            mine.shutdown(socket.SHUT_WR)
            answer = mine.recv(1)
        if not answer:
            raise ConnectionResetError("the worker's main process has not taken it")
        return answer == b"1"

    # -- in the main process

    def serve(self, database: Database, take: Take) -> None:
        """From now on hand to `take` what comes for a database. Each time a thread calls it, which may wait."""
        first, self._takes[database] = not self._takes, take
        if first:
            threading.Thread(target=self._run, name="celery_postgres handover", daemon=True).start()

    def _run(self) -> None:
        while True:
            _, descriptors, _, _ = socket.recv_fds(self._main, 1, 1)
            for descriptor in descriptors:
                arguments = (socket.socket(fileno=descriptor),)
                threading.Thread(
                    target=self._taken, args=arguments, name="celery_postgres handover", daemon=True
                ).start()

    def _taken(self, connection: socket.socket) -> None:
        with connection:
            try:
                with connection.makefile("rb") as stream:
                    database, write, wait = pickle.load(stream)  # noqa: S301  # of our own child
                take = self._takes.get(database)
                if take is not None:
                    connection.send(b"1" if take(write, wait) else b"0")
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                logger.warning("a child was killed while it gave a result away (%s)", type(error).__name__)


_here: Handover | None = None


def handover() -> Handover | None:
    """What this process, a worker's main process or a child of it, has; None anywhere else."""
    return _here


def is_child() -> bool:
    return _here is not None and _here.pid != os.getpid()


@signals.worker_init.connect(weak=False)
def _prepare(**_: Any) -> None:
    """Before the pool forks. Of two workers in one process, as in tests, both use it."""
    global _here
    if (_here is None or is_child()) and hasattr(socket, "send_fds"):
        _here = Handover()


def _forget_in_child() -> None:
    if _here is not None:
        _here.leave()


os.register_at_fork(after_in_child=_forget_in_child)
