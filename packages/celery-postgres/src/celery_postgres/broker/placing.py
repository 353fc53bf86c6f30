"""The databases of a fleet, as one connection of Kombu uses them: its own, and the others that it publishes to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from celery_postgres.database import pool
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.placement import Databases
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import NotPublishedError

#: The groups whose databases a process remembers, from the first part that it publishes to the last; and the queues
#: whose databases a connection remembers.
GROUPS = 10_000


#: Writes the size of a chord into the database of that name; None for the backend's own.
Sized = Callable[[str | None], None]


class _Groups:
    """Where this process has published the parts of its latest groups."""

    def __init__(self) -> None:
        self.names: OrderedDict[str, set[str | None]] = OrderedDict()
        self.chords: OrderedDict[str, None] = OrderedDict()
        #: Of chords that have one part: what writes the size, once it is known.
        self.single: OrderedDict[str, Sized | None] = OrderedDict()


_groups = PerProcess(_Groups)


class Placing:
    """Finds the sessions of the database of a queue."""

    def __init__(
        self, databases: Databases, own: Callable[[], Sessions], settings: dict[str, str], timeout: int
    ) -> None:
        """
        Args:
            own: the sessions of the connection's own database.
            settings: those of each session.
            timeout: seconds until a server that does not answer counts as unreachable.
        """
        self._databases = databases
        self._own = own
        self._settings, self._timeout = settings, timeout
        self._open: dict[str, Sessions] = {}
        self._names: OrderedDict[str, str | None] = OrderedDict()

    def elsewhere(self, queue: str) -> str | None:
        """The name of the database that a queue is in; None if it is this connection's own."""
        if queue not in self._names:
            name = self._databases.of_queue(queue)
            here = name is None or name == self._databases.name_of(self._own().dsn)
            self._names[queue] = None if here else name
            _forget_oldest(self._names)
        return self._names[queue]

    def sessions(self, name: str) -> Sessions:
        """The sessions of the database of that name, shared with all connections of this process to it."""
        if name not in self._open:
            self._open[name] = pool.acquire(self._databases.dsn(name), self._settings, self._timeout, name)
        return self._open[name]

    def others(self) -> list[tuple[str, Sessions]]:
        """All databases but this connection's own: the name, and the sessions."""
        own = self._databases.name_of(self._own().dsn)
        return [(name, self.sessions(name)) for name in self._databases.names if name != own]

    def close(self) -> None:
        """Give all sessions back."""
        opened, self._open = self._open, {}
        for sessions in opened.values():
            pool.give_back(sessions)


def note_part(group: object, name: str | None) -> None:
    """A part of a group is about to be published to the database of that name; None for the connection's own.

    Raises:
        NotPublishedError: the group is the header of a chord, and other parts of it are in another database.
    """
    if not isinstance(group, str):
        return
    groups = _groups.value
    names = groups.names.setdefault(group, set())
    names.add(name)
    if group in groups.chords and len(names) > 1:
        raise _divided()
    _forget_oldest(groups.names)
    if (write := groups.single.get(group)) is not None:
        write(name)
        del groups.single[group]


def expect_chord(group: str) -> None:
    """A chord is about to be sent: a part in a second database is refused, and not only when the last one is known."""
    groups = _groups.value
    groups.chords[group] = None
    _forget_oldest(groups.chords)


def expect_one_part(group: str) -> None:
    """A chord is about to be sent whose header is one task."""
    groups = _groups.value
    groups.single[group] = None
    _forget_oldest(groups.single)


def size_later(group: str, write: Sized) -> bool:
    """Whether this is a chord of one task, which is published next: then `write` is called before it is."""
    groups = _groups.value
    if group not in groups.single:
        return False
    groups.single[group] = write
    return True


def begin_chord(group: str) -> list[str | None]:
    """The databases of the parts that this process has published of a group, which now turns out to be a chord's
    header. There are none yet if its parts are chains, whose last tasks are published later, or if it is one part.

    Raises:
        NotPublishedError: there are several. Each database counts the parts that it has seen end.
    """
    expect_chord(group)
    names = _groups.value.names.get(group, set())
    if len(names) > 1:
        raise _divided()
    return list(names)


def _forget_oldest(remembered: OrderedDict[str, Any]) -> None:
    while len(remembered) > GROUPS:
        remembered.popitem(last=False)


def _divided() -> NotPublishedError:
    return NotPublishedError(
        "the parts of a chord are counted in one database, and the queues of these parts are in several: route the "
        "whole header into one (its body may be in any)",
        lasting=True,
    )
