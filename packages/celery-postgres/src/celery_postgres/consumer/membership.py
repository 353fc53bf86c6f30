"""This process among the consumers of a database: its id, the session that shows that it lives, and its counter."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_postgres.consumer.claims import Early
from celery_postgres.database.consumer_store import ConsumerStore, Lock, Other
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.names import printable

if TYPE_CHECKING:
    from celery_postgres.database.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beat:
    """What the database answers to a sign of life.

    Attributes:
        doubtful: whether it may say that this process has what it does not know of, or the other way round.
    """

    paused: frozenset[int]
    stopped: frozenset[str]
    waits: bool
    doubtful: bool
    others: list[Other]


class Membership:
    """Used by the heartbeat's thread, except where said.

    Attributes:
        consumer: the id under which this process claims; 0 while it has none. For every thread.
        lost: why this process cannot go on under its id; empty if it can.
        beats: its counter, when it was last heard of.
        early: what was acknowledged lately before it ran. For every thread.
        forgotten: of that, what the server has forgotten in a crash, as far as is known: message → (fence, mark).
    """

    def __init__(self) -> None:
        self.consumer = 0
        self.lost = ""
        self.beats = 0
        self.early = Early()
        self.forgotten: dict[int, tuple[int, str]] = {}
        self._lock = Lock(None, None, direct=False)
        self._database = 0
        self._unbroken = False

    def enter(self, session: Session) -> None:
        """Be alive by this session, which is new, under the same id as before if there is one."""
        key = None if session.pooled else secrets.randbits(62)
        opened = ConsumerStore(session).open_session(key)
        self._lock = Lock(None if key is None else opened.pid, key, session.direct)
        if self._database not in (0, opened.database):
            self.early.take()  # another database, of which nothing is known
        self._database = opened.database
        self._unbroken = False
        if not self.consumer:
            self._register(session)

    def _register(self, session: Session) -> None:
        """Under a random id of 16 digits (JSON has no longer ones), for three reasons. No process ever has the id of
        another, also where a database goes back in time. Nobody who may not read it can guess the channel on which
        this one is notified. And a sequence, from which older releases take theirs, never comes that far.
        """
        consumer = (1 << 52) + secrets.randbits(52)
        hostname = printable(socket.gethostname())
        ConsumerStore(session).register(consumer, hostname, os.getpid(), self._lock)
        self.consumer, self.lost, self.beats, self._unbroken = consumer, "", 0, True

    def ended(self, message: int, mark: object) -> bool:
        """Whether this process had acknowledged that message before it ran, and a server that crashed has forgotten it.

        Its thread may have claimed before the heartbeat is back. Any thread may ask.
        """
        found = self.forgotten.get(message) or self.early.find(message)
        return found is not None and found[1] == mark

    def leave(self) -> None:
        """This id is no longer ours."""
        self.consumer = 0

    def beat(self, session: Session, *, peek: bool) -> Beat | None:
        """Give a sign of life; None if this process cannot go on under its id: see `lost`."""
        answer = ConsumerStore(session).beat(self.consumer, self._lock, peek=peek)
        own = answer.own
        if own is None:
            self.lost = "this process was silent for so long that others took its messages over"
            return None
        before, self.beats = self.beats, own.counter
        unbroken, self._unbroken = self._unbroken, True
        if unbroken and own.counter > before + 1:
            self.lost = "another process has the id of this one, as a copy of its machine would"
            return None
        as_expected = unbroken and own.counter == before + 1
        if as_expected:
            self.early.expire()
        else:
            self._come_back(session, before, own.counter)
        return Beat(own.paused_queues, own.blocked_tasks, own.messages_wait, not as_expected, answer.others)

    def _come_back(self, session: Session, before: int, beats: int) -> None:
        """After a lost connection, or when the counter shows that something happened.

        A crash forgets what was written in its last 0.6 s, at most one beat. If more is missing the database went back
        in time: a restore, or a standby that lagged.
        """
        self.forgotten = self.early.take()
        if beats < before:
            logger.warning("the database went back in time: what this process no longer knows of is given back")
            self.forgotten = {}
        if self.forgotten:
            marks = {message: mark for message, (_, mark) in self.forgotten.items()}
            MessageStore(session).settle_forgotten(marks)
