"""The thread that receives the database's notifications, on a connection that does nothing else.

A statement's answer comes after all notifications that the server has for its session, and the driver keeps every one
of them: a flood would hold up the heartbeat for as long as it lasts. So nothing else depends on this connection. While
notifications do not arrive, the process polls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg2

from celery_postgres.database.notification_probe import hears
from celery_postgres.database.service import Service
from celery_postgres.errors import SchemaError, loggable

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions
    from celery_postgres.database.session import Session

logger = logging.getLogger(__name__)


class FloodError(Exception):
    """More notifications than the process can use."""


class Notifications(Service):
    """Calls `notify` for the notifications of one channel.

    Attributes:
        arrive: whether notifications arrive now. They do not without a connection, behind a transaction pooler, and for
            a while after a flood.
    """

    #: A publisher notifies only sleeping consumers. More notifications, or bytes, within a second are a flood, whatever
    #: sends them; from then on this process polls for a while.
    LIMIT, LIMIT_BYTES = 2_000, 1 << 20
    FLOODED_S = 10.0
    #: A statement after so long a silence: a proxy such as HAProxy closes a connection on which nothing is sent for a
    #: minute or an hour, and a server that answers no more makes nothing readable.
    REST_S = 10.0

    def __init__(self, sessions: Sessions, notify: Callable[[], None]) -> None:
        super().__init__("notifications")
        self.arrive = False
        self._sessions = sessions
        self._notify = notify
        self._channel = self._listening = ""
        self._session: Session | None = None
        #: Behind a transaction pooler: no use until the process connects anew, perhaps past the pooler.
        self._useless = False
        self._began, self._count, self._size = 0.0, 0, 0

    def listen(self, channel: str) -> None:
        """Listen on this channel from soon on, and on no other. For one thread."""
        self._channel, self._useless = channel, False
        self.start()
        self.wake.set()

    def stop(self) -> None:
        super().stop()
        self.wake.close()

    # -- the thread

    @property
    def connected(self) -> bool:
        return self._session is not None

    def is_needed(self) -> bool:
        return not self._useless

    def connect(self) -> None:
        session, self._listening = self._sessions.connect(), self._channel
        self._session = session
        if not hears(session, self._sessions.dsn, self._sessions.connect):
            logger.warning(
                "A transaction pooler stands before the database, so notifications do not arrive: this process polls. "
                "Name a direct address in broker_transport_options['listen_dsn'] to receive them"
            )
            self._useless = True
            return
        session.listen(self._listening)
        if self.retry.failing:
            logger.info("Notifications arrive again")
        self.arrive = True
        self._began, self._count, self._size = time.monotonic(), 0, 0
        self._notify()  # what was sent before was not heard

    def turn(self) -> None:
        """Receive notifications, and wait if there are none.

        Raises:
            FloodError: there were too many.
        """
        session = self._session
        assert session is not None  # noqa: S101
        if self._useless or self._listening != self._channel:
            self.disconnect()
            return
        heard = session.notifications()
        if heard:
            self._notify()
            self._count, self._size = self._count + len(heard), self._size + sum(map(len, heard))
            if self._count > self.LIMIT or self._size > self.LIMIT_BYTES:
                raise FloodError
        if time.monotonic() - self._began > 1:
            self._began, self._count, self._size = time.monotonic(), 0, 0
        if not heard:
            readable = self.wake.wait(self.REST_S, session.fileno())
            self.wake.clear()
            if not readable:
                session.script("SELECT 1")

    def disconnect(self) -> None:
        self.arrive = False
        if self._session is not None:
            self._session.close()
            self._session = None

    def pause_after(self, error: Exception) -> float:
        return self.FLOODED_S if isinstance(error, FloodError) else super().pause_after(error)

    def log_failure(self, error: Exception, pause: float, *, first: bool) -> None:
        if isinstance(error, FloodError):
            logger.warning("More than %d notifications in a second: this process polls for %d s", self.LIMIT, pause)
        elif first:
            why = loggable(error) if isinstance(error, psycopg2.Error | SchemaError) else type(error).__name__
            logger.warning("Notifications do not arrive (%s): until they do, this process polls", why)
