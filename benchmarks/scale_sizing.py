"""From samples to an operator's figures: what ends first on one server, and what three deployments need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.figures import middle
from benchmarks.samples import Samples

#: Connections by pool: those of the main process, and those of each slot that sends tasks (see docs/guides/sizing.md,
#: which a test compares with running workers).
MAIN = 4
SLOT = {"threads": 1, "prefork": 2}
BEAT = 2
#: A web thread that publishes, and its process that waits for results.
CLIENT = 2

_DAY = 86_400
#: The argument's characters that the examples assume.
SIZE = 1_000


@dataclass(frozen=True)
class Deployment:
    """What an operator plans.

    Attributes:
        name: in the table.
        workers: worker processes, all with the pool prefork.
        children: of each.
        rate: tasks a second, published one by one.
        beats: beat processes.
        web: processes of one thread that publish and wait for results.
    """

    name: str
    workers: int
    children: int
    rate: int
    beats: int
    web: int

    def connections(self) -> int:
        """Return the most that it opens."""
        worker = MAIN + SLOT["prefork"] * self.children
        return self.workers * worker + self.beats * BEAT + self.web * CLIENT

    def without_slots(self) -> int:
        """Return the same where no slot has a connection of its own."""
        return self.workers * MAIN + self.beats * BEAT + self.web * CLIENT

    def max_connections(self) -> int:
        """Return what the server should be set to: a quarter more for a rollout, and ten for people and replication."""
        return int(1.25 * self.connections() + 10.5)


EXAMPLES = (
    Deployment("small", workers=2, children=4, rate=10, beats=1, web=4),
    Deployment("middle", workers=20, children=4, rate=500, beats=2, web=20),
    Deployment("big", workers=100, children=4, rate=3_000, beats=2, web=60),
)


class Figures:
    """The measured figures that sizing needs; None for what was not measured.

    Args:
        samples: of a run.
        cores: processors of its machine.
    """

    def __init__(self, samples: Samples, cores: int) -> None:
        self._samples = samples
        self.cores = cores

    def of(self, cell: str, variant: str, key: str) -> float | None:
        """Return the median of a figure."""
        return middle(self._samples.of(cell), variant, key)

    def best(self, cell: str, ending: str, key: str) -> float | None:
        """Return the greatest figure of the variants that end so."""
        return max(self._all(cell, ending, key), default=None)

    def worst(self, cell: str, ending: str, key: str) -> float | None:
        """Return the least."""
        return min(self._all(cell, ending, key), default=None)

    def _all(self, cell: str, ending: str, key: str) -> list[float]:
        results = self._samples.of(cell)
        found = [middle(results, variant, key) for variant in results if variant.endswith(ending)]
        return [one for one in found if one is not None]

    def payload(self, key: str, pages: str = "off", size: int = SIZE) -> float | None:
        """Return a figure of tasks with results."""
        return self.of("payload", f"{size} results {pages}", key)

    def publish_us(self) -> float | None:
        """Return the server's processor time of a publish, of eight publishers without workers."""
        return self.of("publishers", "8 alone", "server_us")

    def run_us(self, workers: int = 1) -> float | None:
        """Return the server's processor time of a run with result and late acknowledgement, of so many workers: one
        has the largest batches."""
        return self.of("workers", str(workers), "server_us")

    def idle_us(self) -> float | None:
        """Return the server's processor time of an idle worker, in a second."""
        workers = max((int(count) for count in self._samples.of("workers")), default=0)
        spent = self.of("workers", str(workers), "idle_server_cores") if workers else None
        return None if spent is None else spent / workers * 1e6


def task_rates(figures: Figures) -> list[tuple[str, float | None, str]]:
    """Return what ends, at how many tasks a second, and how that was found; the lowest comes first."""
    whole = figures.best("workers", "", "rate")
    publish, run = figures.publish_us(), figures.run_us()
    wal = _sum(figures.payload("publish_wal", "on"), figures.payload("run_wal", "on"))
    disk = figures.of("disk", "log", "mb_s")
    server = None if publish is None or run is None else figures.cores / (publish + run) * 1e6
    bulk = None if run is None else figures.cores / run * 1e6
    found: list[tuple[str, float | None, str]] = [
        (
            "wake-ups: a NOTIFY in each commit",
            figures.worst("notify", "notify", "tps"),
            "pgbench, the worst number of clients, two listeners",
        ),
        (
            "publishes beside idle workers",
            figures.best("publishers", "woken", "rate"),
            "eight idle workers, the best number of publishers; they share the processors",
        ),
        (
            "publishes, one by one",
            figures.best("publishers", "alone", "rate"),
            "no worker, the best number of publishers; they share the processors",
        ),
        ("the whole machine at work", whole, "workers, results and late acknowledgement; the queue was full before"),
        (
            "the server's processors",
            server,
            f"computed: {figures.cores} cores, a publish and a run in large batches, workers and publishers elsewhere",
        ),
        ("the server's processors, tasks published in bulk", bulk, "computed: the run alone"),
        ("commits of single rows", figures.best("notify", "plain", "tps"), "pgbench, the best number of clients"),
        (
            "the disk: bytes of WAL",
            None if wal is None or disk is None else disk * 1e6 / wal,
            "computed: what the disk writes a second, by the most WAL of a task of 1 kB",
        ),
    ]
    return sorted((one for one in found if one[1] is not None), key=lambda one: one[1] or 0.0)


def _sum(*parts: float | None) -> float | None:
    return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


#: A row of the examples: its label, and its text for a deployment.
Row = tuple[str, Callable[[Deployment], str]]


def example_rows(figures: Figures) -> Iterable[Row]:
    """Return the rows of the worked examples."""
    main, child = figures.of("pools", "prefork", "main_uss_mb"), figures.of("pools", "prefork", "child_uss_mb")
    session = figures.of("pools", "prefork", "connection_mb")
    few = _sum(figures.payload("publish_wal"), figures.payload("run_wal"))
    many = _sum(figures.payload("publish_wal", "on"), figures.payload("run_wal", "on"))
    kept, waiting = figures.payload("result_bytes"), figures.payload("message_bytes")
    publish, idle, runs = figures.publish_us(), figures.idle_us(), (figures.run_us(1), figures.run_us(10))

    def cores(deployment: Deployment, run: float | None) -> str:
        if publish is None or run is None or idle is None:
            return "-"
        return f"{(deployment.rate * (publish + run) + deployment.workers * idle) / 1e6:.2f}"

    def wal(deployment: Deployment, seconds: int) -> str:
        if few is None or many is None:
            return "-"
        low, high = sorted((few, many))
        return f"{size(low * deployment.rate * seconds)} … {size(high * deployment.rate * seconds)}"

    return [
        ("connections at most", lambda one: f"{one.connections():,}"),
        ("… where tasks send no tasks", lambda one: f"{one.without_slots():,}"),
        ("`max_connections`", lambda one: f"{one.max_connections():,}"),
        ("memory of the server for these connections", lambda one: _size(session, 1e6 * one.connections())),
        (
            "memory of all workers",
            lambda one: (
                "-" if main is None or child is None else size(1e6 * one.workers * (main + child * one.children))
            ),
        ),
        ("WAL a second", lambda one: wal(one, 1)),
        ("WAL a day", lambda one: wal(one, _DAY)),
        ("disk for the results of a day", lambda one: _size(kept, one.rate * _DAY)),
        ("disk for an hour's tasks that wait", lambda one: _size(waiting, one.rate * 3_600)),
        (
            "server's processor cores",
            lambda one: f"{cores(one, runs[0])} … {cores(one, runs[1])}",
        ),
    ]


def _size(each: float | None, count: float) -> str:
    return "-" if each is None else size(each * count)


def size(number: float) -> str:
    """Return bytes for people, in powers of ten."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            found = number / factor
            return f"{found:,.0f} {unit}" if found >= 10 else f"{found:.1f} {unit}"
    return f"{number:.0f} B"
