"""This process among the consumers of a database: its id, the session that shows that it lives, and its counter."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_postgres.consumer.early_acks import EarlyAcks
from celery_postgres.database.consumer_store import Beat, ConsumerStore, Lock, Other, Report
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.names import printable

if TYPE_CHECKING:
    from celery_postgres.database.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat has found out.

    Attributes:
        paused: ids of the queues that an operator has paused.
        blocked: names of the tasks that an operator has blocked.
        messages_wait: a message waits for this consumer, or is due before the next heartbeat.
        uncertain: the database may record claims and subscriptions that this process does not know about, or miss some.
        others: the other consumers.
        fair: ids of the queues that are fair.
        draining: this worker shall end when what it runs has ended.
    """

    paused: frozenset[int]
    blocked: frozenset[str]
    messages_wait: bool
    uncertain: bool
    others: list[Other]
    fair: frozenset[int]
    draining: bool


class Membership:
    """Used by the heartbeat's thread; every thread may read `consumer`.

    Attributes:
        consumer: the id under which this process claims; 0 while it has none.
        lost: why this process cannot go on under its id; empty if it can.
        counter: its own counter, as the latest heartbeat has left it.
    """

    def __init__(self, early: EarlyAcks) -> None:
        self.consumer = 0
        self.lost = ""
        self.counter = 0
        self._early = early
        self._lock = Lock(None, None, direct=False)
        self._database = 0
        self._unbroken = False

    def enter(self, session: Session) -> None:
        """Live by this new session, under the same id as before if there is one."""
        consumers = ConsumerStore(session)
        key = None if session.pooled else secrets.randbits(62)
        opened = consumers.open_session(key)
        self._lock = Lock(None if key is None else opened.pid, key, session.direct)
        if self._database not in (0, opened.database):
            self._early.take()  # another database, which knows nothing of them
        self._database = opened.database
        self._unbroken = False
        if not self.consumer:
            self._register(consumers)

    def _register(self, consumers: ConsumerStore) -> None:
        """Register under a random id of 16 digits (JSON has no longer numbers), for three reasons. No process ever has
        the id of another, also where a database goes back in time. Nobody who may not read the id can guess the channel
        on which this process is notified. And a sequence, from which older releases take ids, never comes that far.
        """
        consumer = (1 << 52) + secrets.randbits(52)
        consumers.register(consumer, printable(socket.gethostname()), os.getpid(), self._lock)
        self.consumer, self.lost, self.counter, self._unbroken = consumer, "", 0, True

    def leave(self) -> None:
        """This id is no longer this process's."""
        self.consumer = 0

    def beat(self, session: Session, report: Report, *, peek: bool) -> Pulse | None:
        """Send a heartbeat; None if this process cannot go on under its id: see `lost`.

        Args:
            report: what this worker is and does.
            peek: also check for waiting messages.
        """
        answer: Beat = ConsumerStore(session).beat(self.consumer, self._lock, report, peek=peek)
        own = answer.own
        if own is None:
            self.lost = "This process was silent for so long that other consumers took over its messages"
            return None
        before, self.counter = self.counter, own.counter
        unbroken, self._unbroken = self._unbroken, True
        if unbroken and own.counter > before + 1:
            self.lost = "Another process has the id of this one, as a copy of its machine would"
            return None
        as_expected = unbroken and own.counter == before + 1
        if as_expected:
            self._early.expire()
        else:
            self._come_back(session, went_back=own.counter < before)
        return Pulse(
            own.paused_queues,
            own.blocked_tasks,
            own.messages_wait,
            not as_expected,
            answer.others,
            own.fair_queues,
            own.draining,
        )

    def _come_back(self, session: Session, *, went_back: bool) -> None:
        """After a lost connection, or when the counter shows that something happened.

        A crash forgets what was written in its last 0.6 s, at most one heartbeat. If more is missing the database went
        back in time: a restore, or a standby that lagged.
        """
        if went_back:
            logger.warning("The database went back in time; releasing the claims that this process does not know about")
        marks = self._early.recall(went_back=went_back)
        if marks:
            MessageStore(session).settle_forgotten(marks)
