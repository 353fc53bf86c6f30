"""How a prefork child hands a result to its worker's main process.

Most go through the result pipe, which takes the ends of tasks. This module is for all others that the child cannot
store itself.

A child that waits for the database keeps its task from ending: the task's time limit kills it, a shutdown waits for it,
and where all of a role's connections are taken it waits without end. The main process has connections of its own, and a
writer that never gives up. So the child hands the write over and goes on.

The child sends one end of a new socket pair in a single datagram, which arrives complete or not at all: a child that is
killed halfway disturbs no other. Only children of this worker have the socket for these datagrams.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard import current_process
from celery import signals

from celery_postgres.results.result_pipe import ResultPipe

if TYPE_CHECKING:
    from celery_postgres.results.write import Write

logger = logging.getLogger(__name__)

#: How long a child that ends waits until the main process has stored its results.
_END_PATIENCE_S = 10.0

Database = tuple[str, ...]
Keep = Callable[["Write", bool], bool]


class Handover:
    """Created before the pool forks; the main process and its children each use one end.

    Attributes:
        results: for the ends of tasks, while the database can be reached.
    """

    def __init__(self) -> None:
        self._main, self._children = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._keepers: dict[Database, Keep] = {}
        self.results = ResultPipe()
        self.pid = os.getpid()

    # -- in a child

    def after_fork(self) -> None:
        """Close the main process' end, so that a child notices when the main process is gone."""
        self._main.close()
        self.results.after_fork_in_child()

    def keep(self, database: Database, write: Write, wait: bool) -> bool:
        """Hand a write to the main process.

        Args:
            wait: return only when it is stored there.

        Returns:
            False if it was not stored, because the worker ends.

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

    def serve(self, database: Database, keep: Keep) -> None:
        """Pass the writes for a database to `keep`, each in a thread of its own: `keep` may block."""
        first, self._keepers[database] = not self._keepers, keep
        if first:
            threading.Thread(target=self._run, name="celery_postgres handover", daemon=True).start()

    def _run(self) -> None:
        while True:
            _, descriptors, _, _ = socket.recv_fds(self._main, 1, 1)
            for descriptor in descriptors:
                arguments = (socket.socket(fileno=descriptor),)
                threading.Thread(
                    target=self._receive, args=arguments, name="celery_postgres handover", daemon=True
                ).start()

    def _receive(self, connection: socket.socket) -> None:
        with connection:
            try:
                with connection.makefile("rb") as stream:
                    database, write, wait = pickle.load(stream)  # noqa: S301  # from our own child
                keep = self._keepers.get(database)
                if keep is not None:
                    connection.send(b"1" if keep(write, wait) else b"0")
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                logger.warning("A child was killed while it handed over a result (%s)", type(error).__name__)


_handover: Handover | None = None


def handover() -> Handover | None:
    """The handover of this process, a worker's main process or its child; None in any other process."""
    return _handover


def is_child() -> bool:
    """Whether this process is a prefork child of a worker."""
    return _handover is not None and _handover.pid != os.getpid()


def is_spawned() -> bool:
    """Whether this process is a pool child that was started anew (`worker_pool_start_method = "spawn"`, Celery 5.7): it
    inherits no handover."""
    return _handover is None and bool(current_process().daemon)


@signals.worker_init.connect(weak=False)
def _prepare(**_: Any) -> None:
    """Before the pool forks. Two workers in one process, as in tests, share it."""
    global _handover
    if (_handover is None or is_child()) and hasattr(socket, "send_fds"):
        _handover = Handover()


@signals.worker_process_shutdown.connect(weak=False)
def _end_child(**_: Any) -> None:
    if is_child() and _handover is not None:
        _handover.results.end(_END_PATIENCE_S)


def _before_fork() -> None:
    if _handover is not None:
        _handover.results.before_fork()


def _after_fork_in_parent() -> None:
    if _handover is not None:
        _handover.results.after_fork_in_parent()


def _after_fork_in_child() -> None:
    if _handover is not None:
        _handover.after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
