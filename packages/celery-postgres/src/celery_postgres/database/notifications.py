"""The thread that hears the database's wake-ups, on a connection that does nothing else.

A statement's answer comes after all notifications that the server has for its session, and the driver keeps every
one of them: a flood would hold the heartbeat up for as long as it lasts. So nothing else depends on this connection.
While it does not listen, the process polls.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg2

from celery_postgres.database.backoff import Backoff
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.wake import Wake
from celery_postgres.errors import SchemaError, loggable

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions

logger = logging.getLogger(__name__)


class FloodError(Exception):
    """More notifications than anybody has use for."""


class Notifications:
    """Wake-ups of one channel, passed on to `notify`.

    Attributes:
        deaf: whether none arrive now: not connected, behind a transaction pooler, or flooded.
    """

    #: A publisher sends one only while a consumer sleeps. So many notifications, or bytes, within a second are a flood,
    #: whoever sends them; from then on this process polls for a while.
    MOST, MOST_BYTES = 2_000, 1 << 20
    FLOODED_S = 10.0
    #: A connection that is lost makes itself readable; this is for what nobody foresaw.
    REST_S = 10.0

    def __init__(self, sessions: Sessions, notify: Callable[[], None]) -> None:
        self.deaf = True
        self._sessions = sessions
        self._notify = notify
        self._wake = Wake()
        self._retry = Backoff()
        self._channel = ""
        self._stopping = False
        self._thread: threading.Thread | None = None

    def listen(self, channel: str) -> None:
        """Listen on this channel from soon on, and on no other. For one thread."""
        self._channel = channel
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="celery_postgres notifications", daemon=True)
            self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)
        self._wake.close()

    # -- the thread

    def _run(self) -> None:
        while not self._stopping:
            pause = 0.0
            try:
                if not self._hear():
                    return  # until the process connects anew, perhaps past the pooler
            except FloodError:
                pause = self.FLOODED_S
                logger.warning("more than %d notifications in a second: this process polls for %d s", self.MOST, pause)
            except Exception as error:  # whatever it is: the process polls, and this is tried again
                known, pause = self._retry.failing, self._retry.failed()
                if not known and not self._stopping:
                    why = loggable(error) if isinstance(error, (psycopg2.Error, SchemaError)) else type(error).__name__
                    logger.warning("notifications do not arrive (%s): until they do, this process polls", why)
            finally:
                self.deaf = True
            self._rest(pause)

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def _hear(self) -> bool:
        """Listen until there is another channel; False if notifications cannot arrive at all.

        Raises:
            FloodError: there were too many.
        """
        session, channel = self._sessions.connect(), self._channel
        try:
            if not hears(session, self._sessions.dsn, self._sessions.connect):
                logger.warning(
                    "a transaction pooler stands before the database, so notifications do not arrive: this process "
                    "polls. Name a direct address in broker_transport_options['listen_dsn'] to be woken up"
                )
                return False
            session.listen(channel)
            self.deaf = False
            self._retry.succeeded()
            self._notify()  # what was sent before was not heard
            began, count, size = time.monotonic(), 0, 0
            while not self._stopping and channel == self._channel:
                heard = session.notifications()
                if heard:
                    self._notify()
                    count, size = count + len(heard), size + sum(map(len, heard))
                    if count > self.MOST or size > self.MOST_BYTES:
                        raise FloodError
                if time.monotonic() - began > 1:
                    began, count, size = time.monotonic(), 0, 0
                if not heard:
                    self._wake.wait(self.REST_S, session.fileno())
                    self._wake.clear()
            return True
        finally:
            session.close()
