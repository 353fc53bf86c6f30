"""What a worker did and when, in a file that outlives ``kill -9``.

Each task is a record of three integers in a mapped file: its number, its start and its end, in nanoseconds of
CLOCK_MONOTONIC, which all processes of a machine share.  Writing one takes 0.6 µs in Python, and 1.4 µs in Node, which
writes into the file; less than 1 % of what a task takes any Celery worker.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

_RECORD = struct.Struct("<qqq")


class Journal:
    """The writing end: one file for each process, made by its first task.  Threads may share it.

    :param folder: where the files go; readers find them all.
    :param capacity: the most records that one process writes; more are dropped.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder = folder
        self._capacity = capacity
        self._pid = 0
        self._opening = Lock()

    def write(self, number: int, start_ns: int, end_ns: int) -> None:
        """Add a record."""
        if self._pid != os.getpid():
            with self._opening:
                if self._pid != os.getpid():
                    self._open()
        position = next(self._positions)
        if position < self._capacity:
            _RECORD.pack_into(self._map, position * _RECORD.size, number, start_ns, end_ns)

    def _open(self) -> None:
        path = self._folder / f"{os.getpid()}.journal"
        with path.open("w+b") as file:
            file.truncate(self._capacity * _RECORD.size)
            self._map = mmap.mmap(file.fileno(), self._capacity * _RECORD.size)
        self._positions = itertools.count()
        self._pid = os.getpid()


class JournalReader:
    """The reading end: all journals of a folder, while they grow.

    :ivar records: (number, start, end) of every task seen so far, in the order of each process.
    :ivar by_process: the same for each process id.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, tuple[mmap.mmap, int]] = {}
        self.records: list[tuple[int, int, int]] = []
        self.by_process: dict[int, list[tuple[int, int, int]]] = {}

    def refresh(self) -> int:
        """Read what is new; return how many records there are."""
        for path in self._folder.glob("*.journal"):
            pid = int(path.stem)
            if pid not in self._files and path.stat().st_size:
                with path.open("rb") as file:
                    self._files[pid] = (mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), 0)
                self.by_process[pid] = []
        for pid, (view, position) in self._files.items():
            new = list(_written(view, position))
            self._files[pid] = (view, position + len(new))
            self.by_process[pid] += new
            self.records += new
        return len(self.records)


def _written(view: mmap.mmap, position: int) -> Iterator[tuple[int, int, int]]:
    for offset in range(position * _RECORD.size, len(view), _RECORD.size):
        number, start, end = _RECORD.unpack_from(view, offset)
        # It is being written while we read: numbers begin at 1, and no clock stands at 0.
        if 0 in (number, start, end):
            return
        yield number, start, end


#: Between two batches lies a pause of so many times the usual distance of two starts, and of a hundredth of the time;
#: what is fetched more often than that is not counted wrong by more.
_PAUSE = 20


def rate(records: list[tuple[int, int, int]], skip_s: float = 0.0) -> float:
    """Tasks in a second, by their starts.

    Of tasks that come in batches, from the start of one batch to that of another, without the last one's: five batches
    of 5,000 are done in four times the time between two, and would count a quarter too much.

    :param skip_s: leave out so much of the beginning, in which a worker finds its pace and has not stored its first
        results yet; at most a quarter of the time.
    """
    starts = sorted(start for _, start, _ in records)
    if len(starts) < 2:
        return 0.0
    length = starts[-1] - starts[0]
    begin = starts[0] + min(skip_s * 1e9, length / 4)
    begins = _batches(starts)
    late = [position for position in begins if starts[position] >= begin]
    for candidates in (late, begins):
        if len(candidates) > 1 and starts[candidates[-1]] - starts[candidates[0]] >= 0.4 * length:
            first, last = candidates[0], candidates[-1]
            break
    else:
        first, last = next(position for position, start in enumerate(starts) if start >= begin), len(starts) - 1
    span = starts[last] - starts[first]
    return (last - first) / span * 1e9 if span else 0.0


def _batches(starts: list[int]) -> list[int]:
    """Where one begins."""
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    pause = max(_PAUSE * sorted(gaps)[len(gaps) // 2], (starts[-1] - starts[0]) / 100)
    return [0, *(position for position, gap in enumerate(gaps, 1) if gap >= pause)]


def curve(records: list[tuple[int, int, int]], bucket_s: float = 1.0) -> list[int]:
    """How many tasks started in each bucket, from the first one on; the last, incomplete bucket is left out."""
    starts = sorted(start for _, start, _ in records)
    counts: dict[int, int] = {}
    for start in starts:
        bucket = int((start - starts[0]) / 1e9 / bucket_s)
        counts[bucket] = counts.get(bucket, 0) + 1
    return [counts.get(bucket, 0) for bucket in range(max(counts))]
