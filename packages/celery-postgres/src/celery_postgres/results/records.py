"""The records of the result pipe: what a child has finished, in pieces that each arrive complete or not at all."""

from __future__ import annotations

import pickle
import select
import struct
from collections.abc import Iterator
from operator import attrgetter

from celery_postgres.database.attempt_store import EndedAttempt
from celery_postgres.database.result_store import Outcome, Part
from celery_postgres.results.write import Write

#: Of a piece: its length, how many pieces of the record follow, the child's number, and the number of the record among
#: those of this child.
_HEAD = struct.Struct("=HBIQ")
_PIECE = select.PIPE_BUF - _HEAD.size
#: Of a record. A larger one is worth a commit of its own.
LONGEST = 16 * _PIECE
_outcome = attrgetter(*Outcome.__slots__)  # dataclasses.astuple takes 12 us, this 0.2
_part = attrgetter(*Part.__slots__)
_attempt = attrgetter(*EndedAttempt.__slots__)


def pack(write: Write) -> bytes:
    """A write as a record: plain tuples, which take half of the time to pickle and of the space."""
    attempts = [*map(_attempt, write.attempts)]
    rows = (*map(_outcome, write.outcomes), None, *map(_part, write.parts), attempts, write.claim)
    return pickle.dumps(rows, protocol=5)


def _unpack(record: bytes) -> Write:
    *rows, attempts, claim = pickle.loads(record)  # noqa: S301  # from our own child
    middle = rows.index(None)
    return Write(
        [Outcome(*one) for one in rows[:middle]],
        [Part(*one) for one in rows[middle + 1 :]],
        claim,
        attempts=[EndedAttempt(*one) for one in attempts],
    )


def pieces_of(record: bytes, child: int, number: int) -> Iterator[bytes]:
    """What to write, each at once."""
    if len(record) <= _PIECE:
        yield _HEAD.pack(len(record), 0, child, number) + record
        return
    begins = range(0, len(record), _PIECE)
    for follow, begin in zip(reversed(range(len(begins))), begins, strict=True):
        piece = record[begin : begin + _PIECE]
        yield _HEAD.pack(len(piece), follow, child, number) + piece


class Assembly:
    """Makes writes of what is read."""

    def __init__(self) -> None:
        self._rest = b""
        #: By child: the record whose last piece has not come yet, and its pieces.
        self._pieces: dict[int, tuple[int, bytes]] = {}

    def add(self, data: bytes) -> list[Write]:
        """The writes that are complete now."""
        data = self._rest + data
        writes: list[Write] = []
        begin = 0
        while len(data) - begin >= _HEAD.size:
            length, follow, child, number = _HEAD.unpack_from(data, begin)
            end = begin + _HEAD.size + length
            if end > len(data):
                break
            record = self._complete(child, number, data[begin + _HEAD.size : end], follow)
            if record is not None:
                write = _unpack(record)
                write.origin = child, number
                writes.append(write)
            begin = end
        self._rest = data[begin:]
        return writes

    def _complete(self, child: int, number: int, piece: bytes, follow: int) -> bytes | None:
        """The record, if this is its last piece. One that its child has not completed is dropped with its next."""
        if self._pieces:
            known, pieces = self._pieces.pop(child, (number, b""))
            if known == number:
                piece = pieces + piece
        if not follow:
            return piece
        self._pieces[child] = number, piece
        return None
