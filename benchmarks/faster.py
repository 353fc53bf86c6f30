"""Where other systems are faster, and what this project aims at: both from the samples, first on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from benchmarks.cells.fleet import GROWN
from benchmarks.figures import middle, shown
from benchmarks.run import CEILINGS
from benchmarks.samples import Samples

#: (system, label) in the order of the rows.
Order = Sequence[tuple[str, str]]

#: A system that is faster by less is not listed: two medians of three differ by so much by chance.
_MARGIN = 1.05
#: How many systems a row names.
_NAMED = 6


@dataclass(frozen=True)
class Figure:
    """A figure in which systems are compared.

    Attributes:
        label: for the table.
        cell: its cell.
        how: what follows the system's name in the variants; several where systems are asked differently.
        key: of the samples.
        why: why another can be faster, and what would change it.
        less: whether less is better.
        unit: of the number.
    """

    label: str
    cell: str
    how: tuple[str, ...]
    key: str
    why: str
    less: bool = False
    unit: str = "/s"

    def of(self, samples: Samples, name: str) -> float | None:
        """Return the median of a system."""
        results = samples.of(self.cell)
        found = (middle(results, f"{name} {how}".rstrip(), self.key) for how in self.how)
        return next((value for value in found if value), None)


_DISK = "a publish of ours is one commit, on the disk before it returns; Redis and RabbitMQ answer before"
_MESSAGE = "ours is the message that Celery's `apply_async` builds, theirs the arguments; most of our time is its"
_WORKER = "Celery's own worker, which costs two thirds of a task; they fetch and settle hundreds at once"

FIGURES = (
    Figure("published one by one", "enqueue", ("one_by_one",), "rate", f"{_DISK}. For other clients: {_MESSAGE}"),
    Figure("published in bulk", "enqueue", ("in_bulk",), "rate", _MESSAGE),
    Figure("empty tasks, one process", "drain", ("0ms plain",), "rate", _WORKER),
    Figure("tasks of 1 ms, one process", "drain", ("1ms plain",), "rate", "the same, less of it"),
    Figure("empty tasks with results, one process", "drain", ("0ms results",), "rate", "one row more for each"),
    Figure("empty tasks, two processes", "processes", ("plain", "late", "two"), "rate", _WORKER),
    Figure("… with results", "processes", ("results",), "rate", "each result passes a pipe and becomes a row"),
    Figure("… with results, late acks", "processes", ("late-results",), "rate", "the same"),
    Figure(
        "publish to start, idle, p50",
        "latency",
        ("idle",),
        "p50",
        "a commit, a notification, and the claim: two round trips more than a socket that passes a message on",
        less=True,
        unit=" ms",
    ),
    Figure(
        "publish to start, half load, p99",
        "latency",
        ("half",),
        "p99",
        "mostly the producer's delay, which counts from when a call was due; every system has its own load",
        less=True,
        unit=" ms",
    ),
    Figure("`get()`, p50", "get", ("one",), "p50", "a commit before, and one after the task", less=True, unit=" ms"),
    Figure(
        "a chord's last part to its body",
        "chord",
        ("solo",),
        "gap",
        "a commit that counts the part, and one that sends the body",
        less=True,
        unit=" ms",
    ),
    Figure(
        "1 MB published",
        "payload",
        ("1000000",),
        "publish_rate",
        "the payload is in the WAL and in the table before the publish returns",
    ),
    Figure("1 MB done", "payload", ("1000000",), "drain_rate", "Celery puts the JSON of the arguments into JSON"),
    Figure("100,000 waiting", "backlog", ("100000",), "rate", _WORKER),
    Figure("an idle worker, operations", "idle", ("",), "operations_s", "a lease is renewed by each", less=True),
    Figure(
        "an idle worker, memory", "idle", ("",), "rss_mb", "Celery, psycopg2, and two threads", less=True, unit=" MB"
    ),
)


def slower(samples: Samples, order: Order) -> str:
    """Return the table of all figures in which ours is not the fastest by ``_MARGIN``."""
    lines = ["| figure | ours | faster | why |", "|---|---:|---|---|"]
    for figure in FIGURES:
        own = figure.of(samples, "ours")
        if not own:
            continue
        ratios = {
            label: own / found if figure.less else found / own
            for name, label in order
            if name != "ours" and name not in CEILINGS and (found := figure.of(samples, name))
        }
        ahead = sorted((ratio, label) for label, ratio in ratios.items() if ratio >= _MARGIN)[::-1]
        if ahead:
            named = ", ".join(f"{label} {shown(ratio)} x" for ratio, label in ahead[:_NAMED])
            more = f" and {len(ahead) - _NAMED} more" if len(ahead) > _NAMED else ""
            lines.append(f"| {figure.label} | {shown(own)}{figure.unit} | {named}{more} | {figure.why} |")
    return "\n".join(lines) if len(lines) > 2 else ""


# -- targets

#: Returns a figure, or None without samples.
Read = Callable[[Samples], float | None]


def _of(system: str, cell: str, how: str, *keys: str) -> Read:
    """Of several keys the sum."""

    def read(samples: Samples) -> float | None:
        results = samples.of(cell)
        found = [value for key in keys if (value := middle(results, f"{system} {how}", key)) is not None]
        return sum(found) if len(found) == len(keys) else None

    return read


def _against(cell: str, how: str, other: str, other_how: str = "", key: str = "rate") -> Read:
    def read(samples: Samples) -> float | None:
        results = samples.of(cell)
        above, below = (middle(results, name, key) for name in (f"ours {how}", f"{other} {other_how or how}"))
        return above / below if above and below else None

    return read


def _tenth(read: Read) -> Read:
    """Milliseconds of each second, as parts in a hundred."""
    return lambda samples: None if (found := read(samples)) is None else found / 10


def _none(_: Samples) -> None:
    """Nothing to put beside."""


@dataclass(frozen=True)
class Target:
    """A figure that this project holds itself to.

    Attributes:
        label: for the table.
        read: finds it in the samples.
        redis: the same of Celery on Redis, where the figure depends on the machine and the target is not a ratio.
        least: the least that it should be.
        most: the most that it should be.
        unit: of the number.
    """

    label: str
    read: Read
    least: float | None = None
    most: float | None = None
    unit: str = " x"
    redis: Read = _none

    def row(self, found: float, redis: float | None) -> str:
        """Return its row; bold where it is missed."""
        bound = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        missed = (self.least is not None and found < self.least) or (self.most is not None and found > self.most)
        mark = "**" * missed
        beside = "-" if redis is None else f"{shown(redis)}{self.unit}"
        return f"| {self.label} | {bound}{self.unit} | {mark}{shown(found)}{self.unit}{mark} | {beside} |"


def _absolute(label: str, cell: str, how: str, *keys: str, unit: str, **bound: float) -> Target:
    return Target(label, _of("ours", cell, how, *keys), unit=unit, redis=_of("redis", cell, how, *keys), **bound)


def _fleet(count: int) -> tuple[Target, Target]:
    workers = f"{count} idle worker{'s' * (count > 1)}, each"
    keys = (f"worker_ms {count}", f"server_ms {count}")
    ours, redis = (_tenth(_of(system, "fleet", "grown", *keys)) for system in ("ours", "redis"))
    return (
        Target(f"{workers} with its part of the server", ours, most=0.5, unit=" % of a core", redis=redis),
        _absolute(f"{workers}: operations/s", "fleet", "grown", f"operations_each_s {count}", unit="", most=2),
    )


TARGETS = (
    Target("solo, no results, against Redis", _against("drain", "0ms plain", "redis"), least=3),
    Target("… with results", _against("drain", "0ms results", "redis"), least=2.5),
    Target("… of Celery in memory", _against("drain", "0ms plain", "memory"), least=0.5),
    Target("prefork, results, early acks, against Redis", _against("processes", "results", "redis"), least=2.7),
    Target("… late acks", _against("processes", "late-results", "redis"), least=3),
    _absolute(
        "… processor time of a task, its worker and the server",
        "processes",
        "late-results",
        "worker_us",
        "server_us",
        unit=" µs",
        most=480,
    ),
    Target("published one by one, against Redis on no disk", _against("enqueue", "one_by_one", "redis"), least=0.8),
    Target("… against Redis that promises the same", _against("enqueue", "one_by_one", "redis-always"), least=1.6),
    _absolute("1 MB published", "payload", "1000000", "publish_rate", unit="/s", least=70),
    _absolute("publish to start, half load, p99", "latency", "half", "p99", unit=" ms", most=30),
    _absolute("`get()` back to back, solo, p50", "get", "solo", "p50", unit=" ms", most=3),
    _absolute("… threads", "get", "threads", "p50", unit=" ms", most=3),
    _absolute("a chord's last part to its body", "chord", "solo", "gap", unit=" ms", most=10),
    Target("a forgotten transaction, against none", _against("pinned", "pinned", "ours", "clean"), least=0.95),
    Target("1,000,000 waiting, against 1,000", _against("backlog", "1000000", "ours", "1000"), least=0.9),
    *chain.from_iterable(map(_fleet, GROWN)),
)


def targets(samples: Samples) -> str:
    """Return the table of what this project aims at; a figure that misses its bound is bold."""
    rows = [
        target.row(found, target.redis(samples)) for target in TARGETS if (found := target.read(samples)) is not None
    ]
    return "\n".join(["| figure | target | here | Celery on Redis |", "|---|---:|---:|---:|", *rows]) if rows else ""
